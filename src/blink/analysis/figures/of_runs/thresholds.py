"""Score, share of expanded samples and cost over a grid of both thresholds."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from blink.analysis.figures.of_runs.points import (
    Point,
    about,
    estimate,
    main_metric,
    the_method,
    vanilla_of,
    with_unit,
)
from blink.bench.statistics import Floats
from blink.evaluation.compare import FinishedRun
from blink.runs.style import Drawn, plain
from blink.runs.values import UserError

_MOST_WRITTEN = 8
"""Rows or columns up to which cells carry their value."""


class Grid(NamedTuple):
    """Runs by thresholds, in 2 x 2 units; `runs` maps (tau_exp, tau_drop) to a run."""

    tau_exp: list[float]
    tau_drop: list[float]
    runs: dict[tuple[float, float], FinishedRun]

    def values(self, measure: Callable[[FinishedRun], float]) -> Floats:
        """[tau_drop, tau_exp]; nan where there is no run."""
        return np.array(
            [
                [
                    measure(self.runs[key]) if (key := (up, down)) in self.runs else np.nan
                    for up in self.tau_exp
                ]
                for down in self.tau_drop
            ]
        )


def sort_grid(points: Sequence[Point]) -> Grid:
    """Arrange runs that differ in nothing but their thresholds.

    Raises:
        ValueError: two runs have the same thresholds, or neither threshold varies.
    """
    runs: dict[tuple[float, float], FinishedRun] = {}
    for point in points:
        assert point.policy is not None, "the backbone as it is has no thresholds"
        key = (float(point.policy.tau_exp), float(point.policy.tau_drop))
        if key in runs:
            raise UserError(
                f"several runs have tau_exp={key[0]} and tau_drop={key[1]} ({runs[key].folder} and "
                f"{point.run.folder}); give runs that differ in nothing but the thresholds"
            )
        runs[key] = point.run
    if len(runs) < 2:
        raise UserError(
            "one run is no grid; sweep the thresholds, such as tau_exp=0.4,0.5,0.6 tau_drop=0.2,0.3,0.4"
        )
    return Grid(sorted({up for up, _ in runs}), sorted({down for _, down in runs}), runs)


def table(grid: Grid, panels: Mapping[str, Floats]) -> list[dict[str, Any]]:
    """One record per run."""
    return [
        {
            "tau_exp": up,
            "tau_drop": down,
            **{name: round(float(values[j, i]), 6) for name, values in panels.items()},
            "folder": str(grid.runs[up, down].folder),
        }
        for i, up in enumerate(grid.tau_exp)
        for j, down in enumerate(grid.tau_drop)
        if (up, down) in grid.runs
    ]


def draw(grid: Grid, panels: Mapping[str, Floats], title: str) -> Figure:
    """One heat map per panel, tau_exp to the right and tau_drop upwards; cells without a run are white.

    Args:
        panels: label -> [tau_drop, tau_exp].
    """
    columns, rows = len(grid.tau_exp), len(grid.tau_drop)
    side = max(2.6, min(4.4, 0.62 * columns))
    figure = Figure(
        figsize=(1.1 + (side + 0.9) * len(panels), 1.6 + max(1.4, side * rows / columns)),
        layout="constrained",
    )
    figure.suptitle(plain(title))
    for axes, (name, values) in zip(
        np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True
    ):
        least, greatest = _scale(values)
        image = axes.imshow(values, origin="lower", aspect="auto", vmin=least, vmax=greatest)
        figure.colorbar(image, ax=axes, location="top", shrink=0.9, label=plain(name))
        axes.set_xticks(range(columns), [f"{value:g}" for value in grid.tau_exp])
        axes.set_yticks(range(rows), [f"{value:g}" for value in grid.tau_drop])
        axes.set_xlabel("expand above (tau_exp)")
        axes.set_ylabel("drop below (tau_drop)")
        axes.spines[:].set_visible(False)
        if max(columns, rows) <= _MOST_WRITTEN:
            for (row, column), value in np.ndenumerate(values):
                if not np.isnan(value):
                    dark = value < (least + greatest) / 2
                    axes.text(
                        column,
                        row,
                        _written(value, greatest),
                        ha="center",
                        va="center",
                        color="white" if dark else "black",
                        fontsize="small",
                    )
    return figure


def figure_of_runs(points: Sequence[Point], settings: Mapping[str, Any], family: str) -> Drawn:
    """Draw the heat maps from finished runs: score, share of expanded samples and, where it was counted, cost."""
    metric = main_metric(points, settings["metric"])
    acting = the_method(points, settings["method"])
    grid = sort_grid(acting)
    panels = {
        with_unit(points, metric): grid.values(lambda run: estimate(run, metric).value),
        "expanded samples (%)": grid.values(lambda run: run.result.expanded_percent),
    }
    panels |= _costs(grid, vanilla_of(points))
    method = acting[0].run.result.method
    layers = sorted({layer for point in acting for layer in point.layers})
    title = f"Thresholds, method {method}, layers {', '.join(map(str, layers))}\n{about(points)}"
    figure = draw(grid, panels, title)
    return Drawn({"thresholds": figure}, table(grid, panels), {"metric": metric, "method": method})


def _scale(values: Floats) -> tuple[float, float]:
    """Ends of the colours: the least and the greatest value; equal ones end the scale, which would else go beyond 100 %."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    return (low, high) if low < high else (low - max(abs(low), 1) / 100, high)


def _written(value: float, greatest: float) -> str:
    return f"{value:.1f}" if greatest >= 10 else f"{value:.3f}"


def _costs(grid: Grid, vanilla: FinishedRun | None) -> dict[str, Floats]:
    """FLOPs of a question, picture and answer included, relative to vanilla's if that is there; empty if a run did not count them."""
    runs = [*grid.runs.values(), *([] if vanilla is None else [vanilla])]
    if not all(run.result.flops for run in runs):
        return {}
    if vanilla is None:
        return {"GFLOPs per question": grid.values(lambda run: run.result.gflops_per_question or np.nan)}
    whole = vanilla.result.flops or np.nan
    return {"FLOPs over vanilla's": grid.values(lambda run: (run.result.flops or np.nan) / whole)}
