"""Files of text: read with one set of messages, whoever wrote them, and written so that neither other processes nor a start
after a power failure see half of them.

What is read is UTF-8, with a byte order mark or without, and packed by gzip where the name ends in .gz. A file that is not
is a `UserError` that names it, and the byte or the line.
"""

import codecs
import csv
import errno
import glob
import gzip
import hashlib
import json
import os
import re
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from blink.runs.values import UserError

_PARTIAL = ".partial"
_BLOCK = 1 << 20
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


@contextmanager
def open_text(path: Path, newline: str | None = None) -> Iterator[IO[str]]:
    """Context that gives a file's text to read, without its byte order mark.

    Args:
        newline: as for `open`; None makes "\\n" of every kind of line end.

    Raises:
        UserError: it cannot be read, or is not UTF-8; names the file and its first byte that is not.
    """
    try:
        with _opened(path, "rt", encoding="utf-8-sig", newline=newline) as file:
            yield file
    except UnicodeDecodeError as cause:
        raise UserError(f"{path} is not UTF-8: {_misfit(path)}; save it as UTF-8") from cause
    except (OSError, EOFError, zlib.error) as cause:
        raise UserError(f"cannot read {path}: {getattr(cause, 'strerror', None) or cause}") from cause


def read_text(path: Path) -> str:
    """Return a file's text, with "\\n" for every line end.

    Raises:
        UserError: as `open_text` does, and where it holds a zero byte, which no text does.
    """
    with open_text(path) as file:
        text = file.read()
    if "\0" in text:
        raise UserError(
            f"{path} is not text: it has a zero byte behind {len(text[: text.index(chr(0))])} characters"
        )
    return text


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        UserError: as `open_text` does, and where it is not JSON; says which.
    """
    with open_text(path) as file:
        text = file.read()
    return _parsed(text, str(path))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read a file of one JSON object per line, in which empty lines are skipped.

    Raises:
        UserError: as `open_text` does, and where a line is no JSON object; names file and line.
    """
    return [row for _, row in numbered_rows(path)]


def numbered_rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """As `read_jsonl`, each row behind the number of its line in the file, for messages; empty lines are counted, too."""
    with open_text(path) as file:
        lines = list(file)  # str.splitlines would also cut at U+2028, which JSON allows inside texts
    return list(_rows(path, lines))


def as_json(value: Any) -> Any:
    """Return what a value is once it was written as JSON and read back: lists for tuples, texts for keys."""
    return json.loads(json.dumps(value))


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows as the text of a JSONL file."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


_NO_PLACE = (errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP)
"""Error numbers of a folder that cannot be made where it is to be, now or later; ENOENT, though its parents are made, in /proc."""

_REMEDIES = {
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG): "make room there",
    (errno.EACCES, errno.EPERM, errno.EROFS): "give this user the right to it",
    (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY): "move away what lies there",
    (errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV, errno.ETIMEDOUT, errno.ENOTCONN): "see to that disk",
    (errno.ENAMETOOLONG, errno.ELOOP): "give a shorter path, or one without a loop of links",
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


def make_folder(path: Path) -> None:
    """Make a folder, and those that it lies in, if need be.

    Raises:
        UserError: a file is in the way, or no folder can be made there at all.
        OSError: it cannot be written there now: a full or read-only disk, no permission.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in _NO_PLACE:
            raise UserError(
                f"{path}: no folder can be made there: {error.strerror}; give another path"
            ) from error
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


def is_wrong_place(error: OSError) -> bool:
    """Whether no command can ever write or read at that path, which is a user's mistake, unlike a full disk."""
    return error.errno in (*_NO_PLACE, errno.EISDIR) and error.errno != errno.ENOENT


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


def append_text(path: Path, text: str) -> None:
    """Append a text to a file, which is made if need be; after an error the file is as it was.

    Raises:
        OSError: it cannot be written; names the path.
    """
    with place_named(path), path.open("ab", buffering=0) as file:
        whole, left = file.seek(0, os.SEEK_END), memoryview(text.encode())
        try:
            while left:
                left = left[file.write(left) :]
        except BaseException:
            with suppress(OSError):
                file.truncate(whole)
            raise


def remove_partial(folder: Path, name: str | None = None, *, below: bool = False) -> None:
    """Remove temporary files and folders that killed processes left in a folder, while no other process writes there.

    Args:
        name: of the file that was to be written; all files by default.
        below: also in the folders that it holds, at any depth.
    """
    pattern = f"{'*' if name is None else glob.escape(name)}.[0-9]*{_PARTIAL}"
    for partial in list(folder.rglob(pattern) if below else folder.glob(pattern)):
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


def write_csv(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write records atomically, with a column for every key that any of them has, in the order in which keys appear.

    A record leaves the columns of keys that it lacks empty, as it does those that are None.
    """
    columns = list(dict.fromkeys(key for record in records for key in record))
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(records)


def _opened(path: Path, mode: str, **options: Any) -> IO[Any]:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    opened: IO[Any] = opener(path, mode, **options)
    return opened


def _rows(path: Path, lines: Iterable[str | bytes]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The JSON objects of lines with the numbers of these, from 1."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = _parsed(line, f"{path}, line {number}")
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number} is no JSON object but {json.dumps(row)[:40]}")
        yield number, row


def _parsed(text: str | bytes, where: str) -> Any:
    """The value of a JSON text; `where` it stands is for messages."""
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        value = json.loads(text)
        if _SURROGATE.search(text):  # one without its other half cannot be written to a file
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as cause:
        raise UserError(f"{where} has half of a surrogate pair, which is no character") from cause
    except (ValueError, RecursionError) as cause:
        raise UserError(f"{where} is not JSON: {cause}") from cause
    return value


def _misfit(path: Path) -> str:
    """Say which byte of a file is the first that does not belong to UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    before, ended = 0, False
    with _opened(path, "rb") as file:
        while not ended:
            block = file.read(_BLOCK)
            ended = not block
            try:
                decoder.decode(block, final=ended)
            except UnicodeDecodeError as found:
                held_back = len(found.object) - len(block)  # of the blocks before, an unfinished character
                offset = before - held_back + found.start
                hint = ", as UTF-16 begins" if not offset and found.object.startswith(_UTF_16) else ""
                return f"byte 0x{found.object[found.start]:02x} at offset {offset}{hint}"
            before += len(block)
    return "it changed while it was read"
