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
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from blink.runs.files import make_folder, place_named, remove_partial, short_digest
from blink.runs.machine import Holder, has_ended, this_process
from blink.runs.signals import finishing_first
from blink.runs.values import UserError, fits

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
_LONGEST_NAME = 200
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


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
                _remove_partial(target)
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
    held = _Held(lock_file(target), this_process(), [])
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
            if _take_file(taking_over, this_process()) is not None:
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
        if all(fits(getattr(holder, name), kind) for name, kind in get_type_hints(Holder).items()):
            return holder, status.st_mtime
    return Holder(f"{status.st_mtime_ns:x}"), status.st_mtime


def _is_gone(holder: Holder, silent: float) -> bool:
    """Whether a lock's process has ended, or is taken for that.

    Args:
        silent: seconds since the lock was touched.
    """
    silent = abs(silent)  # a lock that was touched in the future is no better
    ended = has_ended(holder)
    if ended is None:
        return silent > (SILENT_SECONDS if holder.pid else _UNREADABLE_SECONDS)
    return ended and not any(held.holder == holder for scope in _scopes for held in scope.held.values())


def _remove_left_over(path: Path) -> None:
    """Remove what processes left beside a lock of which a kill took them in the middle of taking it."""
    now = path.stat().st_mtime
    for left in path.parent.glob(f"{glob.escape(path.name)}.*"):
        found = _read(left)
        if found is not None and _is_gone(found[0], now - found[1]):
            left.unlink(missing_ok=True)


def _remove_partial(target: Path) -> None:
    """Remove halves of files that killed processes left in a locked folder, or of a locked file."""
    with suppress(OSError):  # who may not remove them may not write there, and is told so then
        if target.is_dir():
            remove_partial(target)
        else:
            remove_partial(target.parent, target.name)


def _make_folders(folder: Path) -> list[Path]:
    """Make a folder and those that it lies in; return those that were missing, the deepest last."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()][::-1]
    make_folder(folder)
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


@dataclass
class _Heart:
    """A thread that touches the locks of this process; not while `still` is held."""

    still: Any = field(default_factory=threading.Lock)
    _thread: threading.Thread | None = None
    _pid: int = 0

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
