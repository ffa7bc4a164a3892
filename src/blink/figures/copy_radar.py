"""Fig. 4: scores per subtask when the hottest region is copied at fixed layers, around the backbone as it is."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from blink.figures.points import Point
from blink.figures.style import BLUE, GREY, ORANGE, PURPLE, VERMILLION, plain

_STYLES = ((VERMILLION, "-", "o"), (BLUE, "--", "^"), (ORANGE, "-.", "D"), (PURPLE, (0, (3, 1, 1, 1)), "v"))
_FEWEST = 3
"""Corners that a radar needs."""


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
        raise ValueError(
            f"copy_radar needs one vanilla run and runs that each copy at one layer of its own; the runs scan {layers} "
            f"and {len(vanilla)} are vanilla"
        )
    if len(copies) > len(_STYLES):
        raise ValueError(
            f"copy_radar shows {len(_STYLES)} layers at most, the runs have {len(copies)}: give fewer"
        )
    return [*vanilla[:1], *((f"copy @{point.layers[0]}", point) for point in copies)]


def subtasks(points: Sequence[Point], named: Sequence[str] | None) -> list[str]:
    """The metrics to be corners: as named, or all that have an interval and are not the benchmark's main ones.

    Raises:
        ValueError: a named one does not exist, or there are fewer than three.
    """
    scores = points[0].run.scores
    if named is None:
        totals = {name for name in scores["metrics"] if name in scores["headline"][:2]}
        found = [name for name in scores["metrics"] if name not in totals]
    else:
        found = list(named)
        missing = [name for name in found if name not in scores["metrics"]]
        if missing:
            raise ValueError(f"figure.metrics={missing}: the runs have {', '.join(scores['metrics'])}")
    if len(found) < _FEWEST:
        raise ValueError(
            f"a radar needs {_FEWEST} metrics at least, got {found}; name them with figure.metrics="
        )
    return found


def table(chosen: Sequence[tuple[str, Point]], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """One record per metric, a column per run, and how far each copy is from vanilla."""
    records = []
    for metric in metrics:
        values = {label: point.run.scores["metrics"][metric] for label, point in chosen}
        record: dict[str, Any] = {"metric": metric} | {
            label: round(value, 4) for label, value in values.items()
        }
        for label, value in values.items():
            if label != "vanilla":
                record[f"{label} less vanilla"] = round(value - values["vanilla"], 4)
        records.append(record)
    return records


def draw(
    chosen: Sequence[tuple[str, Point]], groups: Sequence[Sequence[str]], title: str, zoom: bool = True
) -> Figure:
    """One radar per group of metrics.

    Args:
        groups: metrics of each radar, in their order around it.
        zoom: the centre is not 0 but a little below the lowest value of a radar.
    """
    figure = Figure(figsize=(4.6 * len(groups), 5.0), layout="constrained")
    figure.suptitle(plain(title))
    for number, metrics in enumerate(groups):
        axes: Any = figure.add_subplot(1, len(groups), number + 1, projection="polar")
        angles = np.linspace(0, 2 * np.pi, len(metrics), endpoint=False)
        values = {
            label: [point.run.scores["metrics"][metric] for metric in metrics] for label, point in chosen
        }
        for (label, points), (colour, dash, marker) in zip(
            values.items(), ((GREY, ":", "s"), *_STYLES), strict=False
        ):
            axes.plot(
                np.append(angles, angles[0]),
                [*points, points[0]],
                color=colour,
                linestyle=dash,
                marker=marker,
                label=label,
            )
        axes.fill(angles, values["vanilla"], color=GREY, alpha=0.12, linewidth=0)
        lowest, highest = (
            pick([min_max for line in values.values() for min_max in line]) for pick in (min, max)
        )
        room = max(0.15 * (highest - lowest), 0.5)
        axes.set_ylim(max(0, lowest - room) if zoom else 0, highest + room / 3)
        axes.set_theta_offset(np.pi / 2)
        axes.set_theta_direction(-1)
        axes.set_xticks(
            angles,
            [f"{_short(name)}\n{value:.1f}" for name, value in zip(metrics, values["vanilla"], strict=True)],
        )
        axes.set_rlabel_position(180 / len(metrics))
        axes.tick_params(axis="x", pad=8)
        axes.spines["polar"].set_visible(False)
        axes.grid(color="#cccccc", linewidth=0.6)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def _short(metric: str) -> str:
    return metric.replace("_", " ")
