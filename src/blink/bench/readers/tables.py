"""Tables as files: cells without text, tab-separated text with base64 pictures, and Excel files.

MMBench's authors publish the former and take submissions as the latter. `sources.py` finds rows; this
file parses and writes formats, with the oddities of their cells.
"""

import base64
import csv
import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from blink.bench.readers.rows import content_name
from blink.runs.files import open_text
from blink.runs.inputs.pictures import Opener, Reading
from blink.runs.values import UserError, is_whole

_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""What XML has not, and so no cell may hold."""

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
    if is_whole(value):
        return int(value)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not number.is_integer():
        raise UserError(f"{what} is {value!r}; expected a whole number")
    return int(number)


def read_tsv(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Read a table whose first line names its columns; every cell is text, as it stands.

    Returns:
        Rows, each behind the number of the line of the file that it ends on.

    Raises:
        UserError: it is not such a table, or a line has too many or too few cells; says which.
    """
    rows: list[tuple[int, dict[str, Any]]] = []
    limit = csv.field_size_limit(_LONGEST_CELL)
    try:
        with open_text(path, newline="") as file:
            table = csv.DictReader(file, delimiter="\t")
            for row in table:
                if None in row or None in row.values():
                    raise UserError(
                        f"{path}, line {table.line_num} has another number of cells than the first line"
                    )
                rows.append((table.line_num, row))
    except csv.Error as cause:
        raise UserError(f"{path} is not a table of tab-separated text: {cause}") from cause
    finally:
        csv.field_size_limit(limit)
    return rows


def base64_pictures(
    rows: Sequence[Mapping[str, Any]], where: str, reading: Reading
) -> tuple[list[str], list[Opener]]:
    """Return for each row the name of its picture, which follows from the content, and what reads it.

    Args:
        rows: with `index` and `image`: base64, or the index of a row that has the picture.
        where: they come from, for messages.
        reading: decodes the pictures.

    Raises:
        ValueError: a cell is neither; names the row.
    """
    cells = {cell_number(row["index"], f"{where}: the index"): str(row["image"]).strip() for row in rows}
    resolved = [_resolve(cell_number(row["index"], "index"), cells, where) for row in rows]
    known: dict[str, tuple[str, Opener]] = {}
    for cell, row in zip(resolved, rows, strict=True):
        if cell not in known:
            encoded = base64.b64decode(cell)
            name = f"{where}, the picture of row {row['index']}"
            known[cell] = content_name(encoded), partial(reading, encoded, name)
    return [known[cell][0] for cell in resolved], [known[cell][1] for cell in resolved]


def write_xlsx(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write a table with a heading; a cell that a row lacks stays empty, and no text becomes a formula.

    Characters that the format does not allow, such as control characters, are left out, and a text ends after the 32,767
    characters that a cell holds.

    Returns:
        `path`.

    Raises:
        UserError: a value is neither text nor number.
    """
    from openpyxl import Workbook  # takes a fifth of a second to import, and submissions alone need it

    book = Workbook()
    sheet = book.active
    sheet.append(list(columns))
    for number, row in enumerate(rows, start=2):
        for position, column in enumerate(columns, start=1):
            value = row.get(column)
            if isinstance(value, str):
                cell = sheet.cell(number, position, _ILLEGAL.sub("", value))
                cell.data_type = "s"
            else:
                try:
                    sheet.cell(number, position, value)
                except ValueError as cause:
                    raise UserError(
                        f"{column} is {value!r}; a table's cell takes a text or a number"
                    ) from cause
    book.save(path)
    return path


def _resolve(index: int, cells: Mapping[int, str], where: str) -> str:
    """The base64 text of a row's picture, wherever it stands."""
    seen = [index]
    cell = cells[index]
    while len(cell) <= _LONGEST_REFERENCE:
        other = cell_number(cell, f"{where}: row {seen[-1]}: the image, too short for a picture,")
        if other in seen or other not in cells:
            raise UserError(f"{where}: row {index}: its image refers to row {other}, which has none")
        seen.append(other)
        cell = cells[other]
    try:
        base64.b64decode(cell)
    except ValueError as cause:  # binascii.Error, or characters beyond ASCII
        raise UserError(f"{where}: row {seen[-1]}: its image is not base64 ({cause})") from cause
    return cell
