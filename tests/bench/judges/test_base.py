"""The judge without a network, on its own terms and on the official prompt's worked rows."""

from pathlib import Path

import pytest

from blink.bench.judges import Asked, LocalJudge
from blink.bench.judges.base import match
from blink.bench.judges.official import PROMPT


@pytest.mark.parametrize(
    ("truth", "response", "score"),
    [
        ("red", "red", 1),
        ("red", "Red.", 1),
        ("red", "The circle is RED!", 1),
        ("red", "The circle is reddish", 0),
        ("red", "", 0),
        ("red<OR>crimson", "It is crimson", 1),
        ("a red circle<AND>a blue square", "There is a blue square.", 0.5),
        ("a red circle<AND>a blue square", "There is a red square and a blue circle.", 0),
        ("a red circle<AND>a blue square<AND>a ring", "a blue square, a ring and a red circle", 1),
        ("at the left", "It is at the left of the image.", 1),
        ("at the left", "It is at the top left of the image.", 0),
        ("a<AND>b<OR>c", "c", 1),
        ("a<AND>b<OR>c", "b", 0.5),
        ("5", "15", 0),
        ("5", "5.5", 0),
        ("-5", "x = 5", 0),
        ("5", "x = -5", 0),
        ("2000", "$2,000 a year", 1),
        ("8.5", "8.5.", 1),
        ("圆", "圆", 1),
    ],
)
def test_elements_are_found_whole_or_not_at_all(truth: str, response: str, score: float) -> None:
    """Would catch parts of words and numbers that count, signs that do not, and <AND> taken for <OR>."""
    assert match(truth, response) == score


def test_short_worked_rows_of_the_official_prompt() -> None:
    """Would catch rules that disagree with the protocol's own examples, where words suffice to tell."""
    rows = [line.split(" | ") for line in PROMPT.split("\n") if line.startswith("What is x")]
    assert len(rows) == 5
    for _, truth, response, expected in rows:
        assert match(truth.replace(" <AND> ", "<AND>"), response) == float(expected)


def test_grades_are_named_and_in_order(tmp_path: Path) -> None:
    """Would catch grades without a judge, and anything written."""
    judge = LocalJudge()
    asked = [Asked("a", "?", "red", "red"), Asked("b", "?", "red", "blue")]
    assert judge.grade(asked, tmp_path) == [(1, "", "local-1"), (0, "", "local-1")]
    assert "not comparable" in (judge.caution or "")
    assert list(tmp_path.iterdir()) == []
