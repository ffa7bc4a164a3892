"""Lines of scores with their intervals, as the plots of multiruns have them."""

import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from blink.bench.statistics import Estimate
from blink.evaluation.sweeps.drawing import draw_lines, name_positions
from blink.runs.style import series_styles


def test_lines_stand_beside_each_other_at_their_values() -> None:
    """Would catch bars on top of each other, points that drift to the next value, and a point without an interval lost."""
    axes = Figure().subplots()
    names = [str(number) for number in range(20)]
    lines = {
        name: [(2.0, Estimate(1.0, 0.5, 1.5)), (1.0, Estimate(2.0, math.nan, math.nan))] for name in names
    }
    draw_lines(axes, lines, dict(zip(names, series_styles(20), strict=True)), joined=True)
    x = np.array([container[0].get_xdata() for container in axes.containers])
    assert len(np.unique(x)) == 40
    assert abs(x - [1, 2]).max() <= 0.2
    assert x.mean(axis=0) == pytest.approx([1, 2])
    bars = [segment[:, 1].tolist() for segment in axes.containers[0][2][0].get_segments()]
    assert bars == [[2.0, 2.0], [0.5, 1.5]]
    assert [container.get_label() for container in axes.containers[:2]] == ["0", "1 = 0"]


def test_marks_say_whether_an_interval_leaves_zero_out() -> None:
    """Would catch a difference that is none drawn as one."""
    axes = Figure().subplots()
    found = [Estimate(1, 0.5, 2), Estimate(1, -0.5, 2), Estimate(-1, -2, -0.5), Estimate(0, 0, 0)]
    points = list(enumerate(found))
    draw_lines(axes, {"": points}, {"": series_styles(1)[0]}, joined=False, against_zero=True)
    assert axes.containers[0][0].get_markerfacecolor() == "white"
    zero, filled = axes.lines[0], axes.lines[-1]
    assert np.asarray(zero.get_ydata()).tolist() == [0, 0]
    assert np.asarray(filled.get_xdata()).tolist() == [0, 2]
    assert axes.get_legend_handles_labels()[1] == []


def test_names_below_the_axis() -> None:
    """Would catch names that lie on each other, and dollars taken for mathematics."""
    axes = Figure().subplots()
    name_positions(axes, {"a$": 0.0, "b": 1.0}, to_scale=False)
    assert [label.get_text() for label in axes.get_xticklabels()] == [r"a\$", "b"]
    assert axes.get_xticklabels()[0].get_rotation() == 0
    name_positions(axes, {f"a long name of number {n}": float(n) for n in range(5)}, to_scale=False)
    assert axes.get_xticklabels()[0].get_rotation() == 30
