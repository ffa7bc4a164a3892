"""Rows of a source of any kind: the picture of each, and checks of the columns that are required."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from blink.runs.files import read_json, short_digest
from blink.runs.inputs.pictures import Opener
from blink.runs.values import UserError, is_whole


class Entry(NamedTuple):
    """A row of a source and its picture.

    Attributes:
        row: its columns, but for the picture.
        image: name of the picture, the same for all rows about it; None if the row has none.
        open_image: reads it.
        where: file and line of the row, for messages; empty for rows that are made here.
    """

    row: Mapping[str, Any]
    image: str | None
    open_image: Opener
    where: str = ""


def content_name(encoded: bytes) -> str:
    """Return a name for a picture that follows from its bytes alone."""
    return short_digest(encoded)


def file_content(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises:
        UserError: it cannot be read; says which.
    """
    try:
        return path.read_bytes()
    except OSError as cause:
        raise UserError(f"cannot read {path}: {cause.strerror}") from cause


def read_objects(path: Path) -> dict[str, dict[str, Any]]:
    """Read a JSON file of one object of objects: {key: {...}, ...}.

    Raises:
        UserError: it is not such a file; says which.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise UserError(f"{path} holds {_kind(found)}; expected an object of objects")
    for key, value in found.items():
        if not isinstance(value, dict):
            raise UserError(f"{path}: {key} is {_kind(value)}; expected an object")
    return found


def check_cells(
    row: Mapping[str, Any], where: str, *, texts: Collection[str] = (), keys: Collection[str] = ()
) -> None:
    """Check the columns of a row that are required.

    Args:
        where: the row is, for messages.
        texts: columns that hold a text which is not blank.
        keys: columns that hold such a text or a whole number.

    Raises:
        UserError: one of them is missing, empty or of another type; names row and column.
    """
    for column in (*texts, *keys):
        value = row.get(column)
        if column in keys and is_whole(value):
            continue
        if not isinstance(value, str) or not value.strip():
            found = f"{column} is {_kind(value)}" if column in row else f"there is no {column}"
            raise UserError(
                f"{where}: {found}; expected a text{' or a whole number' if column in keys else ''}"
            )


def _kind(value: Any) -> str:
    """A value for a message: itself where that is short, else its type."""
    shown = repr(value)
    return shown if len(shown) <= 40 else f"a value of type {type(value).__name__}"
