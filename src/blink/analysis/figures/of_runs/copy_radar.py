"""Fig. 4: scores per subtask when the hottest region is copied at fixed layers, around the backbone as it is."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from blink.analysis.figures.of_runs.points import Point, about
from blink.bench import BENCHMARKS
from blink.bench.statistics import Estimate
from blink.evaluation.compare import compare_pairs
from blink.runs.style import BLUE, ORANGE, PURPLE, VANILLA, VERMILLION, Drawn, plain
from blink.runs.values import UserError, choice

SCALES = ("difference", "score")

_STYLES = ((VERMILLION, "-", "o"), (BLUE, "--", "^"), (ORANGE, "-.", "D"), (PURPLE, (0, (3, 1, 1, 1)), "v"))
_FEWEST = 3
"""Corners that a radar needs."""
_TOTALS = 2
"""How many of a benchmark's headline sum up the others."""


def choose(points: Sequence[Point]) -> list[tuple[str, Point]]:
    """Label the backbone as it is and each run that copies at one layer.

    Raises:
        ValueError: one of the two kinds is missing, two runs copy at one layer, or there are too many to tell apart.
    """
    vanilla = [("vanilla", point) for point in points if not point.policy]
    copies = sorted((point for point in points if point.policy), key=lambda point: point.layers)
    layers = [point.layers for point in copies]
    if (
        not vanilla
        or not copies
        or any(len(found) != 1 for found in layers)
        or len(set(layers)) < len(layers)
    ):
        raise UserError(
            f"copy_radar needs one vanilla run and runs that each copy at one layer of its own; the runs scan {layers} "
            f"and {len(vanilla)} are vanilla"
        )
    if len(copies) > len(_STYLES):
        raise UserError(
            f"copy_radar shows {len(_STYLES)} layers at most, the runs have {len(copies)}: give fewer"
        )
    return [*vanilla[:1], *((f"copy @{point.layers[0]}", point) for point in copies)]


def subtasks(points: Sequence[Point], named: Sequence[str] | None) -> list[str]:
    """The metrics to be corners: as named, or those of the headline after its totals, or all others.

    Raises:
        ValueError: a named one does not exist, or there are fewer than three.
    """
    result = points[0].run.result
    if named is None:
        headline = result.headline
        parts = list(headline[_TOTALS:])
        found = parts if len(parts) >= _FEWEST else [m for m in result.metrics if m not in headline]
    else:
        found = list(named)
        missing = [name for name in found if name not in result.metrics]
        if missing:
            raise UserError(f"figure.metrics={missing}: the runs have {', '.join(result.metrics)}")
    if len(found) < _FEWEST:
        raise UserError(
            f"a radar needs {_FEWEST} metrics at least, got {found}; name them with figure.metrics="
        )
    return found


def gains(chosen: Sequence[tuple[str, Point]]) -> dict[str, dict[str, Estimate]]:
    """Paired differences to vanilla of each copy: label -> metric -> difference with its 95 % interval."""
    vanilla = chosen[0][1].run
    pairs = [(0, number) for number in range(1, len(chosen))]
    found = compare_pairs([vanilla, *(point.run for _, point in chosen[1:])], pairs)
    return {label: one.differences for (label, _), one in zip(chosen[1:], found, strict=True)}


def table(
    chosen: Sequence[tuple[str, Point]], metrics: Sequence[str], against: Mapping[str, Mapping[str, Estimate]]
) -> list[dict[str, Any]]:
    """One record per metric: every run's score, and each copy's difference to vanilla with its interval."""
    records = []
    for metric in metrics:
        record: dict[str, Any] = {"metric": metric}
        record |= {label: round(point.run.result.metrics[metric], 4) for label, point in chosen}
        for label, found in against.items():
            names = (f"{label} less vanilla", f"{label} low", f"{label} high")
            record |= {name: round(part, 4) for name, part in zip(names, found[metric], strict=True)}
        records.append(record)
    return records


def draw(
    chosen: Sequence[tuple[str, Point]],
    groups: Sequence[Sequence[str]],
    against: Mapping[str, Mapping[str, Estimate]],
    title: str,
    unit: str,
    scale: str = "difference",
) -> Figure:
    """One radar per group of metrics; the number at each corner is vanilla's score.

    Args:
        groups: metrics of each radar, in their order around it.
        against: as `gains` gives it. A filled marker means that the interval does not hold 0.
        scale: "difference" to vanilla, whose corners then lie on one circle, or "score".
    """
    figure = Figure(figsize=(max(6.0, 4.8 * len(groups)), 5.6), layout="constrained")
    figure.suptitle(plain(title))
    for number, metrics in enumerate(groups):
        axes: Any = figure.add_subplot(1, len(groups), number + 1, projection="polar")
        angles = np.linspace(0, 2 * np.pi, len(metrics), endpoint=False)
        base = [chosen[0][1].run.result.metrics[metric] for metric in metrics]
        start = np.array(base) if scale == "score" else np.zeros(len(metrics))
        closed = np.append(angles, angles[0])  # lines return to their first corner
        axes.plot(
            closed,
            np.append(start, start[0]),
            color=VANILLA.colour,
            linestyle=VANILLA.dash,
            label=VANILLA.label,
        )
        axes.fill(angles, start, color=VANILLA.colour, alpha=0.12, linewidth=0)
        shown = [start]
        for (label, found), (colour, dash, marker) in zip(against.items(), _STYLES, strict=False):
            values = start + np.array([found[metric].value for metric in metrics])
            shown.append(values)
            axes.plot(closed, np.append(values, values[0]), color=colour, linestyle=dash)
            for angle, value, metric in zip(angles, values, metrics, strict=True):
                apart = found[metric].low > 0 or found[metric].high < 0
                face = colour if apart else "white"
                axes.plot(angle, value, marker, color=colour, markerfacecolor=face, zorder=3)
            axes.plot([], [], color=colour, linestyle=dash, marker=marker, label=label)
        lowest, highest = float(np.min(shown)), float(np.max(shown))
        room = max(0.25 * (highest - lowest), 0.5)
        axes.set_ylim(lowest - room, highest + room / 3)
        axes.set_theta_offset(np.pi / 2)
        axes.set_theta_direction(-1)
        corners = [f"{_short(name)}\n{value:.1f}" for name, value in zip(metrics, base, strict=True)]
        axes.set_xticks(angles, corners)
        axes.set_rlabel_position(180 / len(metrics))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(
            FuncFormatter(lambda x, _: f"{x:+g}" if x and scale == "difference" else f"{x:g}")
        )
        for text in axes.get_yticklabels():  # lines run through them
            text.set_bbox({"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.6})
        axes.tick_params(axis="x", pad=5)
        for text in axes.get_xticklabels():
            # Beside the circle a name begins or ends at it, so that it covers no marker.
            side = np.sin(text.get_position()[0])
            text.set_horizontalalignment("left" if side > 0.7 else "right" if side < -0.7 else "center")
        axes.spines["polar"].set_visible(False)
        axes.grid(color="#cccccc", linewidth=0.6)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    rings = f"difference to vanilla ({unit})" if scale == "difference" else f"score ({unit})"
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=len(labels),
        title=f"rings: {rings}; corners: vanilla's score\nfilled: the paired difference's 95 % interval leaves 0 out",
        title_fontsize="small",
    )
    return figure


def figure_of_runs(points: Sequence[Point], settings: Mapping[str, Any], family: str) -> Drawn:
    """Draw Fig. 4 from finished runs, with one radar for each group of metrics: two for MME."""
    chosen = choose(points)
    metrics = subtasks(points, settings["metrics"])
    groups = [metrics]
    apart = BENCHMARKS[points[0].run.result.benchmark].groups.values()
    if settings["metrics"] is None and apart:
        parts = [[name for name in part if name in metrics] for part in apart]
        groups = [part for part in parts if len(part) > 2] or groups
        metrics = [name for part in groups for name in part]
    title = f"Copying the hottest region at one layer\n{about(points)}"
    scale = choice("figure.scale", settings["scale"], SCALES)
    against = gains(chosen)
    units = points[0].run.result.unit(metrics[0])
    figure = draw(chosen, groups, against, title, units, scale)
    labels = {label: str(point.run.folder) for label, point in chosen}
    return Drawn({"copy_radar": figure}, table(chosen, metrics, against), {"runs": labels})


def _short(metric: str) -> str:
    return metric.replace("_", " ")
