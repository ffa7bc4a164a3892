"""Tables as files: cells without text, tab-separated text with base64 pictures, and Excel files.

MMBench's authors publish the former and take submissions as the latter. `sources.py` finds rows; this
file parses and writes formats, with the oddities of their cells.
"""

import base64
import binascii
import csv
import io
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from openpyxl import Workbook
from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
from PIL import Image

from blink.bench.sources import Opener, content_name
from blink.runs.values import UserError

_LONGEST_CELL = 2**31 - 1
_LONGEST_REFERENCE = 64
"""No picture fits into so little text: such a cell is the index of the row whose picture it shares."""


def cell_text(value: Any) -> str | None:
    """Return a cell's text; None for what tables write where there is none: NaN, None, "nan", "none", blank."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    text = str(value)
    return None if text.strip().lower() in ("", "nan", "none") else text


def text_of(row: Mapping[str, Any], column: str) -> str:
    """Return the text of a column that a row may lack; empty where there is none."""
    return cell_text(row.get(column)) or ""


def cell_number(value: Any, what: str) -> int:
    """Return a whole number from a cell that may hold it as text or as a float.

    Raises:
        ValueError: it is none; says `what` it should have been.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not number.is_integer():
        raise UserError(f"{what} is {value!r}; expected a whole number")
    return int(number)


def read_tsv(path: Path) -> list[dict[str, Any]]:
    """Read a table whose first line names its columns; every cell is text, as it stands.

    Raises:
        ValueError: it is not such a table, or a line has too many or too few cells; says which.
    """
    limit = csv.field_size_limit(_LONGEST_CELL)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows: list[dict[str, Any]] = list(csv.DictReader(file, delimiter="\t"))
    except (csv.Error, UnicodeDecodeError) as cause:
        raise UserError(f"{path} is not a table of tab-separated text: {cause}") from cause
    finally:
        csv.field_size_limit(limit)
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise UserError(f"{path}: row {number} has another number of cells than the first line")
    return rows


def base64_pictures(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[Opener]]:
    """Return for each row the name of its picture, which follows from the content, and what reads it.

    Args:
        rows: with `index` and `image`: base64, or the index of a row that has the picture.

    Raises:
        ValueError: a cell is neither; names the row.
    """
    cells = {cell_number(row["index"], "index"): str(row["image"]).strip() for row in rows}
    resolved = [_resolve(cell_number(row["index"], "index"), cells) for row in rows]
    known: dict[str, tuple[str, Opener]] = {}
    for cell in resolved:
        if cell not in known:
            encoded = base64.b64decode(cell)
            known[cell] = content_name(encoded), partial(_decode, encoded)
    return [known[cell][0] for cell in resolved], [known[cell][1] for cell in resolved]


def write_xlsx(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write a table with a heading; a cell that a row lacks stays empty, and no text becomes a formula.

    Control characters, which the format does not allow, are left out.

    Returns:
        `path`.
    """
    book = Workbook()
    sheet = book.active
    sheet.append(list(columns))
    for number, row in enumerate(rows, start=2):
        for position, column in enumerate(columns, start=1):
            value = row.get(column)
            if isinstance(value, str):
                cell = sheet.cell(number, position, ILLEGAL_CHARACTERS_RE.sub("", value))
                cell.data_type = "s"
            else:
                sheet.cell(number, position, value)
    book.save(path)
    return path


def _resolve(index: int, cells: Mapping[int, str]) -> str:
    """The base64 text of a row's picture, wherever it stands."""
    seen = [index]
    cell = cells[index]
    while len(cell) <= _LONGEST_REFERENCE:
        other = cell_number(cell, f"row {seen[-1]}: the image, too short for a picture,")
        if other in seen or other not in cells:
            raise UserError(f"row {index}: its image refers to row {other}, which has none")
        seen.append(other)
        cell = cells[other]
    try:
        base64.b64decode(cell)
    except binascii.Error as cause:
        raise UserError(f"row {seen[-1]}: its image is not base64 ({cause})") from cause
    return cell


def _decode(encoded: bytes) -> Image.Image:
    return Image.open(io.BytesIO(encoded))
