"""Tables of tab-separated text that carry their pictures as base64, as MMBench's authors publish them."""

import base64
import binascii
import csv
import io
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from blink.bench.options import whole_number
from blink.bench.sources import Opener, content_name

_LONGEST_CELL = 2**31 - 1
_LONGEST_REFERENCE = 64
"""No picture fits into so little text: such a cell is the index of the row whose picture it shares."""


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
        raise ValueError(f"{path} is not a table of tab-separated text: {cause}") from cause
    finally:
        csv.field_size_limit(limit)
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise ValueError(f"{path}: row {number} has another number of cells than the first line")
    return rows


def base64_pictures(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[Opener]]:
    """Return for each row the name of its picture, which follows from the content, and what reads it.

    Args:
        rows: with `index` and `image`: base64, or the index of a row that has the picture.

    Raises:
        ValueError: a cell is neither; names the row.
    """
    cells = {whole_number(row["index"], "index"): str(row["image"]).strip() for row in rows}
    resolved = [_resolve(whole_number(row["index"], "index"), cells) for row in rows]
    known: dict[str, tuple[str, Opener]] = {}
    for cell in resolved:
        if cell not in known:
            encoded = base64.b64decode(cell)
            known[cell] = content_name(encoded), partial(_decode, encoded)
    return [known[cell][0] for cell in resolved], [known[cell][1] for cell in resolved]


def _resolve(index: int, cells: Mapping[int, str]) -> str:
    """The base64 text of a row's picture, wherever it stands."""
    seen = [index]
    cell = cells[index]
    while len(cell) <= _LONGEST_REFERENCE:
        other = whole_number(cell, f"row {seen[-1]}: the image, too short for a picture,")
        if other in seen or other not in cells:
            raise ValueError(f"row {index}: its image refers to row {other}, which has none")
        seen.append(other)
        cell = cells[other]
    try:
        base64.b64decode(cell)
    except binascii.Error as cause:
        raise ValueError(f"row {seen[-1]}: its image is not base64 ({cause})") from cause
    return cell


def _decode(encoded: bytes) -> Image.Image:
    return Image.open(io.BytesIO(encoded))
