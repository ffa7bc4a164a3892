"""Names and folders: which files lie below a folder, and where a name that stands in a data file may lead.

Names are names: none of them is taken for a pattern. Links to folders are followed.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path, PureWindowsPath

from blink.runs.values import UserError

log = logging.getLogger(__name__)

_LEFT_BEHIND = frozenset({".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX"})


def left_behind(name: str) -> bool:
    """Whether a name is not one of the data's, but of what macOS and Windows leave in folders and archives."""
    return name.startswith("._") or name in _LEFT_BEHIND


def files_below(root: Path, wanted: Callable[[str], bool]) -> list[Path]:
    """Find the files below a folder whose names are wanted, at any depth, sorted by path.

    Links to folders are followed. Each folder is read once, under its own name where it lies below `root`, so that cycles
    end; folders that `root` lies in are not read. Names as in `left_behind` and links without a file behind them are
    passed over, which is logged with their number.

    Raises:
        UserError: a folder cannot be read; says which.
    """
    read = {_identity(folder) for folder in Path(os.path.realpath(root)).parents}
    found: list[str] = []
    junk: list[str] = []
    dead: list[str] = []
    folders, links = [str(root)], list[str]()
    while folders or links:
        links.sort()  # which name a folder gets that several links lead to must not depend on the disk's order
        folder = folders.pop() if folders else links.pop(0)
        known = _identity(folder)
        if known in read:
            continue
        read.add(known)
        for entry in _entries(folder):
            if left_behind(entry.name):
                junk.append(entry.path)
            elif _is(entry.is_dir):
                (links if entry.is_symlink() else folders).append(entry.path)
            elif wanted(entry.name):
                (found if _is(entry.is_file) else dead).append(entry.path)
    if junk:
        _say_once(f"{root}: passed over {_counted(junk)} that macOS or Windows left there")
    if dead:
        _say_once(f"{root}: passed over {_counted(dead)} with no file behind the name")
    return sorted(map(Path, found))


def leads_out(name: str) -> bool:
    """Whether a name, as it is written, leads out of the folder that it is relative to.

    It does if it is absolute, has a drive, or steps up further than down, with either kind of slash; where links
    inside the folder lead is their owner's business.
    """
    if not (".." in name or ":" in name or "\\" in name or name.startswith("/")):
        return False  # all but a few of many names
    path = PureWindowsPath(name)  # knows both kinds of slashes, and drives
    depth = 0
    for part in path.parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return True
    return bool(path.anchor)


def check_name(name: object, where: str, *, outside: bool = False) -> str:
    """Return a file's name that stands in a data file.

    Args:
        where: it stands, for messages.
        outside: whether it may lead out of the data folder.

    Raises:
        UserError: it is no text, or empty, or leads out of the folder and may not.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise UserError(f"{where}: expected the name of a picture file, found {name!r}")
    if leads_out(name) and not outside:
        raise UserError(
            f"{where}: {name!r} leads out of the data folder; data.allow_outside=true reads it all the same"
        )
    return name


def find_file(folders: Sequence[Path], name: str) -> Path | None:
    """Return where a file is, in the first of the folders that has it; None if none has."""
    return next((folder / name for folder in folders if _is((folder / name).is_file)), None)


def look_alikes(folders: Sequence[Path], name: str) -> list[Path]:
    """Return files that are called like a missing one but for their ending, or its case."""
    places = dict.fromkeys((folder / name).parent for folder in folders)
    stem = Path(name).stem.lower()
    return sorted(
        Path(entry.path)
        for place in places
        if _is(place.is_dir)
        for entry in _entries(str(place))
        if Path(entry.name).stem.lower() == stem and not left_behind(entry.name) and _is(entry.is_file)
    )


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError as cause:
        raise UserError(f"cannot read the folder {folder}: {cause.strerror}") from cause


def _identity(folder: str | Path) -> tuple[int, int]:
    state = os.stat(folder)
    return state.st_dev, state.st_ino


def _is(question: Callable[[], bool]) -> bool:
    """The answer of `is_file` or `is_dir`; no for names that are too long and links that lead to themselves."""
    try:
        return question()
    except OSError:
        return False


def _counted(paths: Sequence[str]) -> str:
    return f"{len(paths):,} file{'s' * (len(paths) > 1)} ({min(paths)}{' ...' * (len(paths) > 1)})"


@cache
def _say_once(line: str) -> None:
    """Log a line that several searches of one folder would repeat."""
    log.warning("%s", line)
