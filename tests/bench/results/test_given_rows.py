"""Rows from elsewhere: what they may lack, and what no scorer can use."""

from pathlib import Path
from typing import Any

import pytest

from blink.bench import GQA, MMBench, MMVet, Pope, score
from blink.bench.results.given_rows import complete, read_rows

ROW = {"id": "1", "split": "random", "image": "a.jpg", "label": "yes", "response": "Yes"}


def test_empty_file_is_named(tmp_path: Path) -> None:
    """Would catch a file without rows scored as nothing."""
    (tmp_path / "a.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="holds no rows"):
        read_rows(tmp_path / "a.jsonl")


def test_missing_file_is_named(tmp_path: Path) -> None:
    """Would catch a traceback for a mistyped path."""
    with pytest.raises(ValueError, match=r"predictions=.*gone.jsonl is not a file"):
        read_rows(tmp_path / "gone.jsonl")


@pytest.mark.parametrize(
    ("columns", "key"),
    [
        ({"id": 7}, "7"),
        ({"id": None, "question_id": 7, "split": "random"}, "random/7"),
        ({"id": None, "question_id": 0}, "random/0"),
        ({"id": None, "index": 1000241}, "random/1000241"),
        ({"id": float("nan"), "question_id": 10000001.0}, "random/10000001"),
        ({"id": " ", "question_id": "7"}, "random/7"),
    ],
)
def test_ids_are_found(columns: dict[str, Any], key: str) -> None:
    """Would catch question 0 taken for a row without an id, question 7 of two splits for a duplicate, and what a
    table writes for an empty cell taken for an id."""
    assert complete(Pope(), [ROW | columns]).rows[0]["id"] == key


def test_marks_are_made_anew() -> None:
    """Would catch stale marks of another scorer believed."""
    [row] = complete(Pope(), [ROW | {"answer": "no", "correct": False}]).rows
    assert (row["answer"], row["correct"]) == ("yes", True)


def test_row_without_picture_stands_alone_and_is_said() -> None:
    """Would catch all pictureless rows taken for one picture, which leaves no interval."""
    rows = [{**ROW, "id": str(i), "image": image} for i, image in enumerate((None, float("nan"), ""))]
    answers = complete(Pope(), [*rows, {**ROW, "id": "x"}])
    assert [row["image"] for row in answers.rows] == ["0", "1", "2", "a.jpg"]
    [warning] = answers.warnings
    assert warning.startswith("3 of 4 rows do not name their picture")


def test_rotations_of_a_question_stay_together() -> None:
    """Would catch a question right in three of four rotations that counts as three right questions."""
    rows = [
        {"index": index, "label": "A", "response": "B" if index == 3_000_007 else "A"}
        for index in (7, 1_000_007, 2_000_007, 3_000_007, 8, "1000008")
    ]
    answers = complete(MMBench(), rows)
    assert [row["image"] for row in answers.rows] == ["7"] * 4 + ["8"] * 2
    assert score(MMBench(), answers.rows).metrics["accuracy"].value == 50
    named = [row | {"image": f"copy{i}.png"} for i, row in enumerate(rows)]
    assert len({row["image"] for row in complete(MMBench(), named).rows}) == 2


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": None}, "row 1 has no id"),
        ({"response": 5}, "row 1 has the response 5; expected a text"),
        ({"response": None}, "row 1 has no response: expected the answer there"),
        ({"response": None, "text": "yes"}, "row 1 has no response, but 'text': .*rename that key"),
        ({"split": "popluar"}, "question 1 is of split 'popluar'"),
        ({"label": "maybe"}, "question 1 has the label 'maybe'"),
    ],
)
def test_what_no_scorer_can_use_is_named(columns: dict[str, Any], message: str) -> None:
    """Would catch a row that leaves the denominators, or a missing answer scored as wrong."""
    with pytest.raises(ValueError, match=message):
        complete(Pope(), [ROW | columns])


def test_missing_columns_are_named() -> None:
    """Would catch a bare KeyError."""
    with pytest.raises(ValueError, match="row 1 lacks 'split', which pope needs"):
        complete(Pope(), [{"id": "1", "label": "yes", "response": "Yes"}])
    with pytest.raises(ValueError, match="row 1 lacks 'capability', which mmvet needs"):
        complete(MMVet(), [{"id": "1", "label": "yes", "response": "Yes"}])


def test_duplicates_are_named() -> None:
    """Would catch a question counted twice."""
    with pytest.raises(ValueError, match="1 row ids come more than once: 1"):
        complete(Pope(), [ROW, ROW])


def test_an_mmbench_index_comes_once() -> None:
    """Would catch two files appended to one another, whose ids differ, counted as rotations of one question."""
    rows = [{"id": key, "index": 7.0, "label": "A", "response": "A"} for key in ("first/7", "second/7")]
    with pytest.raises(ValueError, match="1 indices come more than once: 7"):
        complete(MMBench(), rows)


@pytest.mark.parametrize("capability", [None, 5, [], ["rec", 5], "rec,sight"])
def test_capabilities_that_are_none_are_named(capability: Any) -> None:
    """Would catch a traceback where a column is empty or of another type."""
    row = {"id": "v1_0", "capability": capability, "label": "x", "response": "y", "score": 1.0}
    with pytest.raises(ValueError, match=r"question v1_0 needs the capabilities .*MM-Vet's are rec"):
        complete(MMVet(), [row])


@pytest.mark.parametrize("label", [None, float("nan"), 5])
def test_a_gqa_label_is_a_text(label: Any) -> None:
    """Would catch every answer counted as wrong because the labels were lost on the way."""
    row = {"id": "1", "label": label, "response": "yes"}
    with pytest.raises(ValueError, match=r"question 1 has the label .*; expected a text"):
        complete(GQA(), [row])
