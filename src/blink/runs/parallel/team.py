"""Several processes of one command: the first does all that one alone does, the others a part of its work when it asks them to.

The command starts the others itself, or torchrun has started all of them. Messages between them are JSON objects in
torch's `TCPStore`, so that machines need no folder in common for them. A process that ends takes all others with it.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from torch import distributed

from blink.runs.machine import launched_processes
from blink.runs.parallel.ahead import ProcessError
from blink.runs.signals import Stopped, ending_on_signals, leave_to_parent, signals_blocked
from blink.runs.values import UserError

Message = dict[str, Any]

END = "end"
"""Key of the message with which the first process lets the others go."""

FAILED, MISTAKE, STOPPED = "failed", "mistake", "stopped"
"""Keys of messages of a process that cannot go on: because of an error of any kind, a user's mistake, or a signal."""

_POLL_SECONDS = 0.02
_PATIENCE = timedelta(minutes=30)
_GRACE_SECONDS = 15.0

_SAME_SIGNAL_SECONDS = 3.0
"""A signal to all processes reaches them within this time: one that was stopped longer ago was stopped alone."""


class PostError(ProcessError):
    """Messages cannot be sent or taken any more."""


class Post:
    """Messages from and to one of several processes; those of one sender arrive in the order in which they were sent.

    Args:
        store: that all processes have.
        rank: of this one.

    Raises:
        PostError: by all methods, where the process that keeps the store is gone.
    """

    def __init__(self, store: distributed.Store, rank: int) -> None:
        self.rank = rank
        self._store, self._sent, self._taken = store, Counter[int](), Counter[int]()

    def send(self, receiver: int, message: Mapping[str, Any]) -> None:
        """Leave a message for another process."""
        with _store_errors():
            self._store.set(f"{self.rank}>{receiver}/{self._sent[receiver]}", json.dumps(message))
        self._sent[receiver] += (
            1  # last: a signal may come in between, and a number left out would hide all that follow
        )

    def take(self, sender: int) -> Message | None:
        """The next message of another process; None if there is none yet."""
        key = f"{sender}>{self.rank}/{self._taken[sender]}"
        with _store_errors():
            if not self._store.check([key]):
                return None
            self._taken[sender] += 1
            message: Message = json.loads(self._store.get(key))
            self._store.delete_key(key)
        return message


@contextmanager
def _store_errors() -> Iterator[None]:
    """Turn errors of a store that is gone into `PostError`."""
    try:
        yield
    except RuntimeError as error:  # torch's DistError among them
        raise PostError(
            "the process that keeps the messages of all others (torchrun, or the first) has ended; what is written is kept, and "
            "the same command goes on"
        ) from error


class Team:
    """The other processes as the first one sees them.

    Args:
        processes: how many there are with the first.
        module: run by each that is started here, with this process's number as its argument, for `serve`; not read where
            torchrun has started them.

    Raises:
        ProcessError: by all methods, where one of them has ended or failed.
        UserError: where one of them found a user's mistake.
    """

    def __init__(self, processes: int, module: str) -> None:
        self.processes = processes
        self.launched = launched_processes() > 1
        self._children: list[subprocess.Popen[bytes]] = []
        self._stopped: dict[int, tuple[str, float]] = {}
        if self.launched:
            self._post = Post(_common_store(), 0)
            self._parent = os.getppid()
            return
        store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._post = Post(_of_this_attempt(store), 0)
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": str(processes)}
        with signals_blocked():  # until `serve` has said what becomes of them
            for rank in map(str, range(1, processes)):
                self._children.append(
                    subprocess.Popen(
                        [sys.executable, "-m", module, str(os.getpid())],
                        env={**os.environ, **place, "RANK": rank, "LOCAL_RANK": rank},
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                    )
                )

    @property
    def others(self) -> Sequence[int]:
        """Ranks of the others."""
        return range(1, self.processes)

    def send(self, rank: int, message: Mapping[str, Any]) -> None:
        """Send one of the others a message."""
        self._post.send(rank, message)

    def arrived(self) -> Iterator[tuple[int, Message]]:
        """Messages that have arrived, with who sent them."""
        for rank in self.others:
            code = self._ended(rank)  # before its last messages are read
            while (message := self._post.take(rank)) is not None:
                if MISTAKE in message:
                    raise UserError(message[MISTAKE])
                if FAILED in message:
                    raise ProcessError(f"process {rank} of {self.processes} failed: {message[FAILED]}")
                if STOPPED in message:
                    self._stopped[rank] = (message[STOPPED], time.monotonic())
                    continue
                yield rank, message
            if code is not None:
                how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                raise ProcessError(
                    f"process {rank} of {self.processes} has ended ({how}); what is written is kept, and the same "
                    "command goes on"
                )

    @property
    def stopped(self) -> Set[int]:
        """Ranks of those that have ended because of a signal."""
        return self._stopped.keys()

    def check_stopped(self) -> None:
        """Raise ProcessError where one of the others was stopped by a signal that has not come to this process, too."""
        for rank, (name, since) in self._stopped.items():
            if time.monotonic() - since > _SAME_SIGNAL_SECONDS:
                raise ProcessError(
                    f"process {rank} of {self.processes} was stopped by {name}; what is written is kept, and the same command "
                    "goes on"
                )

    def wait(self) -> None:
        """Wait a moment for messages."""
        time.sleep(_POLL_SECONDS)
        if self.launched and os.getppid() != self._parent:
            raise ProcessError("the process that started this one has ended")

    def end(self) -> None:
        """Let the others go, at the latest after a few seconds."""
        with suppress(RuntimeError):  # the store is gone
            for rank in self.others:
                self._post.send(rank, {END: True})
        until = time.monotonic() + _GRACE_SECONDS
        for child in self._children:
            with suppress(subprocess.TimeoutExpired):
                child.wait(max(0.0, until - time.monotonic()))
            child.kill()
            child.wait()

    def _ended(self, rank: int) -> int | None:
        """The exit code of one that was started here; None while it works."""
        return self._children[rank - 1].poll() if self._children else None


_teams: list[Team] = []


def team(processes: int, module: str) -> Team:
    """The others of so many processes, started when they are needed first; until `end_teams`.

    Args:
        module: see `Team`.
    """
    for known in _teams:
        if known.processes == processes:
            return known
    _end_known()
    _teams.append(Team(processes, module))
    return _teams[-1]


def end_teams() -> None:
    """Let all others go, at the end of a command; those that torchrun has started wait for it, whether or not they had work."""
    if not _teams and launched_processes() > 1:
        _teams.append(Team(launched_processes(), ""))
    _end_known()


def _end_known() -> None:
    """Let go those that have had work; of those that torchrun has started none, before their first work."""
    while _teams:
        _teams.pop().end()


class Work:
    """What one of the others is asked to do, as it sees it.

    Attributes:
        message: of the first process.
    """

    def __init__(self, post: Post, message: Message) -> None:
        self._post, self.message = post, message
        self.last = False

    def send(self, message: Mapping[str, Any]) -> None:
        """Send the first process a message."""
        self._post.send(0, message)

    def taken_back(self) -> bool:
        """Whether the first process has sent another message meanwhile, which asks to leave the rest."""
        message = self._post.take(0)
        if message is not None:
            self.last = END in message
        return message is not None


def serve(do: Callable[[Work], None], *, parent: int | None = None) -> None:
    """Do what the first process asks for, until it lets this one go: all that a process but the first does.

    Args:
        do: called for each message; what it raises goes to the first process.
        parent: number of the process whose `Team` has started this one; None: torchrun has.
    """
    if parent is not None:
        leave_to_parent()
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with ending_on_signals():
        post = Post(_common_store(), int(os.environ["RANK"]))
        try:
            _serve(post, do)
        except Stopped as stopped:
            with suppress(PostError):  # its exit code tells torchrun nothing
                post.send(0, {STOPPED: signal.Signals(stopped.number).name})
            raise
        except PostError as error:
            sys.exit(f"error: {error}")


def _serve(post: Post, do: Callable[[Work], None]) -> None:
    while True:
        message = post.take(0)
        if message is None:
            time.sleep(_POLL_SECONDS)
            continue
        if END in message:
            return
        work = Work(post, message)
        try:
            do(work)
        except (Stopped, PostError):
            raise
        except UserError as error:
            work.send({MISTAKE: str(error)})
        except Exception as error:
            traceback.print_exc()
            work.send({FAILED: f"{type(error).__name__}: {' '.join(str(error).split())}"})
        if work.last:
            return


def _common_store() -> distributed.Store:
    """The store that the environment names, as launchers set it."""
    store, _, _ = next(distributed.rendezvous("env://", timeout=_PATIENCE))
    return _of_this_attempt(store)


def _of_this_attempt(store: distributed.Store) -> distributed.Store:
    """A part of a store of our own.

    torchrun keeps its store when it starts all processes again (`--max-restarts`), with the messages of those before.
    """
    return distributed.PrefixStore(f"blink{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _end_with(parent: int) -> None:
    """End this process once its parent is gone, which may be too sudden for a message."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
