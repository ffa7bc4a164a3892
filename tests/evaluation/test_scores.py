"""Scores of rows, and which edition rows are of."""

import pytest

from blink.bench import BENCHMARKS, OwnQuestions, Pope
from blink.evaluation.result import Setup
from blink.evaluation.scores import score_rows

BY_HAND = Setup(data="by hand")


def right(count: int) -> list[dict[str, object]]:
    """Right answers to so many questions of one picture each."""
    label = {"split": "random", "label": "yes", "response": "Yes", "answer": "yes", "correct": True}
    return [label | {"id": str(i), "image": str(i)} for i in range(count)]


@pytest.mark.parametrize(
    ("count", "edition"),
    [(2910, "LLaVA's random split"), (3000, "one split of 3,000")],
)
def test_editions_are_recognised_by_their_size(count: int, edition: str) -> None:
    """Would catch LLaVA's 2,910 random questions taken for the hub's 3,000."""
    result = score_rows(Pope(), right(count), BY_HAND)
    assert result.edition == edition
    assert not any("edition" in warning for warning in result.warnings)


def test_unknown_size_is_a_warning() -> None:
    """Would catch a file with lost rows that is scored as if it were whole."""
    result = score_rows(Pope(), right(2909), BY_HAND)
    assert result.edition is None
    assert result.warnings[0].startswith(
        "2,909 rows are no known edition of pope, which has 9,000 or 8,910 or"
    )


def test_what_is_said_wins() -> None:
    """Would catch scenes warned about as if rows were missing, or taken for an edition that they are not."""
    result = score_rows(Pope(), right(3000), BY_HAND, "generated: scenes test, 100 pictures")
    assert result.edition == "generated: scenes test, 100 pictures"
    assert len(result.warnings) == 1


def test_every_published_benchmark_has_an_edition() -> None:
    """Would catch a benchmark whose every run is warned about, and one whose lost rows pass in silence."""
    without = {name for name, benchmark in BENCHMARKS.items() if not benchmark.editions}
    assert without == {"questions"}
    rows = [{**row, "kind": "", "label": "yes", "response": "yes"} for row in right(3)]
    assert score_rows(OwnQuestions(), rows, BY_HAND).warnings == []
