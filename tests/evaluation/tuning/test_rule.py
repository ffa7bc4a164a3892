"""The rule, on answers by hand."""

import numpy as np
import pytest

from blink.bench.statistics import paired_bounds
from blink.evaluation.tuning.rule import choose, pick_finalists
from tests.evaluation.tuning.conftest import answered, setting

RIGHT = [3, 4, 2, 3] * 25
VANILLA = answered(RIGHT)
BETTER = [min(5, right + (number % 2)) for number, right in enumerate(RIGHT)]


def test_the_cheapest_near_the_best_is_chosen() -> None:
    """Would catch a choice of the best whatever it costs, and of a cheap one that is worse by more than noise."""
    close = [*BETTER[:-2], RIGHT[-2], RIGHT[-1]]  # one flip fewer
    far = [right + (number % 10 == 0) for number, right in enumerate(RIGHT)]
    finalists = [
        answered(BETTER, 9, setting(1)),
        answered(close, 5, setting(2)),
        answered(far, 2, setting(3)),
        answered(RIGHT, 1, setting(4)),
    ]
    choice = choose(finalists, finalists, VANILLA)
    assert choice.beats
    assert choice.chosen.held_out.setting == setting(2)
    assert [one.near for one in choice.finalists] == [True, True, False, False]
    assert choice.level == pytest.approx(1 - 0.05 / 4)
    assert "the cheapest within one standard error" in choice.reason
    best = choice.finalists[0]
    assert best.gain.value == pytest.approx(10.0)
    found = paired_bounds(VANILLA.metric, finalists[0].metric, level=0.6827)
    assert best.error == pytest.approx(float(found.high - found.low) / 2, rel=1e-3)


def test_noise_is_no_gain() -> None:
    """Would catch a setting that is recommended because of a few flips."""
    lucky = [right + (number == 2) for number, right in enumerate(RIGHT)]
    worse = [max(0, right - (number % 3 == 0)) for number, right in enumerate(RIGHT)]
    finalists = [answered(worse, 1, setting(1)), answered(lucky, 9, setting(2))]
    choice = choose(finalists, finalists, VANILLA)
    assert not choice.beats
    assert choice.chosen.held_out.setting == setting(2)
    assert "nothing beats the backbone as it is by more than noise" in choice.reason
    assert "method=vanilla is recommended" in choice.reason


def test_more_finalists_need_more_evidence() -> None:
    """Would catch an interval that forgets that the best of many was taken."""
    gains = [right + (number % 10 == 0) for number, right in enumerate(RIGHT)]
    few = choose([answered(gains)], [answered(gains)], VANILLA)
    many = choose([answered(gains)] * 50, [answered(gains)] * 50, VANILLA)
    assert few.finalists[0].gain.low > many.finalists[0].gain.low


def test_costs_that_are_not_counted() -> None:
    """Would catch FLOPs of one setting compared with the number of expansions of another."""
    finalists = [
        answered(BETTER, None, setting(1))._replace(expansions=0.2),
        answered(BETTER, 0.1, setting(2))._replace(expansions=0.4),
    ]
    assert choose(finalists, finalists, VANILLA).chosen.held_out.setting == setting(1)


def test_finalists_are_the_best_and_the_cheap_ones_near_them() -> None:
    """Would catch eight finalists of the same price."""
    generator = np.random.default_rng(0)
    costly = [
        answered([*BETTER[:-1], int(generator.integers(4, 6))], 100 + layer, setting(layer))
        for layer in range(10)
    ]
    close = [*BETTER[:-2], RIGHT[-2], RIGHT[-1]]
    cheap, bad = answered(close, 3, setting(20)), answered(RIGHT, 1, setting(21))
    found = pick_finalists([*costly, bad, cheap], VANILLA, 4)
    assert len(found) == 4
    assert cheap in found
    assert bad not in found
    assert pick_finalists([bad], VANILLA, 4) == [bad]
