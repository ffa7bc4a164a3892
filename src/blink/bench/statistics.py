"""Intervals and paired tests for benchmark scores.

Questions about one picture are not independent, so what is drawn again is the *group*: a picture with all its
questions. Each group is reduced to a row of sums (a tally: say, true and false positives), and every metric is
a function of summed tallies. A resample is then one matrix product, and the same code gives intervals for
accuracy, for F1, for means of F1s, and for paired differences. Knows nothing of benchmarks or files.

Axes: G groups, K sums in a tally, R resamples, N questions.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Metrics = Callable[[Floats], Mapping[str, Floats]]
"""Maps summed tallies [..., K] to named values [...]; nan where the sums leave a value undefined."""

RESAMPLES = 10_000
LEVEL = 0.95
_ROWS_AT_ONCE = 1_000


class Estimate(NamedTuple):
    """A value and its interval in the metric's own unit. The interval is nan where there are fewer than two groups,
    or where no resample has a value."""

    value: float
    low: float
    high: float


class McNemar(NamedTuple):
    """Questions that only one of two runs answers right, and the exact two-sided p-value of their split."""

    only_first: int
    only_second: int
    p: float


def resampled(tally_GK: Floats, *, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Sum the tallies of groups drawn with replacement.

    Args:
        tally_GK: one row of sums per group.
        resamples: how many times G groups are drawn.
        seed: the same seed and number of groups draw the same groups, whatever the tallies are: two runs over
            the same groups are so compared in pairs.

    Returns:
        The summed tallies of each resample, [R, K].

    Raises:
        ValueError: there is no group.
    """
    groups = tally_GK.shape[0]
    if groups == 0:
        raise ValueError("no groups to resample: the benchmark has no questions")
    generator = np.random.default_rng(seed)
    even = np.full(groups, 1 / groups)
    parts = []
    for start in range(0, resamples, _ROWS_AT_ONCE):
        rows = min(_ROWS_AT_ONCE, resamples - start)
        times_RG = generator.multinomial(groups, even, size=rows)
        parts.append(times_RG.astype(np.float64) @ tally_GK)
    return np.concatenate(parts)


def bootstrap(
    tally_GK: Floats, metrics: Metrics, *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> dict[str, Estimate]:
    """Estimate each metric with the percentile interval of a bootstrap over groups.

    Args:
        tally_GK: one row of sums per group.
        metrics: maps summed tallies to the metrics.
        level: the share of resamples that an interval covers.

    Raises:
        ValueError: there is no group.
    """
    drawn = metrics(resampled(tally_GK, resamples=resamples, seed=seed))
    return _estimates(metrics(tally_GK.sum(axis=0)), drawn, groups=tally_GK.shape[0], level=level)


def paired_bootstrap(
    tallies_GK: Sequence[Floats],
    pairs: Sequence[tuple[int, int]],
    metrics: Metrics,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> list[dict[str, Estimate]]:
    """Estimate by how much each metric of one run exceeds that of another, over the same groups.

    All runs are resampled with the same groups each time, so what the groups have in common cancels.

    Args:
        tallies_GK: of each run one row of sums per group, in the same order of groups.
        pairs: (first, second), indices into `tallies_GK`; what is estimated is second less first.

    Raises:
        ValueError: the runs have tallies of different shapes, or no group.
    """
    shapes = {tally_GK.shape for tally_GK in tallies_GK}
    if len(shapes) > 1:
        raise ValueError(
            f"the runs have tallies of shapes {sorted(shapes)}; a paired comparison needs the same groups in all"
        )
    together_RK = resampled(np.concatenate(tallies_GK, axis=1), resamples=resamples, seed=seed)
    drawn = [metrics(drawn_RK) for drawn_RK in np.split(together_RK, len(tallies_GK), axis=1)]
    values = [metrics(tally_GK.sum(axis=0)) for tally_GK in tallies_GK]
    return [
        _estimates(
            _difference(values[second], values[first]),
            _difference(drawn[second], drawn[first]),
            groups=tallies_GK[0].shape[0],
            level=level,
        )
        for first, second in pairs
    ]


def mcnemar(first_N: NDArray[np.bool_], second_N: NDArray[np.bool_]) -> McNemar:
    """Count the flips between two runs over the same questions and test them exactly.

    The test takes questions as independent, which questions about one picture are not: it is a secondary figure.

    Args:
        first_N: whether the first run answers each question right.
        second_N: the same for the second run.

    Raises:
        ValueError: the runs have different numbers of questions.
    """
    from scipy.stats import binomtest  # takes a second to import, and only comparisons need it

    if first_N.shape != second_N.shape:
        raise ValueError(
            f"{first_N.size} and {second_N.size} answers; McNemar's test needs the same questions"
        )
    only_first = int((first_N & ~second_N).sum())
    only_second = int((~first_N & second_N).sum())
    flips = only_first + only_second
    p = float(binomtest(only_first, flips, 0.5).pvalue) if flips else 1.0
    return McNemar(only_first, only_second, p)


def percent(part: Floats, whole: Floats, *, empty: float = 0.0) -> Floats:
    """Return 100 part / whole, and `empty` where the whole is 0."""
    return 100 * np.divide(part, whole, out=np.full_like(whole, empty / 100), where=whole > 0)


def _difference(minuend: Mapping[str, Floats], subtrahend: Mapping[str, Floats]) -> dict[str, Floats]:
    return {name: minuend[name] - subtrahend[name] for name in minuend}


def _estimates(
    values: Mapping[str, Floats], drawn: Mapping[str, Floats], *, groups: int, level: float
) -> dict[str, Estimate]:
    edges = [(1 - level) / 2, (1 + level) / 2]
    estimates = {}
    for name, value in values.items():
        low = high = float("nan")
        if groups > 1 and not np.isnan(value) and not np.isnan(drawn[name]).all():
            low, high = np.nanquantile(drawn[name], edges)
        estimates[name] = Estimate(float(value), float(low), float(high))
    return estimates
