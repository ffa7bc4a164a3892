"""One process at a time in a run folder: a lock file beside it, taken over from processes that are gone.

The lock of `outputs/eval/NAME` is `outputs/eval/.NAME.lock` and says which process holds it. It is made whole in one
step (a hard link to a written file, or an exclusive creation where there are no hard links), which network file systems
promise, too. A process of this machine that holds a lock is gone if its number or its time of start is; one of another
machine is taken for gone when it has not touched its lock for five minutes, by the clock of the file system. Whoever
finds a lock of such a process replaces it, under a lock of its own that is named after the one replaced, so that of
many processes only one does.
"""

import _thread
import atexit
import errno
import glob
import json
import logging
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, astuple, dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path

from blink.runs.files import place_named, short_digest
from blink.runs.signals import finishing_first
from blink.runs.values import UserError

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 30.0
"""A process touches its locks this often."""

SILENT_SECONDS = 300.0
"""A process of another machine that has not touched its lock for so long is taken for gone."""

LOCK = ".lock"
"""Ending of lock files, and the name of one inside a folder."""

_UNREADABLE_SECONDS = 10.0
"""A lock file without content is being written, or was left so by a power failure; after so long it is the latter."""

_POLL_SECONDS = 1.0
_LONGEST_NAME, _LONGEST_COMMAND = 200, 200
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock, as its file says.

    Attributes:
        token: of this lock alone.
        host: its machine's name.
        machine: tells apart machines, their starts, and containers, whose process numbers have nothing to do with each other.
        pid: its number; 0 if the file does not say.
        started: when it was started, as the system says it.
        since: when it took the lock.
        command: its command line.
    """

    token: str
    host: str = ""
    machine: str = ""
    pid: int = 0
    started: str = ""
    since: str = ""
    command: str = ""

    def __str__(self) -> str:
        if not self.pid:
            return "a process that has not said yet which it is"
        command = self.command
        if len(command) > _LONGEST_COMMAND:
            command = f"{command[:_LONGEST_COMMAND]} ..."
        return f"process {self.pid} on {self.host} since {self.since} ({command})"


_NONE = Holder("")


@dataclass
class _Held:
    """A lock of this process, and the folders that were made for its file."""

    path: Path
    holder: Holder
    made: list[Path]
    lost: bool = False


@dataclass
class _Scope:
    held: dict[Path, _Held] = field(default_factory=dict)


_scopes = [_Scope()]
"""Open scopes, the innermost last; the first one ends with the process."""


@contextmanager
def lock_scope() -> Iterator[None]:
    """Context at whose end all locks are released that were taken in it."""
    _scopes.append(_Scope())
    try:
        yield
    finally:
        _release(_scopes.pop())


def lock(target: Path, *, wait: bool = False) -> None:
    """Let no other process write to a folder or file until the scope ends in which this is called, or the process.

    A process that has it already takes nothing.

    Args:
        target: need not exist.
        wait: until another process has released it.

    Raises:
        ValueError: another process has it, and `wait` is false; says which.
        OSError: the lock's file cannot be written.
    """
    target = target.resolve()
    if any(target in scope.held for scope in _scopes):
        return
    told = False
    while True:
        with finishing_first():  # a signal between taking a lock and noting that would leave its file
            taken, other = _take(target)
            if taken is not None:
                _scopes[-1].held[target] = taken
                _heart.start()
                return
        if not wait:
            raise UserError(f"{target} is in use by {other}; wait=true waits until it is done")
        if not told:
            log.info("waiting for %s, which writes into %s", other, target)
            told = True
        time.sleep(_POLL_SECONDS)


def lock_file(target: Path) -> Path:
    """Where the lock of a folder or file lies: beside it, since a folder may be moved while it is locked.

    A folder that lies where nothing may be written, as a mounted one does, has it inside.
    """
    if target.is_dir() and not os.access(target.parent, os.W_OK):
        return target / LOCK
    name = target.name
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = short_digest(name)
    return target.with_name(f".{name}{LOCK}")


def _take(target: Path) -> tuple[_Held | None, Holder | None]:
    """Take the lock of a resolved path; else say who has it."""
    held = _Held(lock_file(target), _this_process(), [])
    try:
        while True:
            held.made += _make_folders(held.path.parent)
            try:
                other = _take_file(held.path, held.holder)
                break
            except (
                FileNotFoundError
            ):  # another process removed the folder, which it had made for its own lock
                continue
    except OSError:
        _remove_empty(held.made)
        raise
    if other is not None:
        return None, other
    _remove_left_over(held.path)
    return held, None


def _take_file(path: Path, mine: Holder) -> Holder | None:
    """Make a lock file for `mine`, or put it in the place of one whose process is gone; return who else has it, or None."""
    draft = path.with_name(f"{path.name}.{mine.token}")
    with place_named(path):
        draft.write_text(json.dumps(asdict(mine)), encoding="utf-8")
    try:
        while True:
            if _linked(draft, path):
                return None
            found = _read(path)
            if found is None:
                continue  # released just now
            other, touched = found
            os.utime(draft)
            if not _is_gone(other, draft.stat().st_mtime - touched):
                return other
            # of all that find it so only one replaces it; who comes late finds another holder
            taking_over = path.with_name(f"{path.name}.{other.token}.taken")
            if _take_file(taking_over, _this_process()) is not None:
                time.sleep(0.01)
                continue
            try:
                now = _read(path)
                if now is not None and now[0].token == other.token:
                    log.info("taking over the lock of %s, which is gone", other)
                    draft.replace(path)
                    return None
            finally:
                taking_over.unlink(missing_ok=True)
    finally:
        draft.unlink(missing_ok=True)


def _linked(draft: Path, path: Path) -> bool:
    """Give a written file a second name, which must be free; say whether it was."""
    try:
        os.link(draft, path)
        return True
    except FileExistsError:
        return draft.stat().st_nlink > 1  # NFS may repeat a request whose reply was lost
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(draft.read_text(encoding="utf-8"))
        return True
    except FileExistsError:
        return False


def _read(path: Path) -> tuple[Holder, float] | None:
    """Return a lock file's holder and when it was touched last; None if there is no such file.

    Of a file that says nothing the token is made up of when it was written.
    """
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            status, content = os.fstat(file.fileno()), file.read()
    except FileNotFoundError:
        return None
    with suppress(ValueError, TypeError):
        holder = Holder(**json.loads(content))
        if all(
            type(value) is type(of_none)
            for value, of_none in zip(astuple(holder), astuple(_NONE), strict=True)
        ):
            return holder, status.st_mtime
    return replace(_NONE, token=f"{status.st_mtime_ns:x}"), status.st_mtime


def _is_gone(holder: Holder, silent: float) -> bool:
    """Whether a lock's process has ended, or is taken for that.

    Args:
        silent: seconds since the lock was touched.
    """
    silent = abs(silent)  # a lock that was touched in the future is no better
    if not holder.pid:
        return silent > _UNREADABLE_SECONDS
    if (holder.host, holder.machine) != (socket.gethostname(), _machine()):
        return silent > SILENT_SECONDS
    if (
        holder.pid == os.getpid()
    ):  # of a program that this process ran before: locks that it holds are not asked for
        return not any(held.holder == holder for scope in _scopes for held in scope.held.values())
    started = _started(holder.pid)
    return started is None or bool(started and holder.started and started != holder.started)


def _remove_left_over(path: Path) -> None:
    """Remove what processes left beside a lock of which a kill took them in the middle of taking it."""
    now = path.stat().st_mtime
    for left in path.parent.glob(f"{glob.escape(path.name)}.*"):
        found = _read(left)
        if found is not None and _is_gone(found[0], now - found[1]):
            left.unlink(missing_ok=True)


def _make_folders(folder: Path) -> list[Path]:
    """Make a folder and those that it lies in; return those that were missing, the deepest last."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()][::-1]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders, the last one first, up to the first one that holds something."""
    with suppress(OSError):
        for folder in reversed(folders):
            folder.rmdir()


def _release(scope: _Scope) -> None:
    while scope.held:
        _, held = scope.held.popitem()
        if held.holder.pid != os.getpid():
            continue  # this process was forked by the one that holds it
        with _heart.still, suppress(OSError):
            found = _read(held.path)
            if found is not None and found[0].token == held.holder.token:
                held.path.unlink()
        _remove_empty(held.made)


@atexit.register
def _release_all() -> None:
    while _scopes:
        _release(_scopes.pop())


class _Heart:
    """A thread that touches the locks of this process; not while `still` is held."""

    def __init__(self) -> None:
        self.still = threading.Lock()
        self._thread: threading.Thread | None = None
        self._pid = 0

    def start(self) -> None:
        """Begin, unless it beats in this process already."""
        if self._thread is None or not self._thread.is_alive() or self._pid != os.getpid():
            self._pid = os.getpid()
            self._thread = threading.Thread(target=self._beat, name="locks", daemon=True)
            self._thread.start()

    def _beat(self) -> None:
        while True:
            time.sleep(HEARTBEAT_SECONDS)
            for scope in list(_scopes):
                for target, held in list(scope.held.items()):
                    with self.still, suppress(OSError):
                        if target in scope.held and not held.lost:
                            _touch(held)


_heart = _Heart()


def _touch(held: _Held) -> None:
    """Show that this process lives; end it at its next safe point if another one has taken over, which took it for gone."""
    found = _read(held.path)
    if found is not None and found[0].token == held.holder.token:
        os.utime(held.path)
        return
    other = _take_file(held.path, held.holder) if found is None else found[0]
    if other is not None:
        held.lost = True
        log.error(
            "the lock of this run has been taken over by %s, for this process had not touched it for %.0f s: ending here",
            other,
            SILENT_SECONDS,
        )
        _thread.interrupt_main(signal.SIGTERM)


def _this_process() -> Holder:
    return Holder(
        token=secrets.token_hex(8),
        host=socket.gethostname(),
        machine=_machine(),
        pid=os.getpid(),
        started=_started(os.getpid()) or "",
        since=datetime.now().astimezone().isoformat(" ", "seconds"),
        command=" ".join(shlex.join(sys.orig_argv).split()),
    )


@lru_cache(maxsize=1)
def _machine() -> str:
    """This start of this machine, and the space of its process numbers; empty where the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When a process of this machine was started, as text that equals for equal starts; empty if unknown, None if it is gone.

    A process that has ended and that its parent has not asked about yet is gone.
    """
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        fields = status.rpartition(")")[2].split()  # the name before may hold anything
        return None if fields[0] in "ZX" else fields[19]
    except (FileNotFoundError, ProcessLookupError):
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    if sys.platform == "linux":
        return ""  # /proc hides other users' processes
    told = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    state, _, started = told.stdout.strip().partition(" ")
    return None if state.startswith("Z") else started.strip()
