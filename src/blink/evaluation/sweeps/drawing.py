"""Plots of a multirun: scores with their intervals, and beside them paired differences with theirs.

Intervals of two scores overlap where the difference on the same questions is plain; so differences stand beside them.
Lines are set side by side, in styles of their own, and one that coincides with another says so in the legend.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes

from blink.bench.statistics import Estimate
from blink.evaluation.compare import FinishedRun
from blink.runs.style import GREY, SeriesStyle, plain, reach

Points = Sequence[tuple[float, Estimate]]
"""Where each point of a line lies on the axis, and its value."""

_BESIDE = 0.05
"""How far lines stand apart, in distances between neighbouring values on the axis, and how far all of them at most."""
_SPREAD = 0.4

_MOST_LETTERS = 60
"""Of names below an axis that stand level."""


def score(run: FinishedRun, metric: str) -> Estimate:
    """A metric of a run with its interval; nan where it has none."""
    low, high = run.result.intervals.get(metric) or (np.nan, np.nan)
    return Estimate(run.result.metrics.get(metric, np.nan), low, high)


def draw_lines(
    axes: Axes,
    lines: Mapping[str, Points],
    styles: Mapping[str, SeriesStyle],
    *,
    joined: bool,
    against_zero: bool = False,
) -> None:
    """Draw lines of points with their intervals, side by side.

    Args:
        lines: label -> points; an empty label stays out of the legend.
        styles: label -> style.
        joined: whether the points of a line are joined, as those between which there are values.
        against_zero: draw 0 as a line, and fill the markers whose interval leaves it out.
    """
    if against_zero:
        axes.axhline(0, color=GREY, linestyle=":", linewidth=1)
    step = _step(lines)
    drawn: dict[str, Points] = {}
    for number, (label, points) in enumerate(lines.items()):
        points = sorted(points, key=lambda point: point[0])
        twin = next((other for other, before in drawn.items() if _same(before, points)), None)
        drawn[label] = points
        style = styles[label]
        x = [position + (number - (len(lines) - 1) / 2) * step for position, _ in points]
        filled = [not against_zero or found.low > 0 or found.high < 0 for _, found in points]
        below, above = zip(*(reach(*found) for _, found in points), strict=True)
        values = [found.value for _, found in points]
        axes.errorbar(
            x,
            values,
            yerr=(below, above),
            color=style.colour,
            marker=style.marker,
            markerfacecolor="white" if against_zero else style.colour,
            linestyle=style.dash if joined else "",
            elinewidth=1,
            capsize=2,
            label=plain(label if twin is None else f"{label} = {twin}") if label else None,
        )
        if against_zero:
            at = np.flatnonzero(filled)
            axes.plot(
                np.array(x)[at],
                np.array(values)[at],
                style.marker,
                color=style.colour,
                linestyle="",
                zorder=3,
            )


def name_positions(axes: Axes, positions: Mapping[str, float], *, to_scale: bool) -> None:
    """Name the values on the axis to the right.

    Args:
        to_scale: whether they are numbers that lie where they are; many of these get a scale instead.
    """
    if to_scale and len(positions) > 12:
        return
    level = sum(map(len, positions)) <= _MOST_LETTERS
    names = [plain(name) for name in positions]
    axes.set_xticks(
        list(positions.values()), names, rotation=0 if level else 30, ha="center" if level else "right"
    )
    if not to_scale:
        axes.set_xlim(min(positions.values()) - 0.5, max(positions.values()) + 0.5)


def _step(lines: Mapping[str, Points]) -> float:
    """How far neighbouring lines stand apart."""
    at = sorted({position for points in lines.values() for position, _ in points})
    gaps = [high - low for low, high in pairwise(at)]
    gap = min(gaps, default=1.0)
    return min(_BESIDE, _SPREAD / max(1, len(lines))) * gap


def _same(one: Points, other: Points) -> bool:
    """Whether all points of two lines are equal but for rounding; intervals that are not there are equal."""
    if [position for position, _ in one] != [position for position, _ in other]:
        return False
    return np.allclose([list(found) for _, found in one], [list(found) for _, found in other], equal_nan=True)
