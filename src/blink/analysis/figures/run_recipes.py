"""Figures of finished evaluations: no model is loaded."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from blink.analysis.figures import copy_radar, layer_range, thresholds
from blink.analysis.figures.points import (
    Point,
    about,
    estimate,
    gain,
    main_metric,
    the_method,
    vanilla_of,
    with_unit,
)
from blink.bench.mme import COGNITION, PERCEPTION
from blink.bench.statistics import Floats
from blink.evaluation.compare import Run, unit
from blink.evaluation.presets import LAYER_STUDIES
from blink.inference.policy import parse_layers
from blink.runs.style import Drawn

SCALES = ("difference", "score")


def draw_copies(points: Sequence[Point], settings: Mapping[str, Any], family: str) -> Drawn:
    """Fig. 4, with one radar for each of MME's two parts."""
    chosen = copy_radar.choose(points)
    metrics = copy_radar.subtasks(points, settings["metrics"])
    groups = [metrics]
    if settings["metrics"] is None and points[0].run.scores["benchmark"] == "mme":
        parts = [[name for name in part if name in metrics] for part in (PERCEPTION, COGNITION)]
        groups = [part for part in parts if len(part) > 2] or groups
        metrics = [name for part in groups for name in part]
    title = f"Copying the hottest region at one layer\n{about(points)}"
    if settings["scale"] not in SCALES:
        raise ValueError(f"figure.scale={settings['scale']!r}: expected one of {', '.join(SCALES)}")
    against = copy_radar.gains(chosen)
    units = unit(points[0].run.scores, metrics[0])
    figure = copy_radar.draw(chosen, groups, against, title, units, settings["scale"])
    labels = {label: str(point.run.folder) for label, point in chosen}
    return Drawn({"copy_radar": figure}, copy_radar.table(chosen, metrics, against), {"runs": labels})


def draw_layer_range(points: Sequence[Point], settings: Mapping[str, Any], family: str) -> Drawn:
    """Fig. 7."""
    metric = main_metric(points, settings["metric"])
    acting = the_method(points, settings["method"])
    ranges = layer_range.sort_ranges(acting, settings["first"], settings["last"])
    vanilla = vanilla_of(points)
    label, measure = f"{with_unit(points, metric)}, 95 % interval", lambda run: estimate(run, metric)
    level = None if vanilla is None else estimate(vanilla, metric)
    if settings["difference"]:
        if vanilla is None:
            raise ValueError("figure.difference=true needs a method=vanilla run among figure.runs")
        base = vanilla
        label, measure = (
            f"{with_unit(points, metric)} less vanilla's\n95 % interval",
            lambda run: gain(base, run, metric),
        )
        level = level and level._replace(value=0.0)
    study = LAYER_STUDIES.get(family)
    ours = parse_layers(study.main) if study is not None else ()
    method = acting[0].run.scores["method"]
    figure = layer_range.draw(
        ranges, measure, label, f"Scanned layers, method {method}\n{about(points)}", level, ours
    )
    return Drawn(
        {"layer_range": figure}, layer_range.table(ranges, measure), {"metric": metric, "method": method}
    )


def draw_thresholds(points: Sequence[Point], settings: Mapping[str, Any], family: str) -> Drawn:
    """Both thresholds."""
    metric = main_metric(points, settings["metric"])
    acting = the_method(points, settings["method"])
    grid = thresholds.sort_grid(acting)
    panels = {
        with_unit(points, metric): grid.values(lambda run: estimate(run, metric).value),
        "expanded samples (%)": grid.values(lambda run: 100 * run.scores["expanded"]),
    }
    panels |= _costs(grid, vanilla_of(points))
    method = acting[0].run.scores["method"]
    layers = sorted({layer for point in acting for layer in point.layers})
    title = f"Thresholds, method {method}, layers {', '.join(map(str, layers))}\n{about(points)}"
    figure = thresholds.draw(grid, panels, title)
    return Drawn({"thresholds": figure}, thresholds.table(grid, panels), {"metric": metric, "method": method})


def _costs(grid: thresholds.Grid, vanilla: Run | None) -> dict[str, Floats]:
    """What a question costs, picture and answer included: over vanilla's if that is there; nothing for runs without it."""
    runs = [*grid.runs.values(), *([] if vanilla is None else [vanilla])]
    if not all(run.scores.get("flops") for run in runs):
        return {}
    if vanilla is None:
        return {"GFLOPs per question": grid.values(lambda run: run.scores["flops"] / run.scores["n"] / 1e9)}
    whole = vanilla.scores["flops"]
    return {"FLOPs over vanilla's": grid.values(lambda run: run.scores["flops"] / whole)}


RUN_RECIPES: dict[str, Callable[[Sequence[Point], Mapping[str, Any], str], Drawn]] = {
    "copy_radar": draw_copies,
    "layer_range": draw_layer_range,
    "thresholds": draw_thresholds,
}


def run_folders(runs: Any) -> list[Path]:
    """The folders that `figure.runs` names, one or a list."""
    return [Path(str(folder)).expanduser() for folder in (runs if isinstance(runs, list) else [runs])]
