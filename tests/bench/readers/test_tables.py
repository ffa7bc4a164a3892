"""Cells without text, and tables with base64 pictures."""

import base64
import math
from pathlib import Path
from typing import Any

import pytest
from openpyxl import load_workbook
from PIL import Image

from blink.bench.readers.tables import base64_pictures, cell_number, cell_text, read_tsv, write_xlsx
from blink.runs.inputs.pictures import Reading
from tests.bench.files import png


def encoded(red: int) -> str:
    return base64.b64encode(png(Image.new("RGB", (4, 4), (red, 0, 0)))).decode()


@pytest.mark.parametrize("value", [None, math.nan, "nan", "NaN", "none", "None", "", "  "])
def test_cells_without_text(value: Any) -> None:
    """Would catch "nan" printed as a hint or an option."""
    assert cell_text(value) is None
    assert cell_text("none of these") == "none of these"


@pytest.mark.parametrize(
    ("value", "number"),
    [("241", 241), (241, 241), ("241.0", 241), (1000241.0, 1000241), (2**60 + 1, 2**60 + 1)],
)
def test_whole_numbers(value: Any, number: int) -> None:
    """Would catch an index that stays text, or a float that no index equals."""
    assert cell_number(value, "index") == number


@pytest.mark.parametrize("value", ["", None, "a1", 1.5, math.nan, math.inf, True, [1]])
def test_other_numbers_are_refused(value: Any) -> None:
    """Would catch an index made up for a damaged cell."""
    with pytest.raises(ValueError, match=r"index is .*; expected a whole number"):
        cell_number(value, "index")


def test_cells_stay_as_they_are(tmp_path: Path) -> None:
    """Would catch numbers reformatted, "NA" or "null" read as missing, long cells refused, quotes and line breaks
    inside a cell taken for its end."""
    path = tmp_path / "table.tsv"
    path.write_text(
        f'\ufeffindex\tquestion\tA\timage\n7\t"a ""b""\nc"\t1.50\t{"x" * 200_000}\n8\tNA\tnull\t\n',
        encoding="utf-8",
    )
    (line, first), (last_line, second) = read_tsv(path)
    assert (line, last_line) == (3, 4)
    assert (first["index"], first["question"], first["A"], len(first["image"])) == (
        "7",
        'a "b"\nc',
        "1.50",
        200_000,
    )
    assert (second["question"], second["A"], second["image"]) == ("NA", "null", "")


@pytest.mark.parametrize("line", ["1\t2", "1\t2\t3\t4"])
def test_lines_of_another_width_are_named(tmp_path: Path, line: str) -> None:
    """Would catch cells that slipped into another column, as in a file that was cut off, and lines miscounted behind an
    empty one."""
    path = tmp_path / "table.tsv"
    path.write_text(f"index\tquestion\timage\n0\tq\ti\n\n{line}\n")
    with pytest.raises(ValueError, match=r"table.tsv, line 4 has another number of cells"):
        read_tsv(path)


def test_other_files_are_named(tmp_path: Path) -> None:
    """Would catch a traceback for a file that is no text."""
    path = tmp_path / "table.tsv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"table.tsv is not UTF-8: byte 0xff at offset 0, as UTF-16 begins"):
        read_tsv(path)


def test_pictures_of_their_own_and_by_reference() -> None:
    """Would catch a rotation without its picture: the cell may name a row, before or after it, that names another."""
    rows = [
        {"index": "1000001", "image": "2000001"},
        {"index": "1", "image": encoded(10)},
        {"index": "2000001", "image": "1"},
        {"index": "2", "image": encoded(20)},
        {"index": "3", "image": encoded(10)},
    ]
    names, openers = base64_pictures(rows, "a.tsv", Reading())
    assert names[0] == names[1] == names[2] == names[4] != names[3]
    assert [opener().convert("RGB").getpixel((0, 0)) for opener in openers] == [
        (red, 0, 0) for red in (10, 10, 10, 20, 10)
    ]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("", "row 5: the image, too short for a picture, is ''"),
        ("9", "row 5: its image refers to row 9, which has none"),
        ("5", "row 5: its image refers to row 5, which has none"),
        ("x" * 97, "row 5: its image is not base64"),
        ("é" * 97, "row 5: its image is not base64"),
    ],
)
def test_pictures_that_are_missing_are_named(cell: str, message: str) -> None:
    """Would catch an endless chain of references, and errors that leave open which row is damaged."""
    with pytest.raises(ValueError, match=f"a.tsv: {message}"):
        base64_pictures([{"index": 5, "image": cell}], "a.tsv", Reading())


def test_what_no_spreadsheet_can_hold_is_left_out(tmp_path: Path) -> None:
    """Would catch half a pair of surrogates, which some tokenizers leave behind, ending an export after hours of answers."""
    path = write_xlsx(tmp_path / "t.xlsx", ["a", "b"], [{"a": "half \ud800 a\x0b\x1b pair\ufffe", "b": 1}])
    assert list(load_workbook(path).active.iter_rows(min_row=2, values_only=True)) == [("half  a pair", 1)]
