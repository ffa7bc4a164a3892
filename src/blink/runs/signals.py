"""Ctrl-C, SIGTERM and what else asks a command to end: a safe point is reached, one line is said, the exit code is 128 + the signal's number.

`ending_on_signals` is around every command: inside it such a signal raises `Stopped` where the command is. Work with
safe points (a finished picture, an optimizer step) runs inside `finishing_first`, which puts that off until the work
itself asks. Processes that only read data leave signals to the process that started them (`leave_to_parent`).
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from blink.runs.machine import is_first_process

STOPPING = tuple(
    signal.Signals[name]
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
    if name in signal.Signals.__members__
)
"""Ctrl-C, the warning of schedulers and containers, a closed terminal, and the warning that SLURM can be told to send."""

_SAME_REQUEST_SECONDS = 2.0
"""`timeout` and schedulers signal a process and then its group: what comes within this time is no second request."""

_LOOK_SECONDS = 2.0
"""Between two looks of a worker at whether its parent is still there."""

_PARENT = os.getppid()


class Stopped(SystemExit):
    """Raised when a signal asks the command to end; its exit code is 128 + the signal's number: 130, 143.

    Args:
        number: of the signal.
        reached: how far the command came and what is saved, for the line that is said about it.
    """

    def __init__(self, number: int, reached: str = "") -> None:
        super().__init__(128 + number)
        self.number, self.reached = number, reached

    def __str__(self) -> str:
        reached = f": {self.reached}" if self.reached else ""
        return f"stopped by {signal.Signals(self.number).name}{reached}; the same command goes on"


class _Requests:
    """The request to end, if there is one, of this process."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.number: int | None = None
        self.arrived = 0.0
        self.deferrals = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: raise `Stopped`, or note it for `Pending`. A second request ends the process at once."""
        if os.getpid() != self.process:
            return  # a process forked a moment ago, before `leave_to_parent`
        if self.number is not None:
            if time.monotonic() - self.arrived > _SAME_REQUEST_SECONDS:
                signal.signal(number, signal.SIG_DFL)
                os.kill(self.process, number)
            return
        self.number, self.arrived = number, time.monotonic()
        if not self.deferrals:
            raise Stopped(number)


_requests: _Requests | None = None


class Pending:
    """Whether a signal has asked the command to end, for work inside `finishing_first`."""

    @property
    def requested(self) -> bool:
        return _requests is not None and _requests.number is not None

    def end(self, reached: str = "") -> NoReturn:
        """End here, whether or not it was this one of several processes that the signal came to.

        Raises:
            Stopped: always.
        """
        number = None if _requests is None else _requests.number
        raise Stopped(number or signal.SIGTERM, reached)

    def check(self, reached: str = "") -> None:
        """End here if that was asked for.

        Args:
            reached: as for `Stopped`.

        Raises:
            Stopped: a signal has arrived since the command began.
        """
        if self.requested:
            self.end(reached)


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """Context of a whole command: signals end it with one line on stderr, which the first of several processes says.

    Signals that this process was started to ignore stay ignored (`nohup`, jobs in the background of a script). Does
    nothing outside the main thread, where Python handles no signals.
    """
    global _requests
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, earlier = {number: signal.getsignal(number) for number in STOPPING}, _requests
    _requests = _Requests()
    take_signals()
    try:
        yield
    except Stopped as stopped:
        if is_first_process():
            with suppress(OSError, ValueError):  # a terminal that is gone
                print(stopped, file=sys.stderr, flush=True)
        else:
            stopped.code = 0  # or a launcher kills the first process, which is about to say so
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _requests = earlier


def take_signals() -> None:
    """Handle signals here again, after a library has put its own handlers in place; outside of a command nothing is done."""
    if _requests is None or os.getpid() != _requests.process:
        return
    if threading.current_thread() is threading.main_thread():
        for number in STOPPING:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, _requests)


@contextmanager
def finishing_first() -> Iterator[Pending]:
    """Context of work that ends at its own safe points: it asks what it is given, often, whether to.

    Raises:
        Stopped: when the work is done, if a signal came too late for its last question.
    """
    if _requests is not None:
        _requests.deferrals += 1
    requests = _requests
    try:
        yield Pending()
    finally:
        if requests is not None:
            requests.deferrals -= 1
    if requests is not None and not requests.deferrals:
        Pending().check()


def wait_for_others(seconds: float) -> None:
    """Sleep while another of several processes does the work, before looking again.

    Raises:
        Stopped: a signal asks this process to end.
        SystemExit: the process that started this one is gone, so that nobody may be at work any more.
    """
    time.sleep(seconds)
    if os.getppid() != _PARENT:
        sys.exit("error: the process that started this one has ended")
    Pending().check()


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Context in which processes are started that will call `leave_to_parent`: no signal reaches them before."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def leave_to_parent(*_: Any) -> None:
    """Heed signals of the parent process alone, in one that ends with its parent; serves as a DataLoader's `worker_init_fn`.

    Ctrl-C in a terminal and `kill -TERM -GROUP` reach all processes of a group: a worker that died of it would make the
    loader raise wherever the parent is. The parent's own SIGTERM means that this process is not needed any more.
    """
    if not hasattr(signal, "sigwaitinfo"):  # macOS does not tell who sent a signal
        for number in STOPPING:
            if number != signal.SIGTERM:
                signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    starter = multiprocessing.parent_process()
    parent = (
        os.getppid() if starter is None or starter.pid is None else starter.pid
    )  # it may have gone meanwhile
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """Wait for a signal from `parent`, or for its end, and end this process.

    A parent that was killed sends nothing, and a worker that was about to send it something then waits for ever: of a pipe
    that is full it holds the reading end, too.
    """
    while os.getppid() == parent:
        found = signal.sigtimedwait(STOPPING, _LOOK_SECONDS)
        if found is not None and found.si_pid == parent:
            break
    os._exit(0)  # as torch's workers do; another code would be reported as an error
