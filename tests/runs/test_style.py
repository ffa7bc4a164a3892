"""The look that figures share, and the files that they are written to."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from blink.runs.style import Drawn, interval_rows, legend_above, look, plain, save, series_styles
from tests.drawings import faults


def test_text_is_no_formula_and_has_glyphs(tmp_path: Path) -> None:
    """Would catch a question with two dollars that is set as mathematics, and warnings for missing glyphs."""
    with look():
        figure = Figure()
        figure.suptitle(plain("costs $5 or $7_x$? \U0001f9ff 图 \x07"))
        figure.savefig(tmp_path / "a.png")
    assert plain("a$b") == r"a\$b"
    assert "\U0001f9ff" not in plain("\U0001f9ff")


def test_text_is_wrapped_and_cut() -> None:
    """Would catch a long question that runs over its neighbours."""
    assert plain("one two three four five", 9, 2) == "one two\nthree ..."
    assert plain("one two", 9, 2) == "one two"


def test_everything_is_written(tmp_path: Path) -> None:
    """Would catch numbers lost for records of different keys, and nan, which JSON has not."""
    drawn = Drawn(
        {"one": Figure(), "two": Figure()},
        [{"a": 1}, {"a": 2, "b": 0.5}],
        {"maps": {3: np.array([[1.0, float("nan")]])}, "n": 2},
    )
    with look():
        files = save(drawn, "name", tmp_path)
    assert sorted(files) == sorted(path.name for path in tmp_path.iterdir())
    assert {"one.png", "one.pdf", "two.png", "two.pdf", "name.csv", "name.json"} == set(files)
    with (tmp_path / "name.csv").open() as file:
        assert list(csv.DictReader(file)) == [{"a": "1", "b": ""}, {"a": "2", "b": "0.5"}]
    written = json.loads((tmp_path / "name.json").read_text())
    assert written["maps"] == {"3": [[1.0, None]]}
    assert written["table"][1] == {"a": 2, "b": 0.5}


def test_series_are_told_apart() -> None:
    """Would catch a series without a style, or with that of another."""
    assert len(set(series_styles(140))) == 140
    assert ":" not in {style.dash for style in series_styles(140)}


SHAPES = {"rising": [1, 2, 3], "falling": [3, 2, 1], "level": [2, 2, 2], "far": [0, 50, 1]}


@pytest.mark.parametrize("values", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("count", [1, 2, 9])
def test_no_error_bar_lies_under_a_legend(values: list[float], count: int) -> None:
    """Would catch a legend in the corner that happened to be free in the figures of the docs."""
    with look():
        figure = Figure(figsize=(5, 4), layout="constrained")
        axes = figure.subplots()
        for number in range(count):
            axes.errorbar([0, 1, 2], np.array(values) + number, yerr=30, label=f"line number {number}")
            axes.errorbar([1], [2], yerr=1, label=f"line number {number}")
        legend_above(axes)
        assert faults(figure) == []
        legend = axes.get_legend()
        assert legend is not None
        assert len(legend.get_texts()) == count
        axes.legend(loc="center")
        assert any("an error bar crosses the legend" in fault for fault in faults(figure))


def test_what_is_hard_to_read_is_seen() -> None:
    """Would catch a check of figures that finds nothing in any."""
    figure = Figure(figsize=(3, 2))
    axes = figure.subplots()
    axes.set_title("a title that is much longer than the figure is wide, at both of its ends")
    axes.text(0.5, 0.5, "one text")
    axes.text(0.5, 0.5, "another")
    found = "; ".join(faults(figure))
    assert "is cut off" in found
    assert "'one text' lies on 'another'" in found


def test_rows_of_intervals() -> None:
    """Would catch a bar of another length, one where there is no interval, and a mark that says nothing of 0."""
    with look():
        axes = Figure(layout="constrained").subplots()
        found = {"a $": (1.0, 0.5, 2.0), "b": (1.0, -1.0, 2.0), "c": (3.0, math.nan, math.nan)}
        interval_rows(axes, found, ["red", "red", "blue"], against_zero=True)
    assert [label.get_text() for label in axes.get_yticklabels()] == [r"a \$", "b", "c"]
    bars = [container[2][0].get_segments()[0][:, 0].tolist() for container in axes.containers]
    assert bars == [[0.5, 2.0], [-1.0, 2.0], [3.0, 3.0]]
    assert [container[0].get_markerfacecolor() for container in axes.containers] == ["red", "white", "white"]
