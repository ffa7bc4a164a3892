"""The picture of one answer shows every scanned layer and the thresholds as applied."""

import pytest
from PIL import Image

from blink.figures import event_strip
from blink.policy import Event

EVENTS = [Event(2, 0.55, 3, "expand"), Event(3, 0.35, 0, "keep"), Event(4, 0.2, 1, "drop")]


def test_one_panel_per_event_with_its_region() -> None:
    """Would catch a region drawn in column-major order or at the wrong scale."""
    figure = event_strip(Image.new("RGB", (60, 40)), EVENTS, 2, (0.5, 0.4), "question")
    *panels, bars = figure.axes
    assert [axes.get_title() for axes in panels] == ["layer 2\nexpand", "layer 3\nkeep", "layer 4\ndrop"]
    boxes = [axes.patches[0].get_bbox().bounds for axes in panels]
    assert boxes == [(30, 20, 30, 20), (0, 0, 30, 20), (30, 0, 30, 20)]
    assert [patch.get_height() for patch in bars.patches] == pytest.approx([0.55, 0.35, 0.2])
    assert [line.get_ydata()[0] for line in bars.lines] == [0.5, 0.4, 0.25]


def test_no_events_still_gives_a_picture() -> None:
    """Would catch a crash at the end of a long vanilla evaluation."""
    figure = event_strip(Image.new("RGB", (60, 40)), [], 2, (0.5, 0.4), "question")
    assert len(figure.axes) == 1
