"""Scores per subtask, from runs written by hand."""

from pathlib import Path

import pytest

from blink.analysis.figures.of_runs import copy_radar
from blink.analysis.figures.of_runs.points import read_points
from tests.analysis.figures.conftest import drawn, run


def test_copy_radar(tmp_path: Path) -> None:
    """Would catch a copy compared with another copy in place of vanilla, and totals among the subtasks."""
    folders = [run(tmp_path, [5], wrong=2), run(tmp_path, None, wrong=1), run(tmp_path, [3])]
    points = read_points(folders, "pope")
    assert [label for label, _ in copy_radar.choose(points)] == ["vanilla", "copy @3", "copy @5"]
    made = drawn("copy_radar", points, tmp_path)
    record = next(record for record in made.table if record["metric"] == "random_accuracy")
    assert record["copy @3 less vanilla"] == pytest.approx(record["copy @3"] - record["vanilla"])
    assert record["copy @3"] > record["vanilla"] > record["copy @5"]
    assert record["copy @3 low"] <= record["copy @3 less vanilla"] <= record["copy @3 high"]
    assert "f1" not in [record["metric"] for record in made.table]
    drawn("copy_radar", points, tmp_path, scale="score")
    with pytest.raises(ValueError, match=r"figure.scale='zoom': expected one of difference, score"):
        drawn("copy_radar", points, tmp_path, scale="zoom")


def test_copy_radar_refuses_what_is_no_copy(tmp_path: Path) -> None:
    """Would catch ranges drawn as if they were copies at one layer."""
    points = read_points([run(tmp_path, [2, 3]), run(tmp_path, None)], "pope")
    with pytest.raises(ValueError, match="needs one vanilla run and runs that each copy at one layer"):
        copy_radar.choose(points)
    with pytest.raises(ValueError, match=r"figure.metrics=\['x'\]"):
        copy_radar.subtasks(points, ["f1", "x"])
    with pytest.raises(ValueError, match="a radar needs 3 metrics"):
        copy_radar.subtasks(points, ["f1"])
