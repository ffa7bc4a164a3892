"""Figures of finished evaluations, from runs written by hand."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blink.analysis.figures import copy_radar, layer_range, thresholds
from blink.analysis.figures.points import Point, estimate, gain, main_metric, read_points, the_method
from blink.analysis.figures.run_recipes import RUN_RECIPES
from blink.evaluation.sweeps.report import note_job
from blink.runs.style import Drawn, look
from tests.finished_runs import Rule, finish, samples

WRONG = [f"random/{picture}yes" for picture in range(4)]


def run(
    root: Path,
    layers: Sequence[int] | None,
    wrong: int = 0,
    tau: tuple[float, float] = (0.5, 0.4),
    **about: Any,
) -> Path:
    """One finished run; without layers one of the backbone as it is."""
    policy = None
    if layers is not None:
        policy = {"layers": list(layers), "tau_exp": tau[0], "tau_drop": tau[1], "patches": 2}
    folder = root / f"run{len(list(root.iterdir()))}"
    method = {"method": "vanilla" if layers is None else "interp", "backbone": "b"} | about
    finish(folder, Rule(wrong=WRONG[:wrong]), samples(), policy=policy, **method)
    return folder


def drawn(name: str, points: Sequence[Point], tmp_path: Path, **settings: Any) -> Drawn:
    """A figure of runs, drawn for real: warnings of layout and fonts come then."""
    everything = dict.fromkeys(("metric", "metrics", "method", "first", "last"))
    with look():
        made = RUN_RECIPES[name](
            points, everything | {"difference": False, "scale": "difference"} | settings, "tiny"
        )
        for figure in made.figures.values():
            figure.savefig(tmp_path / "figure.png")
    return made


def test_runs_and_sweeps_stand_together(tmp_path: Path) -> None:
    """Would catch a run that counts twice because its sweep is given, too."""
    (tmp_path / "runs").mkdir()
    first, second = run(tmp_path / "runs", [2]), run(tmp_path / "runs", [3])
    note_job(tmp_path / "sweep", 0, ["layer=2"], first)
    note_job(tmp_path / "sweep", 1, ["layer=3"], second)
    points = read_points([second, tmp_path / "sweep"], "pope")
    assert [point.layers for point in points] == [(3,), (2,)]


def test_runs_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    """Would catch scores of different questions on one axis."""
    first, second = run(tmp_path, [2]), run(tmp_path, [3], data="elsewhere")
    with pytest.raises(
        ValueError, match=r"has data by hand and .* elsewhere; a figure needs runs over the same"
    ):
        read_points([first, second], "pope")
    with pytest.raises(ValueError, match="neither a finished run"):
        read_points([tmp_path], "pope")
    with pytest.raises(ValueError, match=r"runs= is empty"):
        read_points([], "pope")


def test_method_must_be_clear(tmp_path: Path) -> None:
    """Would catch interpolation and TokenSR mixed in one line."""
    points = read_points(
        [run(tmp_path, [2]), run(tmp_path, [3], method="blink"), run(tmp_path, None)], "pope"
    )
    with pytest.raises(
        ValueError, match=r"the runs are of methods interp, blink; choose one with figure.method="
    ):
        the_method(points, None)
    assert [point.layers for point in the_method(points, "blink")] == [(3,)]
    with pytest.raises(ValueError, match=r"figure.metric='x': the runs have "):
        main_metric(points, "x")


def test_layer_ranges_are_sorted_into_lines(tmp_path: Path) -> None:
    """Would catch a range in the wrong panel, and single layers that miss at the end of both lines."""
    scans = [[2], [3], [4], [2, 3, 4], [3, 4], [2, 3]]
    points = read_points([run(tmp_path, layers) for layers in scans], "pope")
    found = layer_range.sort_ranges(points)
    assert (found.last, list(found.starting)) == (4, [2, 3, 4])
    assert (found.first, list(found.ending)) == (2, [2, 3, 4])
    assert list(found.single) == [2, 3, 4]
    assert found.starting[3].folder == tmp_path / "run4"
    other = layer_range.sort_ranges(points, last=3)
    assert list(other.starting) == [2, 3]


def test_layer_range_refuses_what_it_cannot_sort(tmp_path: Path) -> None:
    """Would catch thresholds swept along with layers, whose points would cover each other."""
    points = read_points([run(tmp_path, [2]), run(tmp_path, [2], tau=(0.6, 0.4))], "pope")
    with pytest.raises(ValueError, match=r"several runs scan layers \[2\]"):
        layer_range.sort_ranges(points)
    with pytest.raises(ValueError, match="no two runs differ"):
        layer_range.sort_ranges(points[:1])
    with pytest.raises(ValueError, match=r"scans layers \[1, 3\], which are no range"):
        layer_range.sort_ranges(read_points([run(tmp_path, [1, 3])], "pope"))


def test_layer_range_figure(tmp_path: Path) -> None:
    """Would catch scores against the wrong layer, and intervals lost on the way."""
    folders = [run(tmp_path, [n], wrong=n) for n in (1, 2, 3)] + [
        run(tmp_path, [1, 2, 3]),
        run(tmp_path, None),
    ]
    points = read_points(folders, "pope")
    made = drawn("layer_range", points, tmp_path)
    singles = {record["first_layer"]: record for record in made.table if record["line"] == "single"}
    scores = {point.layers[0]: estimate(point.run, "f1") for point in points if len(point.layers) == 1}
    assert {layer: record["score"] for layer, record in singles.items()} == pytest.approx(
        {layer: score.value for layer, score in scores.items()}, abs=1e-4
    )
    assert singles[1]["score"] > singles[3]["score"]
    assert singles[3]["low"] < singles[3]["score"] < singles[3]["high"]


def test_layer_range_as_difference(tmp_path: Path) -> None:
    """Would catch a difference with the wrong sign, or to something else than vanilla."""
    vanilla, folders = run(tmp_path, None), [run(tmp_path, [1], wrong=1), run(tmp_path, [2], wrong=2)]
    points = read_points([vanilla, *folders], "pope")
    made = drawn("layer_range", points, tmp_path, difference=True)
    assert [record["score"] for record in made.table if record["line"] == "single"] == pytest.approx(
        [gain(points[0].run, point.run, "f1").value for point in points[1:]], abs=1e-4
    )
    assert all(record["score"] < 0 for record in made.table)
    with pytest.raises(ValueError, match="needs a method=vanilla run"):
        drawn("layer_range", points[1:], tmp_path, difference=True)


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


def counted(folder: Path, flops: int) -> Path:
    """The run, as if its questions had cost so much."""
    scores = json.loads((folder / "scores.json").read_text())
    (folder / "scores.json").write_text(json.dumps(scores | {"flops": flops}))
    return folder


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
