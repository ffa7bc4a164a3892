"""Intervals and paired tests against hand-computed values and closed forms; `test_coverage.py` simulates."""

import math

import numpy as np
import pytest

from blink.bench.statistics import (
    PRIOR_CORRELATION,
    PRIOR_FLIP_CORRELATION,
    PRIOR_GROUPS,
    Estimate,
    Floats,
    Metric,
    bounds,
    estimates,
    mcnemar,
    paired_bounds,
    paired_estimates,
)


def estimate(metric: Metric, level: float = 0.95) -> Estimate:
    """One metric's estimate."""
    return estimates({"it": metric}, level=level)["it"]


def difference(first: Metric, second: Metric) -> Estimate:
    """One metric's paired difference."""
    return paired_estimates({"it": first}, {"it": second})["it"]


def share(right: list[float] | Floats, asked: list[float] | Floats | float) -> Metric:
    """The share of right answers; a single number of questions is every picture's."""
    return Metric.share(np.asarray(right, dtype=float), np.full(len(right), asked, dtype=float))


def test_mcnemar_by_hand() -> None:
    """Catches a one-sided p, a chi-square approximation, and flips counted the wrong way round.

    One flip one way and five the other: 2 * (C(6,0) + C(6,1)) / 2^6 = 14/64.
    """
    first = np.array([1, 0, 0, 0, 0, 0, 1, 0], dtype=bool)
    second = np.array([0, 1, 1, 1, 1, 1, 1, 0], dtype=bool)
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second) == (1, 5)
    assert found.p == pytest.approx(14 / 64)


def test_mcnemar_without_flips_is_certain_of_nothing() -> None:
    """Catches a division by zero, or p = 0, when both runs answer alike."""
    same = np.array([True, False, True])
    assert mcnemar(same, same) == (0, 0, 1.0)


def test_mcnemar_refuses_other_questions() -> None:
    """Catches numpy broadcasting one answer against many."""
    with pytest.raises(ValueError, match="3 and 1 answers"):
        mcnemar(np.ones(3, bool), np.ones(1, bool))


def test_interval_at_the_top_by_hand() -> None:
    """Catches [100, 100] where every answer is right, which claims certainty, and a prior in the wrong unit.

    20 pictures with 5 questions: 1 / A_0 = 100 / (1 + 4 * correlation) questions, and Wilson's interval of n right
    answers of n begins at n / (n + z^2).
    """
    found = estimate(Metric.percent(np.full(20, 5.0), np.full(20, 5.0)))
    questions = 100 / (1 + 4 * PRIOR_CORRELATION)
    assert found == pytest.approx((100, 100 * questions / (questions + 1.959964**2), 100))
    none = estimate(Metric.percent(np.zeros(20), np.full(20, 5.0)))
    assert none == pytest.approx((0, 0, 100 - found.low))


def test_interval_of_two_groups_by_hand() -> None:
    """Catches a variance over G in place of G - 1, degrees of freedom and weights of the prior.

    Of two pictures with 4 questions, one is all right and one all wrong: residuals are -1/4 and 1/4, and v = 1/4 /
    2^2 * 2 / 1 * 2 = 1/4, p (1 - p) = 1/4, so A = 1. k is 2, and at most G - 1 = 1; Student's 97.5 % quantile for
    4 degrees of freedom is 2.776445.
    """
    found = estimate(share([0, 4], 4))
    prior = (1 + 3 * PRIOR_CORRELATION) / 8
    spread = (2.776445**2 + PRIOR_GROUPS * 1.959964**2 * prior) / (1 + PRIOR_GROUPS)
    half = math.sqrt(spread / 4 + spread**2 / 4) / (1 + spread)
    assert found == pytest.approx((0.5, 0.5 - half, 0.5 + half), rel=1e-5)
    assert estimate(share([0, 4], 4), level=0.4).high < found.high


def test_interval_of_independent_questions_is_the_binomial_one() -> None:
    """Catches a wrong scale: with one question per group the width must follow sqrt(p (1 - p) / n)."""
    found = estimate(share((np.arange(400) % 5 != 0).astype(float), 1))
    half = 1.96 * math.sqrt(0.8 * 0.2 / 400)
    assert found.value == pytest.approx(0.8)
    assert found.low == pytest.approx(0.8 - half, abs=0.005)
    assert found.high == pytest.approx(0.8 + half, abs=0.005)


def test_interval_of_many_pictures_goes_by_pictures() -> None:
    """Catches questions taken as independent: where all 10 about a picture go together, n is that of pictures."""
    right = 10.0 * (np.arange(400) % 5 != 0)
    tied, alone = estimate(share(right, 10)), estimate(share(right / 10, 1))
    assert tied == pytest.approx(alone, abs=0.003)


def test_f1_is_of_the_summed_counts() -> None:
    """Catches averaging F1 over groups: the value is that of the summed counts, 2*3/(2*3+1+2)."""
    tp, fp, fn = np.array([[3.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    assert Metric.share(2 * tp, 2 * tp + fp + fn).value == pytest.approx(6 / 9)


def test_sum_and_mean_of_shares() -> None:
    """Catches shares pooled where each counts alike: 1/2 and 4/4 have the mean 75 %, and are 150 points.

    A picture that has to do with one of them only moves that one.
    """
    part, whole = np.array([[1.0, 0.0], [0.0, 4.0]]), np.array([[2.0, 0.0], [0.0, 4.0]])
    assert Metric.mean_percent(part, whole).value == pytest.approx(75)
    assert Metric.points(part, whole).value == pytest.approx(150)
    assert estimate(Metric.points(part, whole)).high <= 200


def test_few_pictures_in_each_share_are_few() -> None:
    """Catches a variance that is right for many pictures in all where each share has two of them.

    20 shares of two pictures with a question, one of them right: A of each is 1, as in two groups alone, and that of
    their mean is 1/20; the prior's is 1/40. k is G - 1 = 39; Student's quantile for 42 degrees of freedom is 2.018082.
    """
    right = np.tile([0.0, 1.0], 20)
    of_share = np.repeat(np.eye(20), 2, axis=0)
    found = estimate(Metric.mean_percent(right[:, None] * of_share, of_share))
    spread = (39 * 2.018082**2 / 20 + PRIOR_GROUPS * 1.959964**2 / 40) / (39 + PRIOR_GROUPS)
    half = 100 * math.sqrt(spread / 4 + spread**2 / 4) / (1 + spread)
    assert found == pytest.approx((50, 50 - half, 50 + half), rel=1e-5)


def test_no_flip_is_not_no_difference_by_hand() -> None:
    """Catches [0, 0] from two runs that answer alike: unseen flips may be as many as z^2 effective questions."""
    alike = Metric.percent(np.full(20, 3.0), np.full(20, 5.0))
    reach = 100 * 1.959964**2 * (1 + 4 * PRIOR_FLIP_CORRELATION) / 100
    assert difference(alike, alike) == pytest.approx((0, -reach, reach))


def test_pairs_cancel_what_the_groups_share() -> None:
    """Catches unpaired intervals: a run that gains one answer in every group differs by that, whatever the groups."""
    right = np.random.default_rng(0).integers(0, 9, 50).astype(float)
    first, second = share(right, 10), share(right + 1, 10)
    gained, lost = difference(first, second), difference(second, first)
    assert gained.value == pytest.approx(0.1)
    assert 0.085 < gained.low < 0.1 < gained.high < 0.115
    assert lost == pytest.approx((-gained.value, -gained.high, -gained.low))
    alone = estimate(second)
    assert gained.high - gained.low < (alone.high - alone.low) / 4


def test_difference_of_f1_is_of_both_values() -> None:
    """Catches a difference of quotients that is only right where both have one denominator."""
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 4, (2, 3, 30)).astype(float)
    first, second = (Metric.percent(2 * tp, 2 * tp + fp + fn) for tp, fp, fn in counts)
    found = difference(first, second)
    assert found.value == pytest.approx(float(second.value - first.value))
    assert found.low < found.value < found.high


def test_pairs_need_the_same_groups() -> None:
    """Catches two runs of different length compared as if they were pairs."""
    with pytest.raises(ValueError, match=r"\(3, 1\), \(4, 1\)"):
        paired_bounds(share(np.ones(3), 1), share(np.ones(4), 1))


def test_one_group_has_no_interval() -> None:
    """Catches an interval from a single picture, be it all there is or all that a metric is about."""
    for metric in (share([3], 4), Metric.share(np.array([3.0, 0.0]), np.array([4.0, 0.0]))):
        for found in (estimate(metric), difference(metric, metric)._replace(value=0.75)):
            assert found.value == 0.75
            assert math.isnan(found.low)
            assert math.isnan(found.high)


def test_share_of_nothing() -> None:
    """Catches numpy's warning, an error here, and a value from questions that were not asked."""
    nothing = np.zeros(3)
    assert all(math.isnan(each) for each in estimate(Metric.percent(nothing, nothing)))
    assert all(math.isnan(each) for each in estimate(Metric.points(np.zeros((3, 0)), np.zeros((3, 0)))))
    assert estimate(Metric.percent(nothing, nothing, empty=0.0)).value == 0


def test_many_data_sets_at_once() -> None:
    """Catches sums over the wrong axis where data sets are stacked: each must have the interval it has alone."""
    rng = np.random.default_rng(2)
    right, asked = rng.integers(0, 4, (5, 30)).astype(float), np.full((5, 30), 4.0)
    together = bounds(Metric.share(right, asked))
    for number in range(5):
        alone = bounds(Metric.share(right[number], asked[number]))
        assert [edge[number] for edge in together] == pytest.approx([float(edge) for edge in alone])
