"""The picture of one answer shows every scanned layer and the thresholds as applied."""

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from PIL import Image

from blink.bench import Sample
from blink.figures import event_strip, example
from blink.policy import Event, Policy

EVENTS = [Event(2, 0.55, 3, "expand"), Event(3, 0.35, 0, "keep"), Event(4, 0.2, 1, "drop")]


def rectangles(axes: Axes) -> list[Rectangle]:
    return [patch for patch in axes.patches if isinstance(patch, Rectangle)]


def test_one_panel_per_event_with_its_region() -> None:
    """Would catch a region drawn in column-major order or at the wrong scale."""
    figure = event_strip(Image.new("RGB", (60, 40)), EVENTS, 2, (0.5, 0.4), "question")
    *panels, bars = figure.axes
    assert [axes.get_title() for axes in panels] == ["layer 2\nexpand", "layer 3\nkeep", "layer 4\ndrop"]
    boxes = [rectangle.get_bbox().bounds for axes in panels for rectangle in rectangles(axes)]
    assert boxes == [(30, 20, 30, 20), (0, 0, 30, 20), (30, 0, 30, 20)]
    assert [bar.get_height() for bar in rectangles(bars)] == pytest.approx([0.55, 0.35, 0.2])
    assert [np.asarray(line.get_ydata())[0] for line in bars.lines] == [0.5, 0.4, 0.25]


def test_no_events_still_gives_a_picture() -> None:
    """Would catch a crash at the end of a long vanilla evaluation."""
    figure = event_strip(Image.new("RGB", (60, 40)), [], 2, (0.5, 0.4), "question")
    assert len(figure.axes) == 1


def test_example_is_the_first_answer_that_expanded() -> None:
    """Would catch an example on which nothing happened, or with another sample's events."""
    samples = [
        Sample(str(n), "a", f"Question {n}?\nInstruction.", "yes", "s", lambda: Image.new("RGB", (8, 8)))
        for n in range(3)
    ]
    kept, expanded = (
        [{"layer": 1, "ratio": 0.5, "region": 0, "action": action}] for action in ("keep", "expand")
    )
    rows = [
        {"question": sample.question, "response": "No", "label": "yes", "events": events}
        for sample, events in zip(samples, (kept, expanded, expanded), strict=True)
    ]
    figure = example(samples, rows, Policy([1]), seen=lambda image: image)
    assert figure.get_suptitle() == "Question 1?\nNo (right: yes)"
    assert (
        example(samples, [{**row, "events": []} for row in rows], None, lambda i: i).get_suptitle()[:10]
        == "Question 0"
    )
