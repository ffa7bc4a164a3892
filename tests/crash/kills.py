"""Real commands, ended from outside: at a moment, while a file is being written, or by a signal that asks."""

import fnmatch
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

PARTIAL = ".partial"


class Ended:
    """A command that has ended: its exit code, negative after a signal, and what it said."""

    def __init__(self, code: int, out: str, said: str) -> None:
        self.code, self.out, self.said = code, out, said


def command(
    *arguments: str,
    until: Callable[[float], bool] | None = None,
    number: signal.Signals = signal.SIGKILL,
    group: bool = True,
    limit_bytes: int | None = None,
    cwd: Path | None = None,
    temporary: Path | None = None,
    timeout: float = 300,
) -> Ended:
    """Run `python ARGUMENTS`, and send a signal once something is the case.

    Args:
        until: asked again and again with the seconds since the start; None lets the command run to its end.
        number: the signal.
        group: whether all its processes get it.
        limit_bytes: beyond which no file grows, as on a full disk.
        temporary: the system's temporary folder as the command sees it.
    """
    shell = "" if limit_bytes is None else f"ulimit -f {limit_bytes // 512}; "
    process = subprocess.Popen(
        ["sh", "-c", shell + 'exec "$@"', "sh", sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=os.environ | ({} if temporary is None else {"TMPDIR": str(temporary)}),
        start_new_session=True,
    )
    try:
        start = time.monotonic()
        while until is not None and process.poll() is None:
            if until(time.monotonic() - start):
                (os.killpg if group else os.kill)(process.pid, number)
                break
            time.sleep(0.0005)
        out, said = process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return Ended(process.returncode, out, said)


def at_random(moments: np.random.Generator, seconds: float) -> Callable[[float], bool]:
    """A moment in the first `seconds`."""
    moment = float(moments.uniform(0, seconds))
    return lambda since: since > moment


def in_writing(folder: Path, name: str, moments: np.random.Generator) -> Callable[[float], bool]:
    """A moment at which a file is being written: one whose name matches, anywhere in a folder that may not be there yet."""
    pause = float(moments.uniform(0, 0.02))

    def reached(since: float) -> bool:
        if not _holds(folder, f"{name}*{PARTIAL}"):
            return False
        time.sleep(pause)
        return True

    return reached


def once_there(folder: Path, name: str) -> Callable[[float], bool]:
    """The moment at which a file appears."""
    return lambda since: _holds(folder, name)


def _holds(folder: Path, pattern: str) -> bool:
    """Whether a file or folder of that name lies in a folder, whose sub-folders another process may rename meanwhile."""
    walked = os.walk(folder)  # pathlib's rglob raises where a folder is gone before it is read
    return any(fnmatch.filter([*folders, *files], pattern) for _, folders, files in walked)


def files_in(folder: Path) -> list[str]:
    """All files and folders in a folder, at any depth."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def said_in_one_line(said: str, progress: Sequence[str] = ("Loading weights",)) -> str:
    """The one line on stderr that is no progress bar; fails if there are more."""
    lines = [line for line in said.replace("\r", "\n").splitlines() if line.strip()]
    left = [line for line in lines if not line.startswith(tuple(progress))]
    assert len(left) == 1, said
    return left[0]
