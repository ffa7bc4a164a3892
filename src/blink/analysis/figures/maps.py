"""Attention maps on pictures: what `attention_maps` and `redistribution` have in common."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from PIL import Image, ImageOps

from blink.analysis.cases import Box, Shown
from blink.model.token_sr import region_frame
from blink.runs.style import BLACK, GREEN, MAP, VERMILLION, bare, outline, plain

MAP_NOTE = "lighter: more attention from the last prompt token (square root)"


def show_picture(axes: Axes, picture: Image.Image, box: Box | None, question: str) -> None:
    """The picture as the backbone sees it, what the question is about boxed, the question below."""
    axes.imshow(_small(picture))
    bare(axes)
    if box is not None:
        scale = _small(picture).width / picture.width
        left, top, right, bottom = (scale * edge for edge in box)
        room = 0.03 * _small(picture).width  # so that the line does not cover what it shows
        outline(axes, left - room, top - room, right - left + 2 * room, bottom - top + 2 * room, colour=GREEN)
    axes.set_xlabel(plain(question.partition("\n")[0], 24, 4), fontsize="small", color=BLACK)


def show_map(axes: Axes, picture: Image.Image, attention_HW: Any, greatest: float) -> None:
    """Attention over a washed-out picture; `greatest` is the value of the lightest colour."""
    small = _small(picture)
    extent = (0, small.width, small.height, 0)
    axes.imshow(np.asarray(ImageOps.grayscale(small)), cmap="gray", vmin=0, vmax=255, extent=extent)
    axes.imshow(
        np.asarray(attention_HW),
        cmap=MAP,
        norm=PowerNorm(0.5, vmin=0, vmax=max(greatest, 1e-12)),
        alpha=0.7,
        extent=extent,
    )
    bare(axes)


def mark_region(axes: Axes, case: Shown, region: int, patches: int) -> None:
    """Outline a region: solid if it is the right one or none is known to be, dashed if it is another."""
    small = _small(case.picture)
    left, top, width, height = region_frame(region, patches, case.grid, small.size)
    inset = 0.015 * small.width  # so that the line at the picture's edge is not cut
    outline(
        axes,
        left + inset,
        top + inset,
        width - 2 * inset,
        height - 2 * inset,
        colour=VERMILLION,
        dash="-" if case.right in (None, region) else (0, (3, 2)),
    )


def _small(picture: Image.Image) -> Image.Image:
    """At most 336 pixels wide or high: figures hold many."""
    small = picture.copy()
    small.thumbnail((336, 336))
    return small
