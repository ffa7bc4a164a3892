"""Scores over both thresholds, from runs written by hand."""

from pathlib import Path

import numpy as np
import pytest

from blink.analysis.figures.of_runs import thresholds
from blink.analysis.figures.of_runs.points import estimate, read_points
from tests.analysis.figures.conftest import counted, drawn, run


def test_threshold_grid(tmp_path: Path) -> None:
    """Would catch tau_exp and tau_drop exchanged, and a missing cell that stops the figure."""
    taus = [(0.4, 0.2), (0.4, 0.3), (0.6, 0.2)]
    folders = [run(tmp_path, [2], wrong=n, tau=tau) for n, tau in enumerate(taus)]
    points = read_points(folders, "pope")
    grid = thresholds.sort_grid(points)
    values = grid.values(lambda found: estimate(found, "accuracy").value)
    assert (grid.tau_exp, grid.tau_drop) == ([0.4, 0.6], [0.2, 0.3])
    assert np.isnan(values[1, 1])
    assert values[0, 0] > values[1, 0] > values[0, 1]
    made = drawn("thresholds", points, tmp_path, metric="accuracy")
    assert [(record["tau_exp"], record["tau_drop"]) for record in made.table] == taus[:2] + taus[2:]
    assert made.table[0]["expanded samples (%)"] == 50
    with pytest.raises(ValueError, match=r"several runs have tau_exp=0.4 and tau_drop=0.2"):
        thresholds.sort_grid([*points, *read_points([run(tmp_path, [3], tau=(0.4, 0.2))], "pope")])
    with pytest.raises(ValueError, match="one run is no grid"):
        thresholds.sort_grid(points[:1])


def test_threshold_grid_shows_the_cost(tmp_path: Path) -> None:
    """Would catch a cost per run taken for one per question, and a ratio turned over."""
    grid = [counted(run(tmp_path, [2], tau=(up, 0.4)), n) for up, n in ((0.4, 36 * 10**9), (0.6, 30 * 10**9))]
    alone = drawn("thresholds", read_points(grid, "pope"), tmp_path)
    assert [record["GFLOPs per question"] for record in alone.table] == [1.5, 1.25]
    vanilla = counted(run(tmp_path, None), 24 * 10**9)
    beside = drawn("thresholds", read_points([vanilla, *grid], "pope"), tmp_path)
    assert [record["FLOPs over vanilla's"] for record in beside.table] == [1.5, 1.25]
    uncounted = drawn("thresholds", read_points([counted(run(tmp_path, None), 0), *grid], "pope"), tmp_path)
    assert not [name for name in uncounted.table[0] if "FLOPs" in name]


def test_colours_of_equal_values_end_at_them(tmp_path: Path) -> None:
    """Would catch a colour bar that goes on beyond 100 % where all samples expand."""
    points = read_points([run(tmp_path, [2], tau=tau) for tau in ((0.4, 0.3), (0.5, 0.3))], "pope")
    figure = drawn("thresholds", points, tmp_path).figures["thresholds"]
    for axes in figure.axes[: len(figure.axes) // 2]:
        [image] = axes.images
        values = image.get_array()
        assert values is not None
        assert image.norm.vmax == values.max()
