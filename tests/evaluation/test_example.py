"""The picture of one answer shows every scanned layer and the thresholds as applied."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

from blink.bench import Sample
from blink.evaluation.example import ACTION_STYLE, event_strip, example, is_picture
from blink.inference.policy import Event, Policy
from blink.model.views import ViewMaker
from tests import models

EVENTS = [Event(2, 0.55, 3, "expand"), Event(3, 0.35, 0, "keep"), Event(4, 0.2, 1, "drop")]
GROUND = (200, 220, 180)


def strip(events: Sequence[Event] = EVENTS, patches: int = 2) -> Image.Image:
    return event_strip(Image.new("RGB", (60, 40), GROUND), events, patches, (0.5, 0.4), "question")


def extent(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is true, the latter two included."""
    rows, columns = np.nonzero(mask)
    return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())


def test_one_panel_per_event_with_its_region() -> None:
    """Would catch a region drawn in column-major order, at the wrong scale, or in another action's colour."""
    pixels = np.asarray(strip())
    left, top, _, bottom = extent((pixels == GROUND).all(axis=2))
    height = 200 * 40 // 60
    assert bottom - top + 1 == pytest.approx(height, abs=6)
    for number, event in enumerate(EVENTS):
        corner = 20 + number * 214
        panel = pixels[top : top + height, corner : corner + 200]
        colour = ImageColor.getrgb(ACTION_STYLE[event.action][0])
        found = extent((panel == colour).all(axis=2))
        row, column = divmod(event.region, 2)
        want = (column * 100, row * height / 2, column * 100 + 99, (row + 1) * height / 2 - 1)
        assert found == pytest.approx(want, abs=6)
    assert left == 20


def test_regions_end_at_the_edges_of_visual_tokens() -> None:
    """Would catch regions of a grid that p does not divide drawn at the picture's half: of 3 x 5, the first has 1 x 2."""
    events = [Event(1, 0.5, 0, "expand")]
    strip = event_strip(Image.new("RGB", (50, 30), GROUND), events, 2, (0.5, 0.4), "question", (3, 5))
    pixels = np.asarray(strip)
    left, top, _, _ = extent((pixels == GROUND).all(axis=2))
    panel = pixels[top : top + 120, left : left + 200]
    vermillion = (panel == ImageColor.getrgb(ACTION_STYLE["expand"][0])).all(axis=2)
    assert extent(vermillion) == pytest.approx((0, 0, 2 * 200 / 5 - 1, 120 / 3 - 1), abs=6)


@pytest.mark.parametrize("size", [(2, 400), (400, 2)])
def test_pictures_thin_as_a_line_are_drawn(size: tuple[int, int]) -> None:
    """Would catch a panel of no pixels, one of 40,000, and an outline that is narrower than its line."""
    strip = event_strip(Image.new("RGB", size), EVENTS, 2, (0.5, 0.4), "question", (20, 2))
    assert max(strip.size) < 2000


def test_bars_are_as_high_as_ratios() -> None:
    """Would catch bars of another event, or on a scale that the thresholds' lines do not share."""
    pixels = np.asarray(strip([EVENTS[0]]))
    below = pixels[-(150 + 2 * 24 + 20) :, 20:220]
    vermillion = (below == ImageColor.getrgb(ACTION_STYLE["expand"][0])).all(axis=2)
    columns = vermillion.sum(axis=0)
    assert columns[100] == pytest.approx(0.55 * 150, abs=3)  # the axis lies over its foot
    assert np.nonzero(vermillion[:, 10])[0].mean() == pytest.approx(150 - 0.5 * 150, abs=2)  # the threshold


def test_no_events_still_gives_a_picture() -> None:
    """Would catch a crash at the end of a long vanilla evaluation."""
    assert (np.asarray(strip([])) == GROUND).all(axis=2).sum() == 200 * (200 * 40 // 60)


def test_words_of_any_script_are_drawn() -> None:
    """Would catch a title that stops the evaluation, or one so long that it is cut off."""
    image = Image.new("RGB", (8, 8))
    short, long = (event_strip(image, EVENTS, 2, (0.5, 0.4), text) for text in ("图?\n\n$x", "word " * 100))
    assert long.width == short.width
    assert long.height > short.height


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
    policy = Policy([1])
    views = ViewMaker(models.processor(models.llava(grid=6, layers=1)), grid=(6, 6))

    def of(number: int, events: list[Event]) -> Image.Image:
        title = f"Question {number}?\nNo (right: yes)"
        return event_strip(Image.new("RGB", (8, 8)), events, 2, policy.thresholds, title)

    assert example(samples, rows, policy, views) == of(1, [Event(1, 0.5, 0, "expand")])
    none = [{**row, "events": []} for row in rows]
    assert example(samples, none, None, views) == of(0, [])


@pytest.mark.parametrize("content", [None, b"", b"\0" * 40, "cut"])
def test_a_damaged_picture_is_none(content: bytes | str | None, tmp_path: Path) -> None:
    """Would catch a finished run that cannot be logged since a power failure emptied its picture."""
    path = tmp_path / "example.png"
    Image.effect_noise((40, 30), 80).save(path)
    assert is_picture(path)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:100] if isinstance(content, str) else content)
    assert not is_picture(path)
