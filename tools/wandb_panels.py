"""`python -m tools.wandb_panels FOLDER`: the panels that `docs/wandb.md` recommends, drawn from offline runs.

For machines that no dashboard can be reached from. All that is drawn comes from W&B's own files below the folder; pieces
of a run that was killed and went on are put together.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from blink.runs.command import one_line_errors
from blink.runs.style import BLACK, BLUE, GREEN, INTERP, MAP, TOKEN_SR, VERMILLION, bare, look, plain
from blink.training.dashboard import STEP
from tools.wandb_offline import OfflineRun, read_offline_runs

_MOST_RUNS = 12
"""Evaluations that are drawn beside each other."""

_MOST_PICTURES = 8
"""Rows of a table of predictions that are drawn."""


def main() -> None:
    """Draw the panels of every kind of run below a folder."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.wandb_panels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="of a run, a sweep, or several")
    parser.add_argument("--to", type=Path, default=Path("panels"), help="where the PNG files go (panels)")
    arguments = parser.parse_args()
    with one_line_errors():
        runs = joined(read_offline_runs(arguments.folder))
    arguments.to.mkdir(parents=True, exist_ok=True)
    with look():
        for name, figure in panels(runs).items():
            figure.savefig(arguments.to / f"{name}.png", dpi=100)
            print(arguments.to / f"{name}.png")


def joined(runs: Sequence[OfflineRun]) -> list[OfflineRun]:
    """Put the pieces of each run together, in the order in which they were begun."""
    found: dict[str, OfflineRun] = {}
    for run in runs:
        earlier = found.get(run.identity["id"])
        if earlier is None:
            found[run.identity["id"]] = run
        else:
            found[run.identity["id"]] = run._replace(
                stored={**earlier.stored, **run.stored},
                history=[*earlier.history, *run.history],
                summary={**earlier.summary, **run.summary},
            )
    return list(found.values())


def panels(runs: Sequence[OfflineRun]) -> dict[str, Figure]:
    """Name -> figure: of the last training run, of all evaluations, and of the last summary of a sweep."""
    by_kind: dict[str, list[OfflineRun]] = {}
    for run in runs:
        by_kind.setdefault(run.identity["job_type"], []).append(run)
    figures = {}
    if "training" in by_kind:
        figures["training"] = training(by_kind["training"][-1])
    if "evaluation" in by_kind:
        figures["evaluation"] = evaluation(by_kind["evaluation"][:_MOST_RUNS])
    if "summary" in by_kind:
        figures["sweep"] = sweep(by_kind["summary"][-1])
    return figures


def training(run: OfflineRun) -> Figure:
    """Loss, KL on held-out images, rate and gradient norm, speed, KL per layer, and the last features."""
    figure = Figure(figsize=(9, 6.2), layout="constrained")
    figure.suptitle(plain(run.identity["name"], 100))
    parts: Any = figure.subfigures(2, 1, height_ratios=(1.9, 1))
    upper, lower = parts
    grid = upper.subplots(2, 3).flat
    for axes, name in zip(
        grid,
        ("train/loss", "train/learning_rate", "train/gradient_norm", "train/pairs_per_second"),
        strict=False,
    ):
        _line(axes, run, name, STEP)
    axes = grid[4]
    for name, line in (("held_out/kl_interpolation", INTERP), ("held_out/kl_token_sr", TOKEN_SR)):
        x, y = _course(run, name, STEP)
        axes.plot(x, y, color=line.colour, linestyle=line.dash, marker=line.marker, label=line.label)
    axes.set(title="held_out/kl_*", xlabel=STEP, ylim=(0, None))
    axes.legend()
    table = run.table("Custom Chart Tables/held_out/kl_per_layer_table")
    _lines(grid[5], table["data"], "held_out/kl_per_layer", "layer")
    names = [
        name for name in {key: None for row in run.history for key in row} if name.startswith("features/")
    ]
    shown = lower.subplots(1, len(names[:2]) or 1, squeeze=False)[0]
    for axes, name in zip(shown, names[-2:], strict=False):
        picture = run.column(name)[-1]
        axes.imshow(Image.open(run.picture(picture)))
        axes.set_title(f"{name}: quadrant, coarse, interpolated, TokenSR, teacher", fontsize="small")
        bare(axes)
    return figure


def evaluation(runs: Sequence[OfflineRun]) -> Figure:
    """Scores of all runs, cost, what happened per layer and the ratios of one of them, and some of its predictions."""
    of_one = max(
        runs, key=lambda run: (len(run.column("events/mean_ratio")), len(run.column("predictions/table")))
    )
    figure = Figure(figsize=(9, 6.6), layout="constrained")
    figure.suptitle(plain(of_one.identity["group"] or of_one.identity["name"], 100))
    parts: Any = figure.subfigures(2, 1, height_ratios=(1.7, 1))
    upper, lower = parts
    grid = upper.subplots(2, 2).flat
    names = [run.identity["name"].replace(of_one.identity["group"], "") for run in runs]
    for axes, metric in zip(grid, ("scores/main", "cost/gflops_per_question"), strict=False):
        values = [run.column(metric)[-1] if run.column(metric) else np.nan for run in runs]
        axes.barh(range(len(runs)), values, color=BLUE, height=0.6)
        axes.set_yticks(range(len(runs)), [_ending(name) for name in names], fontsize="x-small")
        axes.invert_yaxis()
        axes.set_title(metric)
    rows = [row for row in of_one.history if "events/mean_ratio" in row]
    layers = [row["layer"] for row in rows]
    styles = {"expand": (VERMILLION, "-", "o"), "keep": (BLUE, "--", "^"), "drop": ("black", ":", "s")}
    for action, (colour, dash, marker) in styles.items():
        values = [row[f"events/{action}_percent"] for row in rows]
        grid[2].plot(layers, values, color=colour, linestyle=dash, marker=marker, label=action)
    grid[2].set(title="events/*_percent", xlabel="layer", ylim=(0, 100))
    grid[2].legend()
    histograms = of_one.column("ratios/at_layer")
    if histograms:
        counts = np.array([found["values"] for found in histograms]).T
        grid[3].imshow(
            counts, origin="lower", aspect="auto", cmap=MAP, extent=(-0.5, len(layers) - 0.5, 0, 1)
        )
        grid[3].set_xticks(range(len(layers)), [str(layer) for layer in layers])
    grid[3].set(title="ratios/at_layer", xlabel="layer", ylabel="ratio")
    _predictions(lower, of_one)
    return figure


def sweep(run: OfflineRun) -> Figure:
    """Score of every point, against its cost, and the main score as lines."""
    figure = Figure(figsize=(9, 2.9), layout="constrained")
    figure.suptitle(plain(run.identity["group"], 100))
    grid = figure.subplots(1, 3)
    rows = [row for row in run.history if "points/score" in row]
    points, scores = [row["point"] for row in rows], [row["points/score"] for row in rows]
    low = [row.get("points/score_low", row["points/score"]) for row in rows]
    high = [row.get("points/score_high", row["points/score"]) for row in rows]
    grid[0].vlines(points, low, high, color=BLUE, linewidth=1)
    grid[0].plot(points, scores, "o", color=BLUE)
    grid[0].set(title="points/score, with _low and _high", xlabel="point")
    grid[1].plot([row.get("points/gflops_per_question", np.nan) for row in rows], scores, "o", color=BLUE)
    grid[1].set(title="points/score", xlabel="points/gflops_per_question")
    charts = [name for name in _names(run) if name.startswith("Custom Chart Tables/sweep/")]
    for name in charts[:1]:
        shown = name.removeprefix("Custom Chart Tables/").removesuffix("_table")
        _lines(grid[2], run.table(name)["data"], shown, "swept value")
    return figure


def _predictions(figure: Any, run: OfflineRun) -> None:
    """Some rows of the table of predictions: thumbnail, question, response and label."""
    if not run.column("predictions/table"):
        return
    table = run.table("predictions/table")
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    rows = sorted(rows, key=lambda row: (row["correct"] != "wrong", not row["expanded at"]))[:_MOST_PICTURES]
    for axes, row in zip(figure.subplots(1, len(rows), squeeze=False)[0], rows, strict=True):
        axes.imshow(Image.open(run.picture(row["picture"])))
        bare(axes)
        axes.set_title(row["correct"])
        text = f"{row['question'].splitlines()[0]}\n{row['response']} (label: {row['label']})"
        axes.set_xlabel(plain(text, 16, 7), fontsize="x-small")


def _line(axes: Axes, run: OfflineRun, name: str, against: str) -> None:
    axes.plot(*_course(run, name, against), color=BLUE)
    axes.set(title=name, xlabel=against, ylim=(0, None))


def _course(run: OfflineRun, name: str, against: str) -> tuple[list[float], list[float]]:
    """Places and values of a metric; of a step that was made twice, since the run was killed, the last counts."""
    found = {row[against]: row[name] for row in run.history if name in row and against in row}
    return sorted(found), [found[at] for at in sorted(found)]


def _lines(axes: Axes, points: Sequence[Sequence[Any]], title: str, x_name: str) -> None:
    """Lines of a chart's table: rows of x, line, y."""
    by_line: dict[str, list[tuple[float, float]]] = {}
    for x, line, y in points:
        by_line.setdefault(line, []).append((x, y))
    styles: Mapping[str, Any] = {"TokenSR": TOKEN_SR, "interpolation": INTERP}
    for number, (line, found) in enumerate(by_line.items()):
        style = styles.get(line)
        look: dict[str, Any] = (
            {"color": style.colour, "linestyle": style.dash, "marker": style.marker}
            if style
            else {
                "color": (BLUE, VERMILLION, GREEN, BLACK)[number % 4],
                "linestyle": ("-", "--", ":", "-.")[number % 4],
                "marker": "o^sD"[number % 4],
            }
        )
        axes.plot(*zip(*sorted(found), strict=True), label=line, **look)
    axes.set(title=title, xlabel=x_name)
    axes.legend(fontsize="x-small")


def _names(run: OfflineRun) -> list[str]:
    return list(dict.fromkeys(key for row in run.history for key in row))


def _ending(name: str, most: int = 34) -> str:
    return name if len(name) <= most else f"...{name[-most:]}"


if __name__ == "__main__":
    main()
