"""Cells that nothing can be done without, and JSON files of objects."""

import math
from pathlib import Path
from typing import Any

import pytest

from blink.bench.readers.rows import check_cells, file_content, read_objects
from blink.runs.values import UserError


@pytest.mark.parametrize("value", [None, "", "  ", math.nan, 1.5, True, ["a"], {"a": 1}])
def test_cells_without_text_are_named(value: Any) -> None:
    """Would catch "None" asked as a question, and a row of another shape that dies in the middle."""
    with pytest.raises(UserError, match=r"a.jsonl, line 3: question is .*; expected a text"):
        check_cells({"question": value}, "a.jsonl, line 3", texts=("question",))
    with pytest.raises(UserError, match=r"a.jsonl, line 3: id is .*; expected a text or a whole number"):
        check_cells({"id": value}, "a.jsonl, line 3", keys=("id",))


def test_columns_that_are_not_there_are_named() -> None:
    """Would catch a KeyError."""
    with pytest.raises(UserError, match=r"line 3: there is no question; expected a text"):
        check_cells({}, "line 3", texts=("question",))


def test_texts_and_numbers_pass() -> None:
    """Would catch ids refused that are numbers."""
    check_cells({"question": "Why?", "id": 7, "key": "v1"}, "line 3", texts=("question",), keys=("id", "key"))
    with pytest.raises(UserError, match="question is 7"):
        check_cells({"question": 7}, "line 3", texts=("question",))


@pytest.mark.parametrize(
    ("content", "message"),
    [("[1]", r"a.json holds \[1\]; expected an object"), ('{"k": 1}', "a.json: k is 1")],
)
def test_other_json_is_named(tmp_path: Path, content: str, message: str) -> None:
    """Would catch a list where names should stand."""
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_objects(path)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """Would catch a traceback for a picture that is a folder."""
    with pytest.raises(UserError, match=f"cannot read {tmp_path}"):
        file_content(tmp_path)
