"""How often the intervals of `blink.bench.statistics` hold the true value, and how wide they are: `python -m tools.coverage`

Data sets are drawn again and again from a world whose truth is known, and an interval is made of each. Pictures have 3
to 18 questions, and each picture has its own probability of a right answer, or of a flip, drawn from a beta
distribution: two questions about one picture correlate by `CORRELATIONS`. The table is docs/statistics.md's, with the
percentile bootstrap over pictures beside it.

Axes: D data sets, G pictures, J shares in a metric.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blink.bench.statistics import Bounds, Floats, Metric, bounds, paired_bounds

CORRELATIONS = (0.0, 0.1, 0.3)
PICTURES = (20, 100, 500)
DRAWS = 2_000
_RESAMPLES = 400
_SUBTASKS = 14
_AT_ONCE = 100
"""Data sets, so that memory stays small."""


class Drawn(NamedTuple):
    """Data sets of one world: a metric, or two to compare, and the truth about it in the metric's unit."""

    metrics: tuple[Metric, ...]
    truth: float


Counts = NDArray[np.integer[Any]]
World = Callable[[np.random.Generator, float, int, int], Drawn]
"""Draws data sets: generator, correlation, pictures, data sets."""


def share(p: float) -> World:
    """Accuracy p."""

    def draw(rng: np.random.Generator, correlation: float, pictures: int, draws: int) -> Drawn:
        asked_DG = rng.integers(3, 19, (draws, pictures))
        right_DG = rng.binomial(asked_DG, _chances(rng, p, correlation, asked_DG.shape))
        return Drawn((Metric.percent(*_floats(right_DG, asked_DG)),), 100 * p)

    return draw


def flips(gained: float, lost: float) -> World:
    """The difference of two accuracies; each answer is gained or lost with these probabilities."""

    def draw(rng: np.random.Generator, correlation: float, pictures: int, draws: int) -> Drawn:
        asked_DG = rng.integers(3, 19, (draws, pictures))
        flipped_DG = rng.binomial(asked_DG, _chances(rng, gained + lost, correlation, asked_DG.shape))
        gained_DG = rng.binomial(flipped_DG, gained / (gained + lost))
        lost_DG = flipped_DG - gained_DG
        rest_DG = rng.binomial(asked_DG - flipped_DG, 0.9)
        before, after = (
            Metric.percent(*_floats(rest_DG + more_DG, asked_DG)) for more_DG in (lost_DG, gained_DG)
        )
        return Drawn((before, after), 100 * (gained - lost))

    return draw


def mean_f1(p: float) -> World:
    """POPE's mean of F1 over splits of 3 + 3 questions, the positive ones the same in all three; all p right."""

    def draw(rng: np.random.Generator, correlation: float, pictures: int, draws: int) -> Drawn:
        return Drawn((_mean_f1(*_answers(rng, p, correlation, pictures, draws)),), 100 * p)

    return draw


def mean_f1_flips(gained: float) -> World:
    """The difference of two mean F1s: answers are p = 0.9 right before, and each wrong one may be gained."""

    def draw(rng: np.random.Generator, correlation: float, pictures: int, draws: int) -> Drawn:
        before = _answers(rng, 0.9, 0.1, pictures, draws)
        p_DG1 = _chances(rng, gained, correlation, (draws, pictures, 1))
        positive, negative = (right + rng.binomial(3 - right, p_DG1) for right in before)
        after = np.repeat(positive[..., :1], 3, axis=-1), negative
        return Drawn((_mean_f1(*before), _mean_f1(*after)), 100 * (1 - 0.9) * gained)

    return draw


def points(p: float) -> World:
    """MME's points over 14 subtasks: answers are p right, pairs less often; G / 14 pictures each, 2 at least."""

    def draw(rng: np.random.Generator, correlation: float, pictures: int, draws: int) -> Drawn:
        each = max(2, pictures // _SUBTASKS)
        total = each * _SUBTASKS
        right_DG = rng.binomial(2, _chances(rng, p, correlation, (draws, total)))
        scored_DG2 = np.stack([right_DG / 2, right_DG == 2], axis=-1)
        of_GS1 = np.repeat(np.eye(_SUBTASKS), each, axis=0)[..., None]
        part_DGJ = (scored_DG2[:, :, None] * of_GS1).reshape(draws, total, -1)
        whole_DGJ = np.broadcast_to(np.repeat(of_GS1, 2, axis=-1).reshape(total, -1), part_DGJ.shape)
        both = p**2 + correlation * p * (1 - p)
        return Drawn((Metric.points(part_DGJ, whole_DGJ),), _SUBTASKS * 100 * (p + both))

    return draw


def graded(p: float) -> World:
    """A mean of grades, one answer per picture: 0, 0.5 and 1, with the mean p; the correlation has no say."""

    def draw(rng: np.random.Generator, correlation: float, pictures: int, draws: int) -> Drawn:
        grades_DG = rng.binomial(2, p, (draws, pictures)) / 2
        return Drawn((Metric.percent(grades_DG, np.ones_like(grades_DG)),), 100 * p)

    return draw


SHARES: dict[str, World] = {f"accuracy {100 * p:g} %": share(p) for p in (0.8, 0.95, 0.99)}
FLIPS: dict[str, World] = {
    "flips, all gained, 0.1 %": flips(0.001, 0),
    "flips, half lost, 0.1 %": flips(0.0005, 0.0005),
    "flips, 4 % gained, 2 % lost": flips(0.04, 0.02),
}
DERIVED: dict[str, World] = (
    {f"POPE's mean F1, {100 * p:g} %": mean_f1(p) for p in (0.8, 0.95, 0.99)}
    | {f"POPE's mean F1, 90 %, {100 * p:g} % of errors mended": mean_f1_flips(p) for p in (0.01, 0.2)}
    | {f"MME's total, answers {100 * p:g} %": points(p) for p in (0.8, 0.95, 0.99)}
    | {f"mean grade, {100 * p:g} %": graded(p) for p in (0.5, 0.95)}
)


def found(drawn: Drawn) -> Bounds:
    """The intervals of our statistics."""
    parts = []
    for start in range(0, len(drawn.metrics[0].part_GJ), _AT_ONCE):
        some = [
            metric._replace(part_GJ=part, whole_GJ=whole)
            for metric in drawn.metrics
            for part, whole in [(each[start : start + _AT_ONCE] for each in metric[:2])]
        ]
        parts.append(bounds(*some) if len(some) == 1 else paired_bounds(*some))
    return Bounds(*map(np.concatenate, zip(*parts, strict=True)))


def covered(interval: Bounds, truth: float) -> float:
    """The share of intervals that hold the truth."""
    return float(((interval.low <= truth + 1e-9) & (truth - 1e-9 <= interval.high)).mean())


def bootstrapped(drawn: Drawn) -> Bounds:
    """Percentile intervals of a bootstrap over pictures, the same resamples for all data sets."""
    groups = drawn.metrics[0].part_GJ.shape[-2]
    times_RG = np.random.default_rng(0).multinomial(groups, np.full(groups, 1 / groups), _RESAMPLES)
    values = []
    for part_DGJ, whole_DGJ, worth_J, _ in drawn.metrics:
        sums = (np.tensordot(times_RG, each, axes=(1, 1)) for each in (part_DGJ, whole_DGJ))
        part_RDJ, whole_RDJ = sums
        nothing = np.full(part_RDJ.shape, np.nan)
        values.append(np.divide(part_RDJ, whole_RDJ, out=nothing, where=whole_RDJ > 0) @ worth_J)
    value_RD = values[-1] - (values[0] if len(values) > 1 else 0)
    known_RD = np.where(np.isnan(value_RD).all(axis=0), 0, value_RD)
    low, high = np.nanquantile(known_RD, [0.025, 0.975], axis=0)
    return Bounds(known_RD.mean(axis=0), low, high)


def cells(
    worlds: dict[str, World], draws: int = DRAWS, seed: int = 0
) -> Iterator[tuple[str, float, int, Drawn]]:
    """Draw every cell of the table: name, correlation, pictures, data sets."""
    for name, world in worlds.items():
        for correlation in CORRELATIONS:
            for pictures in PICTURES:
                rng = np.random.default_rng([seed, pictures])
                yield name, correlation, pictures, world(rng, correlation, pictures, draws)


def _chances(rng: np.random.Generator, p: float, correlation: float, shape: tuple[int, ...]) -> Floats:
    """Probabilities with the mean p, by which answers that share one correlate."""
    if correlation == 0:
        return np.full(shape, p)
    sharpness = (1 - correlation) / correlation
    return rng.beta(p * sharpness, (1 - p) * sharpness, shape)


def _answers(
    rng: np.random.Generator, p: float, correlation: float, pictures: int, draws: int
) -> tuple[Counts, Counts]:
    """Right answers to 3 positive and 3 negative questions a split, [D, G, 3 splits]."""
    p_DG1 = _chances(rng, p, correlation, (draws, pictures, 1))
    return np.repeat(rng.binomial(3, p_DG1), 3, axis=-1), rng.binomial(3, p_DG1, (draws, pictures, 3))


def _mean_f1(positive_DGS: Counts, negative_DGS: Counts) -> Metric:
    return Metric.mean_percent(*_floats(2 * positive_DGS, positive_DGS + 6 - negative_DGS), empty=0.0)


def _floats(*counts: Counts) -> list[Floats]:
    return [each.astype(float) for each in counts]


def main() -> None:
    """Print the table as Markdown: coverage, and the mean width in the metric's unit."""
    print("| what | correlation |", *(f"{n} pictures: bootstrap | ours |" for n in PICTURES))
    print("|---|---|", "---|---|" * len(PICTURES), sep="")
    numbers: list[str] = []
    for name, correlation, pictures, drawn in cells(SHARES | FLIPS | DERIVED):
        for interval in (bootstrapped(drawn), found(drawn)):
            width = (interval.high - interval.low).mean()
            numbers.append(f"{covered(interval, drawn.truth):.3f} ({width:.3g})")
        if pictures == PICTURES[-1]:
            print(f"| {name} | {correlation:g} | {' | '.join(numbers)} |", flush=True)
            numbers = []


if __name__ == "__main__":
    main()
