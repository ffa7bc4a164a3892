"""Scores against layers, from runs written by hand."""

from pathlib import Path

import pytest

from blink.analysis.figures.of_runs import layer_range
from blink.analysis.figures.of_runs.points import estimate, gain, read_points
from tests.analysis.figures.conftest import drawn, run


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


def test_one_setting_under_two_names_is_one_point(tmp_path: Path) -> None:
    """Would catch the paper's three experiments refused together, since layer=6 and layer=6-6 are runs of their own."""
    points = read_points([run(tmp_path, layers) for layers in ([2], [2], [3])], "pope")
    assert {layer: found.folder.name for layer, found in layer_range.sort_ranges(points).single.items()} == {
        2: "run0",
        3: "run2",
    }


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
