"""Tables as Excel files, for benchmarks that take submissions as such."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openpyxl import Workbook
from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE


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
        for place, column in enumerate(columns, start=1):
            value = row.get(column)
            if isinstance(value, str):
                cell = sheet.cell(number, place, ILLEGAL_CHARACTERS_RE.sub("", value))
                cell.data_type = "s"
            else:
                sheet.cell(number, place, value)
    book.save(path)
    return path
