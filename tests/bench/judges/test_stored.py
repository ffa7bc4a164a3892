"""Grades from a file, and scores that rows bring with them."""

import json
from pathlib import Path
from typing import Any

import pytest

from blink.bench.judges import Asked, GivenScores, StoredGrades

GRADES = {
    "v1_0": {"model": ["gpt-4-0613"] * 3, "content": ["0.0", "0.5", "1.0"], "score": [0.0, 0.5, 1.0]},
    "v1_1": {"model": ["gpt-4-0613"], "content": ["0.4"], "score": [0.4]},
}


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def asked(*ids: str) -> list[Asked]:
    return [Asked(key, "?", "x", "y") for key in ids]


def test_several_gradings_are_averaged(tmp_path: Path) -> None:
    """Would catch the first of three gradings taken for the score, and grades in the file's order."""
    judge = StoredGrades(write(tmp_path / "grades.json", GRADES))
    assert [grade.score for grade in judge.grade(asked("v1_1", "v1_0"), tmp_path)] == [0.4, 0.5]
    assert judge.name == "gpt-4-0613 in grades.json"
    assert "these answers" in (judge.caution or "")


def test_answers_without_a_grade_are_named(tmp_path: Path) -> None:
    """Would catch missing grades that leave the mean."""
    judge = StoredGrades(write(tmp_path / "grades.json", GRADES))
    with pytest.raises(ValueError, match="has no grade for 1 of 2 answers: v1_7"):
        judge.grade(asked("v1_1", "v1_7"), tmp_path)
    with pytest.raises(ValueError, match="has no grade for 1 of 2 answers: v1_7"):
        judge.check(["v1_1", "v1_7"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "grades.json is not JSON"),
        ([1], r"grades.json holds \[1\]; expected an object of objects"),
        ({"v1_0": 0.5}, "grades.json: v1_0 is 0.5; expected an object"),
        ({"v1_0": {"score": 0.5}}, "holds no grades"),
        ({"v1_0": {"model": []}}, "holds no grades"),
        ({"v1_0": {"score": []}}, r"the scores of v1_0 are \[\]"),
        ({"v1_0": {"score": [1.5]}}, r"the scores of v1_0 are \[1.5\]"),
        ({"v1_0": {"score": ["high"]}}, r"the scores of v1_0 are \['high'\]"),
        ('{"v1_0": {"score": [NaN]}}', r"the scores of v1_0 are \[nan\]"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    """Would catch an answers file given for grades, and scores on another scale."""
    with pytest.raises(ValueError, match=message):
        StoredGrades(write(tmp_path / "grades.json", content))


def test_missing_file_is_named(tmp_path: Path) -> None:
    """Would catch a traceback for a mistyped path."""
    with pytest.raises(ValueError, match=r"judge.file=.*nowhere.json is not a file"):
        StoredGrades(tmp_path / "nowhere.json")


def test_given_scores_are_never_made_up(tmp_path: Path) -> None:
    """Would catch a row without a score that gets one from a judge who is not there."""
    assert GivenScores("gpt").grade([], tmp_path) == []
    with pytest.raises(ValueError, match="1 answers have no score, among them v1_3"):
        GivenScores("gpt").grade(asked("v1_3"), tmp_path)
