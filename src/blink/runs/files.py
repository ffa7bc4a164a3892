"""Files that neither other processes nor a start after a power failure see half written: text, JSON, CSV."""

import csv
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_PARTIAL = ".partial"

_REMEDIES = {
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG): "make room there",
    (errno.EACCES, errno.EPERM, errno.EROFS): "give this user the right to it",
    (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY): "move away what lies there",
    (errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV, errno.ETIMEDOUT, errno.ENOTCONN): "see to that disk",
    (errno.ENAMETOOLONG, errno.ELOOP): "give another path",
}
"""Error numbers that tell of a place, and not of the program, and what helps."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Context that gives a temporary path beside `path` to write to, and at the end renames it to `path`.

    So readers see the old content or the new, also after a kill, a full disk or a power failure. After an error the
    temporary file is removed; that of a killed process is left to `remove_partial`.

    Raises:
        OSError: it cannot be written; names the path.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}{_PARTIAL}")
    try:
        with place_named(path):
            yield partial
            flush_to_disk(
                partial
            )  # before its name is, or a power failure leaves the name without the content
            partial.replace(path)
            flush_to_disk(path.parent)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


@contextmanager
def place_named(path: Path) -> Iterator[None]:
    """Context whose OSErrors name `path` where they name no file, as that of a write to a full disk, or a temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and str(error.filename or _PARTIAL).endswith(_PARTIAL):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def place_error(error: OSError) -> str | None:
    """What to say of a file or folder that cannot be used as it is; None for other errors, and without the place's name."""
    remedy = next((remedy for numbers, remedy in _REMEDIES.items() if error.errno in numbers), None)
    return (
        error.filename
        and remedy
        and f"{error.filename}: {error.strerror}; {remedy}, and the same command goes on"
    )


def flush_to_disk(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk, where the file system can tell."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems do not flush folders
            raise
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def remove_partial(folder: Path, name: str = "*") -> None:
    """Remove temporary files and folders that killed processes left in a folder, while no other process writes there.

    Args:
        name: of the file that was to be written; all files by default.
    """
    for partial in folder.glob(f"{name}.[0-9]*{_PARTIAL}"):
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)


def short_digest(content: str | bytes) -> str:
    """64 bits of the SHA-256 of some content, as 16 hexadecimal digits."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:16]


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Return what a JSON file holds."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_csv(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write records atomically, with a column for every key that any of them has, in the order in which keys appear.

    A record leaves the columns of keys that it lacks empty, as it does those that are None.
    """
    columns = list(dict.fromkeys(key for record in records for key in record))
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(records)
