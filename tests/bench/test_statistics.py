"""Intervals and paired tests against hand-computed values, closed forms and simulation."""

import math

import numpy as np
import pytest

from blink.bench.statistics import Floats, bootstrap, mcnemar, paired_bootstrap, resampled


def share(tally: Floats) -> dict[str, Floats]:
    """Right answers over questions, for tallies of (right, questions)."""
    return {"share": tally[..., 0] / tally[..., 1]}


def f1(tally: Floats) -> dict[str, Floats]:
    """F1 for tallies of (true positives, false positives, false negatives)."""
    return {"f1": 2 * tally[..., 0] / (2 * tally[..., 0] + tally[..., 1] + tally[..., 2])}


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


def test_every_resample_draws_as_many_groups_as_there_are() -> None:
    """Catches resamples of questions in place of whole groups: each group's sums move together."""
    tally = np.array([[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]])
    sums = resampled(tally, resamples=2_500)
    assert sums.shape == (2_500, 2)
    np.testing.assert_allclose(sums[:, 1], 2 * sums[:, 0])
    digits = np.stack([sums[:, 0] // 100, sums[:, 0] % 100 // 10, sums[:, 0] % 10])
    np.testing.assert_array_equal(digits.sum(axis=0), 3)


def test_interval_of_two_groups_by_hand() -> None:
    """Catches quantiles taken at the wrong ends: of 2 groups 1/4 of the resamples hold only one of them."""
    tally = np.array([[0.0, 4.0], [4.0, 4.0]])
    estimate = bootstrap(tally, share, level=0.95)["share"]
    assert estimate == (0.5, 0.0, 1.0)
    assert bootstrap(tally, share, level=0.4)["share"] == (0.5, 0.5, 0.5)


def test_interval_of_independent_questions_is_the_binomial_one() -> None:
    """Catches a wrong scale: with one question per group the width must follow sqrt(p (1 - p) / n)."""
    right = np.arange(400) % 5 != 0
    estimate = bootstrap(np.stack([right, np.ones(400)], axis=1).astype(float), share)["share"]
    half = 1.96 * math.sqrt(0.8 * 0.2 / 400)
    assert estimate.value == pytest.approx(0.8)
    assert estimate.low == pytest.approx(0.8 - half, abs=0.006)
    assert estimate.high == pytest.approx(0.8 + half, abs=0.006)


def test_same_seed_same_interval() -> None:
    """Catches global random state in the bootstrap."""
    tally = np.random.default_rng(1).integers(0, 5, (30, 3)).astype(float)
    assert bootstrap(tally, f1, seed=3) == bootstrap(tally, f1, seed=3)
    assert bootstrap(tally, f1, seed=3) != bootstrap(tally, f1, seed=4)


def test_f1_is_recomputed_per_resample() -> None:
    """Catches averaging F1 over groups: the value is that of the summed counts, 2*3/(2*3+1+2)."""
    tally = np.array([[3.0, 0.0, 0.0], [0.0, 1.0, 2.0]])
    assert bootstrap(tally, f1, resamples=50)["f1"].value == pytest.approx(6 / 9)


def test_pairs_cancel_what_the_groups_share() -> None:
    """Catches unpaired resampling: a run that gains one answer in every group has no spread at all."""
    rng = np.random.default_rng(0)
    right = rng.integers(0, 9, 50).astype(float)
    first = np.stack([right, np.full(50, 10.0)], axis=1)
    second = np.stack([right + 1, np.full(50, 10.0)], axis=1)
    assert paired_bootstrap([first, second], [(0, 1)], share)[0]["share"] == pytest.approx((0.1, 0.1, 0.1))
    assert paired_bootstrap([first, second], [(1, 0)], share)[0]["share"] == pytest.approx((-0.1, -0.1, -0.1))


def test_pairs_need_the_same_groups() -> None:
    """Catches two runs of different length compared as if they were pairs."""
    with pytest.raises(ValueError, match=r"\(3, 2\), \(4, 2\)"):
        paired_bootstrap([np.ones((3, 2)), np.ones((4, 2))], [(0, 1)], share)


def test_one_group_has_no_interval() -> None:
    """Catches an interval of width zero, which would claim certainty, from a single picture."""
    estimate = bootstrap(np.array([[3.0, 4.0]]), share)["share"]
    assert estimate.value == 0.75
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.high)


def test_metric_that_no_resample_has_is_without_interval() -> None:
    """Catches numpy's warning, an error here, where every resample misses a part that the metric needs."""

    def whole(tally: Floats) -> dict[str, Floats]:
        return {"whole": np.full(tally.shape[:-1], 5.0 if tally.ndim == 1 else np.nan)}

    found = bootstrap(np.ones((3, 1)), whole)["whole"]
    assert found.value == 5
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_no_group_is_an_error() -> None:
    """Catches an empty benchmark scored as nan."""
    with pytest.raises(ValueError, match="no questions"):
        resampled(np.empty((0, 2)))


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Catches resampling questions as if independent: with correlated questions that covers far below 95 %.

    80 pictures with 6 questions each; a picture is easy or hard, so its answers go together. In 400 repetitions
    the 95 % interval over pictures must hold the true accuracy in 92 to 98 % of them (three standard errors),
    while the interval over questions must fall short by far.
    """
    rng = np.random.default_rng(7)
    over_pictures = over_questions = 0
    repetitions = 400
    for repetition in range(repetitions):
        easy_G1 = rng.random((80, 1)) < 0.5
        right_GQ = rng.random((80, 6)) < np.where(easy_G1, 0.95, 0.45)
        pictures = np.stack([right_GQ.sum(axis=1), np.full(80, 6)], axis=1).astype(float)
        questions = np.stack([right_GQ.reshape(-1), np.ones(480)], axis=1).astype(float)
        low, high = bootstrap(pictures, share, resamples=500, seed=repetition)["share"][1:]
        over_pictures += low <= 0.7 <= high
        low, high = bootstrap(questions, share, resamples=500, seed=repetition)["share"][1:]
        over_questions += low <= 0.7 <= high
    assert 0.92 <= over_pictures / repetitions <= 0.98
    assert over_questions / repetitions < 0.88


def test_interval_of_a_difference_covers_zero_when_nothing_differs() -> None:
    """Catches a paired interval that is too narrow: two runs with the same true accuracy, 400 repetitions."""
    rng = np.random.default_rng(8)
    covered = 0
    repetitions = 400
    for repetition in range(repetitions):
        chance_G1 = rng.uniform(0.4, 0.9, (60, 1))
        runs = [(rng.random((60, 5)) < chance_G1).sum(axis=1) for _ in range(2)]
        first, second = (np.stack([run, np.full(60, 5)], axis=1).astype(float) for run in runs)
        low, high = paired_bootstrap([first, second], [(0, 1)], share, resamples=500, seed=repetition)[0][
            "share"
        ][1:]
        covered += low <= 0 <= high
    assert 0.91 <= covered / repetitions <= 0.98
