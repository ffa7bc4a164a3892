"""Rows and scores of any benchmark: how many responses are empty, or say nothing that the scorer reads."""

from collections.abc import Sequence
from typing import Any

import pytest

from blink.bench import BENCHMARKS, Benchmark, Row, score

ROWS: dict[str, dict[str, Any]] = {
    "pope": {"split": "random", "label": "yes"},
    "gqa": {"label": "dog"},
    "mme": {"category": "count", "label": "yes"},
    "mmbench": {"label": "B", "A": "cat", "B": "dog", "C": "cow"},
    "mmbench_cn": {"label": "B", "A": "cat", "B": "dog", "C": "cow"},
    "scienceqa": {"label": "B"},
    "mmvet": {"label": "dog", "capability": "rec", "score": 0, "judge": "j"},
    "questions": {"label": "dog", "kind": "shape"},
}
"""Benchmark -> columns of a row that it can score."""

READ = {
    "pope": ["Yes", "yes.", "Yes, it is. No", "No", "no", "There is not", 'He said "Yes!"'],
    "gqa": ["Dog.", "a cat"],
    "mme": ["Yes", "no", " yes", "No."],
    "mmbench": ["B", "A.", "the answer is B", "dog"],
    "scienceqa": ["B", "B. dog", "The answer is Z."],
    "mmvet": ["dog", "?"],
    "questions": ["Dog.", "a cat"],
}
"""Benchmark -> responses that its scorer reads."""

UNREAD = {
    "pope": ["NO", "Well. Yes", "There is a dog", "是", "yesterday", "nothing"],
    "gqa": ["...", "."],
    "mme": ["It is yes", "maybe", "是的，yes"],
    "mmbench": ["none of them", "A or B", "Cannot determine the answer", "Z"],
    "scienceqa": ["b", "dog", "The answer is A. The answer is B."],
    "mmvet": [],
    "questions": ["...", "."],
}
"""Benchmark -> responses that are not empty, and of which it makes nothing by its authors' rules."""

EMPTY = ["", " \n\t"]


def rows_of(benchmark: Benchmark, responses: Sequence[str]) -> list[Row]:
    """One marked row per response."""
    rows = []
    for number, response in enumerate(responses):
        row = {"id": str(number), "index": number, "image": f"{number}", "response": response}
        row |= ROWS[benchmark.name]
        mark = benchmark.mark(row)
        rows.append(row | {"answer": mark.answer, "correct": mark.correct})
    return rows


@pytest.mark.parametrize("name", BENCHMARKS)
def test_responses_that_say_nothing_are_counted(name: str) -> None:
    """Catches a score of empty or unreadable responses that looks like any other: POPE counts them as yes."""
    benchmark, base = BENCHMARKS[name](), name.removesuffix("_cn")
    found = score(benchmark, rows_of(benchmark, READ[base]))
    assert (found.empty, found.unread) == (0, 0)
    assert not any("reads" in warning for warning in found.warnings)
    for response in (*UNREAD[base], *EMPTY):
        found = score(benchmark, rows_of(benchmark, [*READ[base], response]))
        assert (found.empty, found.unread) == (response in EMPTY, 1), response
    responses = [*READ[base], *UNREAD[base], *EMPTY]
    found, unread = score(benchmark, rows_of(benchmark, responses)), len(UNREAD[base]) + 2
    [warning] = [warning for warning in found.warnings if "reads" in warning]
    assert warning.startswith(f"{unread} of {len(responses)} responses (")
    assert "%, 2 of them empty)" in warning
    assert warning.endswith(f"counts as {benchmark.default}")


def test_an_empty_response_of_pope_stays_yes() -> None:
    """Catches a rule of our own in place of the authors': an empty response is a yes, and right where the label is."""
    benchmark = BENCHMARKS["pope"]()
    assert benchmark.default == "yes"
    [row] = rows_of(benchmark, [""])
    assert (row["answer"], row["correct"]) == ("yes", True)


def test_one_in_a_hundred_is_no_warning() -> None:
    """Catches a warning at every run, which nobody reads, and a bound that is off by one."""
    benchmark = BENCHMARKS["pope"]()
    for responses, warned in ((["Yes"] * 99 + [""], False), (["Yes"] * 98 + [""], True)):
        found = score(benchmark, rows_of(benchmark, responses))
        assert found.unread == 1
        assert any("say nothing" in warning for warning in found.warnings) == warned


def test_a_judge_without_a_score_is_counted() -> None:
    """Catches a 0 of MM-Vet's procedure, after five replies that were no number, taken for the judge's."""
    benchmark = BENCHMARKS["mmvet"]()
    rows = rows_of(benchmark, ["dog"] * 4)
    replies = ("0.0", "I am sorry", "", "The score is 1")
    rows = [row | {"judge_said": reply} for row, reply in zip(rows, replies, strict=True)]
    rows[3]["score"] = 1.0
    assert score(benchmark, rows).unread == 1
