"""Rows reduced to what choices are made by."""

from typing import Any

import pytest

from blink.bench import Sample
from blink.bench.gqa import GQA
from blink.bench.pope import Pope
from blink.evaluation.tuning.measure import cost_of, reduced
from blink.evaluation.tuning.plan import Asked, halves
from tests.evaluation.tuning.conftest import answered, setting

ASKED = {name: Asked(bench, [], [], "", {}) for name, bench in (("gqa", GQA()), ("pope", Pope()))}


def row(
    image: int, correct: bool, kind: str = "", expansions: int = 0, flops: int | None = 10
) -> dict[str, Any]:
    events = [{"action": "expand"}] * expansions + [{"action": "keep"}]
    return {"image": str(image), "correct": correct, "kind": kind, "events": events, "flops": flops}


def test_each_kind_counts_alike() -> None:
    """Would catch a kind that is asked more often and so counts more, and pictures that are taken apart."""
    rows = [
        row(0, True, "where"),
        row(0, False, "colour", 2, 30),
        row(1, True, "where"),
        row(1, False, "where", 1),
    ]
    found = reduced(setting(), [rows], [ASKED["gqa"]])
    assert found.parts == ("where", "colour")
    assert found.accuracy.value == pytest.approx((200 / 3 + 0) / 2)
    assert found.metric.part_GJ.shape == (2, 2)
    assert (found.flops, found.expanded, found.expansions) == (15, 0.5, 0.75)
    better = reduced(setting(), [[{**each, "correct": True} for each in rows]], [ASKED["gqa"]])
    assert better.gain_over(found).value == pytest.approx(100 - 100 / 3)
    assert {name: gain.value for name, gain in better.gains_by_part(found).items()} == pytest.approx(
        {"where": 100 / 3, "colour": 100}
    )


def test_each_of_several_benchmarks_counts_alike() -> None:
    """Would catch a mean over questions, and one picture's name in two benchmarks taken for one picture."""
    rows = [[row(0, True, "where"), row(1, True), row(2, True)], [row(0, False)]]
    found = reduced(setting(), rows, [ASKED["gqa"], ASKED["pope"]])
    assert found.parts == ("gqa", "pope")
    assert found.accuracy.value == 50
    assert len(found.metric.part_GJ) == 4
    uncounted = reduced(setting(), [[row(0, True, flops=None)]], [ASKED["gqa"]])
    assert uncounted.flops is None
    cost = cost_of([found, uncounted])
    assert (cost(found), cost(uncounted)) == (0, 0)
    assert cost_of([found])(found) == 10


def test_halves_share_no_picture() -> None:
    """Would catch a picture with questions in both halves, and a half that holds the end of a sorted file alone."""
    samples = [
        Sample(f"{picture}-{number}", str(picture), "", "", "", lambda: None)  # type: ignore[arg-type,return-value]
        for picture in range(5)
        for number in range(2)
    ]
    first, second = halves(samples)
    assert [sample.image for sample in first] == [*"002244"]
    assert [sample.image for sample in second] == [*"1133"]


def test_no_difference_has_an_error() -> None:
    """Would catch a standard error of 0 where nothing flipped in the few questions that were asked."""
    same = answered([3, 4, 2])
    assert same.gain_over(answered([3, 4, 2])).value == 0
    assert same.error_against(answered([3, 4, 2])) > 0
