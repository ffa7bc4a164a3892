"""Intervals and paired tests for benchmark scores.

Questions about one picture are not independent, so what counts as one observation is the *group*: a picture with all
its questions. Every metric is a weighted sum of shares (accuracy is one share, MME's total is 28 of them, F1 is
2 TP / (2 TP + FP + FN)), and each group adds to the parts and the wholes of these shares. The same few lines so give
intervals for accuracy, F1, means of F1s and points, and for paired differences of each. Knows nothing of benchmarks
or files.

Intervals are score intervals with the design effect of groups as clusters. With the metric scaled to p in [0, 1]:

- The linearised metric (each group's residual e_G, as in survey sampling) has the variance v. Of a share that is
  v = A p (1 - p), where 1 / A is the effective number of questions; of a difference v = A q, where q is the rate of
  flips, after gains and losses within a group have cancelled.
- Few groups with errors, or with flips, say little about A, and none say nothing: A is then too small, and an
  interval at 100 %, or without a flip, would have no width. So the estimate of A counts as k groups, the effective
  number of groups that add to v, and is averaged with A_0, which counts as `PRIOR_GROUPS` groups: the A of questions
  that correlate within a group by `PRIOR_CORRELATION`, or of flips that do by `PRIOR_FLIP_CORRELATION`. (The
  moderated variance of Smyth 2004, with a design effect as its prior.) The estimate takes Student's quantile for
  k + `PRIOR_GROUPS` degrees of freedom, and A_0 the normal one:
  B = (k t^2 A + PRIOR_GROUPS z^2 A_0) / (k + PRIOR_GROUPS).
- A metric then has Wilson's interval with B for z^2 / n. A difference d has Tango's score interval in its limit for
  rare flips, d +- sqrt(q B + B^2): z^2 pseudo-flips are added to those that were seen.

docs/statistics.md has the coverage that was measured, and what it costs in width.

Axes: G groups, J shares in a metric; ... may be any, so that many data sets are done at once.
"""

from collections.abc import Mapping
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

Floats = NDArray[np.float64]

LEVEL = 0.95

PRIOR_CORRELATION = 0.25
"""Of right answers about one picture, where the data do not say."""

PRIOR_FLIP_CORRELATION = 0.15
"""Of flips between two runs about one picture. Both are about the least that hold the coverage in docs/statistics.md
with true correlations of up to 0.3; a model that finds some pictures far harder than others (a standard deviation of 2
in log odds) has 0.1 at 99 % and 0.35 at 80 %."""

PRIOR_GROUPS = 3.0
"""How many groups with errors weigh as much as the prior."""

_ROUNDING = 1e-12
"""What is below this is a difference of equal numbers."""


class Estimate(NamedTuple):
    """A value and its interval in the metric's own unit. The interval is nan where fewer than two groups were asked."""

    value: float
    low: float
    high: float


class Metric(NamedTuple):
    """A weighted sum of shares, by what each group adds to them.

    Attributes:
        part_GJ, whole_GJ: a share is the sum of its parts over the sum of its wholes, in [0, 1]. Wholes count
            questions, or whatever is right or wrong in one piece.
        worth_J: what each share adds to the metric where it is 1; 100 for one in percent.
        empty: what a share of nothing is.
    """

    part_GJ: Floats
    whole_GJ: Floats
    worth_J: Floats
    empty: float = float("nan")

    @classmethod
    def share(cls, part_G: Floats, whole_G: Floats) -> Self:
        """One share, in [0, 1]."""
        return cls(part_G[..., None], whole_G[..., None], np.ones(1))

    @classmethod
    def percent(cls, part_G: Floats, whole_G: Floats, *, empty: float = float("nan")) -> Self:
        """One share, in percent."""
        return cls(part_G[..., None], whole_G[..., None], np.full(1, 100.0), empty)

    @classmethod
    def mean_percent(cls, part_GJ: Floats, whole_GJ: Floats, *, empty: float = float("nan")) -> Self:
        """The unweighted mean of shares, in percent."""
        return cls(part_GJ, whole_GJ, np.full(part_GJ.shape[-1], 100 / max(1, part_GJ.shape[-1])), empty)

    @classmethod
    def points(cls, part_GJ: Floats, whole_GJ: Floats) -> Self:
        """The sum of shares, each in percent."""
        return cls(part_GJ, whole_GJ, np.full(part_GJ.shape[-1], 100.0))

    @property
    def shares(self) -> Floats:
        """The shares, [J]."""
        return _quotient(self.part_GJ.sum(axis=-2), self.whole_GJ.sum(axis=-2), empty=self.empty)

    @property
    def value(self) -> Floats:
        """The metric; nan without shares, or where one of them is of nothing."""
        if not self.worth_J.size:
            return np.full(self.part_GJ.shape[:-2], np.nan)
        return np.asarray(self.shares @ self.worth_J)


class Bounds(NamedTuple):
    """Values with their intervals, [...]."""

    value: Floats
    low: Floats
    high: Floats


class McNemar(NamedTuple):
    """Questions that only one of two runs answers right, and the exact two-sided p-value of their split."""

    only_first: int
    only_second: int
    p: float


def estimates(metrics: Mapping[str, Metric], *, level: float = LEVEL) -> dict[str, Estimate]:
    """Estimate each metric; see `bounds`."""
    return {name: _estimate(bounds(metric, level=level)) for name, metric in metrics.items()}


def paired_estimates(
    first: Mapping[str, Metric], second: Mapping[str, Metric], *, level: float = LEVEL
) -> dict[str, Estimate]:
    """Estimate by how much each metric of one run exceeds that of another, over the same groups, second less first.

    Raises:
        ValueError: the runs have different numbers of groups or shares.
    """
    return {name: _estimate(paired_bounds(first[name], second[name], level=level)) for name in first}


def bounds(metric: Metric, *, level: float = LEVEL) -> Bounds:
    """Return a metric and its score interval, which lies within the metric's range.

    Args:
        level: how often an interval is to hold the true value.
    """
    scale = metric.worth_J.sum() or 1.0
    weight_J, whole_GJ = metric.worth_J / scale, metric.whole_GJ
    apart_GJ = metric.part_GJ - np.nan_to_num(metric.shares)[..., None, :] * whole_GJ
    residual_G = _residual(apart_GJ, whole_GJ) @ weight_J
    p = metric.value / scale
    spread = _spread(residual_G, residual_G, p * (1 - p), whole_GJ, weight_J, PRIOR_CORRELATION, level)
    middle = (p + spread / 2) / (1 + spread)
    half = np.sqrt(spread * p * (1 - p) + spread**2 / 4) / (1 + spread)
    low, high = (scale * np.clip(edge, 0, 1) for edge in (middle - half, middle + half))
    return Bounds(metric.value, np.minimum(low, metric.value), np.maximum(high, metric.value))


def paired_bounds(first: Metric, second: Metric, *, level: float = LEVEL) -> Bounds:
    """Return by how much the second metric exceeds the first over the same groups, and its score interval.

    Args:
        level: how often an interval is to hold the true value.

    Raises:
        ValueError: the metrics have different numbers of groups or shares.
    """
    shapes = {metric.part_GJ.shape for metric in (first, second)}
    if len(shapes) > 1:
        raise ValueError(
            f"the runs have tallies of shapes {sorted(shapes)}; a paired comparison needs the same groups in both"
        )
    scale = first.worth_J.sum() or 1.0
    weight_J = first.worth_J / scale
    whole_GJ = (first.whole_GJ + second.whole_GJ) / 2
    one_J, other_J = (np.nan_to_num(metric.shares)[..., None, :] for metric in (first, second))
    # what each group adds to the difference of the shares: exact, and 0 where none of its answers flipped
    gained_GJ = second.part_GJ - first.part_GJ - (one_J + other_J) / 2 * (second.whole_GJ - first.whole_GJ)
    flipped_G = _round(_quotient(gained_GJ, whole_GJ.sum(axis=-2)[..., None, :]) @ weight_J)
    residual_G = _residual(gained_GJ - (other_J - one_J) * whole_GJ, whole_GJ) @ weight_J
    rate = np.abs(flipped_G).sum(axis=-1)
    spread = _spread(residual_G, flipped_G, rate, whole_GJ, weight_J, PRIOR_FLIP_CORRELATION, level)
    half = np.sqrt(rate * spread + spread**2) * scale
    value = second.value - first.value
    return Bounds(value, np.clip(value - half, -scale, scale), np.clip(value + half, -scale, scale))


def _residual(apart_GJ: Floats, whole_GJ: Floats) -> Floats:
    """Return by how much each group moves each share, [..., G, J].

    What a group has to do with the share that it is held against makes it look too close: the division by
    sqrt(1 - its part of the whole) makes up for that (as G / (G - 1) does in a variance), share by share, since of
    some there may be few groups. A group that is all of a share says nothing.
    """
    wholes_J = whole_GJ.sum(axis=-2)[..., None, :]
    others_GJ = 1 - _quotient(whole_GJ, wholes_J)
    return _quotient(_quotient(apart_GJ, wholes_J), np.sqrt(np.maximum(_round(others_GJ), 0)))


def _round(values: Floats) -> Floats:
    """Return values, and 0 where they are the difference of equal numbers."""
    return np.where(np.abs(values) > _ROUNDING, values, 0)


def _spread(
    residual_G: Floats,
    seen_G: Floats,
    of_one: Floats,
    whole_GJ: Floats,
    weight_J: Floats,
    correlation: float,
    level: float,
) -> Floats:
    """Return B of the module's docstring, [...]; nan where fewer than two groups were asked.

    Args:
        residual_G: of the linearised metric, scaled to [0, 1].
        seen_G: what says how many groups the estimate rests on.
        of_one: the variance of an answer, or a flip, if it were alone.
        weight_J: of the shares, with the sum 1.
        correlation: the prior's.
    """
    asked = (whole_GJ.sum(axis=-1) > 0).sum(axis=-1)
    square_G = _round(seen_G) ** 2
    groups = np.minimum(
        _quotient(square_G.sum(axis=-1) ** 2, (square_G**2).sum(axis=-1)), np.maximum(asked - 1, 0)
    )
    found = _quotient((_round(residual_G) ** 2).sum(axis=-1), of_one)

    weight_GJ = _quotient(whole_GJ, whole_GJ.sum(axis=-2)[..., None, :]) * weight_J
    apart_G = _quotient(weight_GJ**2, whole_GJ).sum(axis=-1)
    together_G = weight_GJ.sum(axis=-1) ** 2
    prior = ((1 - correlation) * apart_G + correlation * together_G).sum(axis=-1)

    t = stdtrit(groups + PRIOR_GROUPS, (1 + level) / 2)
    z = ndtri((1 + level) / 2)
    spread = (groups * t**2 * found + PRIOR_GROUPS * z**2 * prior) / (groups + PRIOR_GROUPS)
    return np.where(asked > 1, spread, np.nan)


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


def _quotient(part: Floats, whole: Floats, *, empty: float = 0.0) -> Floats:
    """Return part / whole, and `empty` where the whole is 0."""
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.full(part.shape, empty), where=whole > 0)


def _estimate(found: Bounds) -> Estimate:
    return Estimate(*(float(edge) for edge in found))
