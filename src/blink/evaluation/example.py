"""A picture of what Blink did for one answer, drawn from recorded events: no model is needed.

Drawn with Pillow in some milliseconds: a sweep of a hundred jobs leaves a hundred of them.
"""

import textwrap
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from blink.bench import Row, Sample
from blink.inference.policy import Event, Policy
from blink.model.families import Grid
from blink.model.token_sr import region_frame
from blink.model.views import ViewMaker
from blink.runs.style import BLACK, BLUE, GREY, VERMILLION, font_file

ACTION_STYLE = {"expand": (VERMILLION, (1, 0)), "keep": (BLUE, (10, 6)), "drop": (BLACK, (3, 5))}
"""Colour of each action, and how long the dashes of its line and the gaps between them are, in pixels."""

_PANEL, _GAP, _MARGIN, _LINE = 200, 14, 20, 24
"""Pixels: side of a picture, between pictures, around everything, from one line of text to the next."""

_BARS, _NAMES = 150, 170
"""Pixels: height of a ratio of 1, width of the names beside it."""


def event_strip(
    image: Image.Image,
    events: Sequence[Event],
    patches: int,
    thresholds: tuple[float, float],
    title: str,
    grid: Grid | None = None,
) -> Image.Image:
    """One answer: the picture once per scanned layer with the region acted on, and the ratio per layer below.

    Args:
        image: the part of the picture that the backbone saw.
        events: of one sample, in layer order; may be empty.
        patches: p; regions are the cells of p x p, row-major.
        thresholds: (tau_exp, tau_drop) as applied, that is, scaled to p.
        title: question and answer.
        grid: (H, W) of the visual tokens; None draws equal regions.
    """
    columns = max(1, len(events))
    width = max(520, 2 * _MARGIN + columns * (_PANEL + _GAP) + _NAMES)
    lines = [part for line in title.splitlines() for part in textwrap.wrap(line, width // 10) or [""]]
    top = _MARGIN + len(lines) * _LINE + 8
    pictures = top + 2 * _LINE + 4
    width_over_height = image.width / image.height
    size = (
        (_PANEL, int(_PANEL / width_over_height))
        if width_over_height > 0.5
        else (
            int(2 * _PANEL * width_over_height),
            2 * _PANEL,
        )
    )
    small = image.convert("RGB").resize((max(1, size[0]), max(1, size[1])))
    bars = pictures + small.height + _GAP
    strip = Image.new("RGB", (width, bars + _BARS + 2 * _LINE + _MARGIN if events else bars), "white")
    draw = ImageDraw.Draw(strip)
    for number, line in enumerate(lines):
        _write(draw, (_MARGIN, _MARGIN + number * _LINE), line, 18)
    for number in range(columns):
        left = _MARGIN + number * (_PANEL + _GAP)
        strip.paste(small, (left, pictures))
        if not events:
            _write(draw, (left, top + _LINE), "no layer was scanned", 16)
            return strip
        event = events[number]
        colour, dash = ACTION_STYLE[event.action]
        _write(draw, (left, top), f"layer {event.layer}", 16, colour)
        _write(draw, (left, top + _LINE), event.action, 16, colour)
        x, y, across, down = region_frame(event.region, patches, grid, small.size)
        _outline(draw, (left + x, pictures + y), (across, down), colour, dash)
    _draw_ratios(draw, (_MARGIN, bars), events, patches, thresholds)
    return strip


def example(
    samples: Sequence[Sample],
    rows: Sequence[Row],
    policy: Policy | None,
    views: ViewMaker,
) -> Image.Image:
    """One answer of an evaluation: the first that expanded, else the first.

    Args:
        rows: one per sample, in their order.
        views: what the backbone saw of a picture.
    """
    chosen = next((n for n, row in enumerate(rows) if _expanded(row)), 0)
    sample, row = samples[chosen], rows[chosen]
    used = policy or Policy(layers=[0])  # without events nothing of it is drawn
    title = f"{row['question'].splitlines()[0]}\n{row['response']} (right: {row['label']})"
    events = [Event(**event) for event in row["events"]]
    image = sample.load_image()
    grid = views.grid(image.size)
    return event_strip(views.seen(image), events, used.patches, used.thresholds, title, grid)


def _draw_ratios(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    events: Sequence[Event],
    patches: int,
    thresholds: tuple[float, float],
) -> None:
    """A bar per event below its picture, and the thresholds across, named at the right."""
    left, top = corner
    right, bottom = left + len(events) * (_PANEL + _GAP) - _GAP, top + _BARS
    for number, event in enumerate(events):
        middle, colour = left + number * (_PANEL + _GAP) + _PANEL // 2, ACTION_STYLE[event.action][0]
        draw.rectangle((middle - 30, bottom - round(event.ratio * _BARS), middle + 30, bottom), fill=colour)
        _write(draw, (middle - 30, bottom + 6), f"ratio {event.ratio:.2f}", 15)
    draw.line((left, bottom, right, bottom), fill=BLACK, width=2)
    above, below = thresholds
    even = 1 / patches**2
    names = [
        (f"expand above {above:.2f}", above, VERMILLION, (1, 0)),
        (f"drop below {below:.2f}", below, BLACK, (3, 5)),
        (f"even spread {even:.2f}", even, GREY, (10, 6)),
    ]
    lowest = top - _LINE
    for name, value, colour, dash in sorted(names, key=lambda line: -line[1]):
        y = bottom - value * _BARS
        _dashes(draw, (left, y), (right, y), colour, dash, 2)
        lowest = max(lowest + 20, round(y) - 9)  # names of close lines stand below each other
        _write(draw, (right + 10, lowest), name, 15, colour)


def is_picture(path: Path) -> bool:
    """Whether a file is there and holds a picture that can be read, which one emptied by a power failure does not."""
    try:
        with Image.open(path) as picture:
            picture.load()
    except Exception:  # Pillow's decoders raise almost any type on a damaged file
        return False
    return True


def _outline(
    draw: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    size: tuple[float, float],
    colour: str,
    dash: tuple[int, int],
) -> None:
    """A dashed rectangle on a white one, inside the given area, so that it shows on light and dark grounds."""
    (left, top), (width, height) = corner, size
    right, bottom = max(left, left + width - 1), max(top, top + height - 1)
    draw.rectangle((left, top, right, bottom), outline="white", width=6)
    left, top, right, bottom = left + 3, top + 3, max(left + 3, right - 3), max(top + 3, bottom - 3)
    around = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    for start, end in pairwise(around):
        _dashes(draw, start, end, colour, dash, 4)


def _dashes(
    draw: ImageDraw.ImageDraw,
    start: tuple[float, float],
    end: tuple[float, float],
    colour: str,
    dash: tuple[int, int],
    width: int,
) -> None:
    """A straight line, broken unless the gap is 0."""
    (x, y), (to_x, to_y) = start, end
    length = max(abs(to_x - x), abs(to_y - y), 1e-9)
    on, off = dash
    if not off:
        on = int(length) + 1
    at = 0.0
    while at < length:
        first, last = at / length, min(1.0, (at + on) / length)
        draw.line(
            (
                x + first * (to_x - x),
                y + first * (to_y - y),
                x + last * (to_x - x),
                y + last * (to_y - y),
            ),
            fill=colour,
            width=width,
        )
        at += on + off


def _write(
    draw: ImageDraw.ImageDraw, corner: tuple[float, float], text: str, size: int, colour: str = BLACK
) -> None:
    draw.text(corner, text, fill=colour, font=_font(font_file(text), size))


@lru_cache(maxsize=16)
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


def _expanded(row: Row) -> bool:
    return any(event["action"] == "expand" for event in row["events"])
