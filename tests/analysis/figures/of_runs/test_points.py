"""Which finished runs stand together in one figure."""

from pathlib import Path

import pytest

from blink.analysis.figures.of_runs.points import main_metric, read_points, the_method
from blink.evaluation.sweeps.report import note_job
from tests.analysis.figures.conftest import run


def test_runs_and_sweeps_stand_together(tmp_path: Path) -> None:
    """Would catch a run that counts twice because its sweep is given, too."""
    (tmp_path / "runs").mkdir()
    first, second = run(tmp_path / "runs", [2]), run(tmp_path / "runs", [3])
    note_job(tmp_path / "sweep", 0, ["layer=2"], first)
    note_job(tmp_path / "sweep", 1, ["layer=3"], second)
    points = read_points([second, tmp_path / "sweep"], "pope")
    assert [point.layers for point in points] == [(3,), (2,)]


def test_folders_of_runs_and_sweeps(tmp_path: Path) -> None:
    """Would catch outputs/eval refused, runs in it that count twice, and those that were put aside or are not finished."""
    for folder in ("eval", "elsewhere", "sweeps/taus"):
        (tmp_path / folder).mkdir(parents=True)
    first, _ = run(tmp_path / "eval", [2]), run(tmp_path / "eval", [3])
    run(tmp_path / "eval", [4]).rename(first.with_name(f"{first.name}.old1"))
    run(tmp_path / "eval", [5]).rename(first.with_name(f"{first.name}.rerun2"))
    (run(tmp_path / "eval", [6]) / "scores.json").unlink()
    third = run(tmp_path / "elsewhere", [7])
    note_job(tmp_path / "sweeps" / "taus", 0, ["layer=7"], third)
    note_job(tmp_path / "sweeps" / "taus", 1, ["layer=2"], first)
    assert [point.layers for point in read_points([tmp_path / "eval"], "pope")] == [(2,), (3,)]
    assert [point.layers for point in read_points([tmp_path / "sweeps"], "pope")] == [(7,), (2,)]
    assert [point.layers for point in read_points([tmp_path], "pope")] == [(7,), (2,), (3,)]


def test_runs_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    """Would catch scores of different questions on one axis."""
    first, second = run(tmp_path, [2]), run(tmp_path, [3], data="elsewhere")
    with pytest.raises(
        ValueError, match=r"has data by hand and .* elsewhere; a figure needs runs over the same"
    ):
        read_points([first, second], "pope")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="neither a finished run"):
        read_points([tmp_path / "empty"], "pope")
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
