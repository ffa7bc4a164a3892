"""Fig. 7: the score against the first scanned layer, the last one, and single layers."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from blink.analysis.figures.of_runs.points import (
    Point,
    about,
    difference_with_unit,
    estimate,
    gain,
    main_metric,
    the_method,
    vanilla_of,
    with_unit,
)
from blink.bench.statistics import Estimate
from blink.evaluation.compare import FinishedRun
from blink.evaluation.planning.presets import LAYER_STUDIES
from blink.inference.policy import parse_layers
from blink.runs.style import BLUE, GREY, ORANGE, Drawn, legend_above, plain
from blink.runs.values import UserError

Measure = Callable[[FinishedRun], Estimate]


class Ranges(NamedTuple):
    """Points sorted into the lines of the figure; each line maps a layer to a run.

    Attributes:
        last: the layer with which all ranges of `starting` end.
        starting: first layer -> run.
        first: the layer with which all ranges of `ending` begin.
        ending: last layer -> run.
        single: layer -> run.
    """

    last: int | None
    starting: dict[int, FinishedRun]
    first: int | None
    ending: dict[int, FinishedRun]
    single: dict[int, FinishedRun]


def sort_ranges(points: Sequence[Point], first: int | None = None, last: int | None = None) -> Ranges:
    """Find the runs that vary the first layer, the last layer, and single layers.

    Args:
        first: the fixed first layer of the runs that vary the last one; None: the one with most runs.
        last: the fixed last layer of the runs that vary the first one; None: the one with most runs.

    Raises:
        ValueError: two runs scan the same layers under other settings, layers are no range, or nothing varies.
    """
    for point in points:
        if point.layers != tuple(range(point.layers[0], point.layers[-1] + 1)):
            raise UserError(f"{point.run.folder} scans layers {list(point.layers)}, which are no range")
    points = [  # layer=6 and layer=6-6 are one setting
        point
        for i, point in enumerate(points)
        if not any(point[1:] == other[1:] and point.policy == other.policy for other in points[:i])
    ]
    twice = [layers for layers, count in Counter(point.layers for point in points).items() if count > 1]
    if twice:
        raise UserError(
            f"several runs scan layers {list(twice[0])}; give runs that differ in nothing but their layers"
        )
    ranges = [point for point in points if len(point.layers) > 1]
    last = _most_frequent([point.layers[-1] for point in ranges]) if last is None else last
    first = _most_frequent([point.layers[0] for point in ranges]) if first is None else first
    found = Ranges(
        last,
        {p.layers[0]: p.run for p in sorted(points, key=_layers) if p.layers[-1] == last},
        first,
        {p.layers[-1]: p.run for p in sorted(points, key=_layers) if p.layers[0] == first},
        {p.layers[0]: p.run for p in sorted(points, key=_layers) if len(p.layers) == 1},
    )
    if max(len(line) for line in (found.starting, found.ending, found.single)) < 2:
        raise UserError(
            "no two runs differ in their first, last or only layer; sweep layer=, such as layer=2-8,3-8,4-8"
        )
    return found


def table(ranges: Ranges, measure: Measure) -> list[dict[str, Any]]:
    """One record per point of each line."""
    return [
        {
            "line": line,
            "first_layer": layer if line != "ending" else ranges.first,
            "last_layer": layer if line != "starting" else ranges.last,
            **dict(zip(("score", "low", "high"), (round(part, 4) for part in measure(run)), strict=True)),
            "expanded": run.result.expanded,
            "folder": str(run.folder),
        }
        for line, runs in (
            ("starting", ranges.starting),
            ("ending", ranges.ending),
            ("single", ranges.single),
        )
        for layer, run in runs.items()
    ]


def draw(
    ranges: Ranges,
    measure: Measure,
    ylabel: str,
    title: str,
    vanilla: Estimate | None,
    ours: Sequence[int] = (),
) -> Figure:
    """One panel for starting layers, one for ending layers, single layers in both.

    Args:
        measure: score of a run with its interval.
        vanilla: score of the backbone as it is.
        ours: the main range of the backbone's layer study, shaded.
    """
    panels = [
        (f"from this layer to layer {ranges.last}", "first scanned layer", ranges.starting),
        (f"from layer {ranges.first} to this layer", "last scanned layer", ranges.ending),
    ]
    panels = [panel for panel in panels if len(panel[2]) > 1] or [("", "layer", {})]
    figure = Figure(figsize=(6.4, 0.6 + 2.7 * len(panels)), layout="constrained")
    figure.suptitle(plain(title))
    for axes, (label, xlabel, runs) in zip(
        np.atleast_1d(figure.subplots(len(panels), sharey=True)), panels, strict=True
    ):
        _draw_line(axes, ranges.single, measure, ORANGE, "--", "s", "this layer alone")
        _draw_line(axes, runs, measure, BLUE, "-", "o", label)
        if vanilla is not None:
            axes.axhline(vanilla.value, color=GREY, linestyle=":", label="vanilla")
        if ours:
            axes.axvspan(
                min(ours) - 0.5, max(ours) + 0.5, color=GREY, alpha=0.12, linewidth=0, label="main range"
            )
        axes.set_xticks(sorted({*ranges.single, *runs}))
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        legend_above(axes)
    return figure


def figure_of_runs(points: Sequence[Point], settings: Mapping[str, Any], family: str) -> Drawn:
    """Draw Fig. 7 from finished runs."""
    metric = main_metric(points, settings["metric"])
    acting = the_method(points, settings["method"])
    ranges = sort_ranges(acting, settings["first"], settings["last"])
    vanilla = vanilla_of(points)
    label, measure = f"{with_unit(points, metric)}, 95 % interval", lambda run: estimate(run, metric)
    level = None if vanilla is None else estimate(vanilla, metric)
    if settings["difference"]:
        if vanilla is None:
            raise UserError("figure.difference=true needs a method=vanilla run among figure.runs")
        base = vanilla
        unit = difference_with_unit(points, metric).partition("(")[2].rstrip(")")
        label, measure = (
            f"{metric} less vanilla's, in pairs\n({unit}), 95 % interval",
            lambda run: gain(base, run, metric),
        )
        level = level and level._replace(value=0.0)
    study = LAYER_STUDIES.get(family)
    ours = parse_layers(study.main) if study is not None else ()
    method = acting[0].run.result.method
    figure = draw(ranges, measure, label, f"Scanned layers, method {method}\n{about(points)}", level, ours)
    return Drawn({"layer_range": figure}, table(ranges, measure), {"metric": metric, "method": method})


def _draw_line(
    axes: Any, runs: dict[int, FinishedRun], measure: Measure, colour: str, dash: str, marker: str, label: str
) -> None:
    if not runs:
        return
    value, low, high = (np.array(part) for part in zip(*(measure(run) for run in runs.values()), strict=True))
    shift = 0.08 if dash == "--" else 0  # intervals at one layer would cover each other
    layers = np.array(list(runs)) + shift
    if not np.isnan(low).any():
        axes.errorbar(
            layers,
            value,
            yerr=(np.maximum(0, value - low), np.maximum(0, high - value)),
            fmt="none",
            ecolor=colour,
            capsize=2,
            elinewidth=1,
        )
    axes.plot(layers, value, color=colour, linestyle=dash, marker=marker, label=label)


def _layers(point: Point) -> tuple[int, ...]:
    return point.layers


def _most_frequent(layers: Sequence[int]) -> int | None:
    return Counter(layers).most_common(1)[0][0] if layers else None
