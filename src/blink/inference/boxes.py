"""Boxes of what questions are about, and the region that holds most of one.

That region is the right one wherever it counts: for `Policy.selector="box"`, in the look of `blink.tune` and in figures.

Plain numbers: this file knows no tensors and no models. x goes to the right, y down.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from blink.model.token_sr import Box, region_box

Window = tuple[int, int, int, int]
"""Left, top, right and bottom of what the backbone sees, in pixels of the original picture."""


class SeenBox(NamedTuple):
    """A box as shares of the width and height of what the backbone sees, in [0, 1]. Exact, so that ties are ties."""

    left: Fraction
    top: Fraction
    right: Fraction
    bottom: Fraction

    @classmethod
    def of_cells(cls, cells: Box, grid: tuple[int, int]) -> "SeenBox":
        """Some cells of the (H, W) grid of visual tokens, up to their very edges."""
        H, W = grid
        return cls(
            Fraction(cells.left, W),
            Fraction(cells.top, H),
            Fraction(cells.left + cells.width, W),
            Fraction(cells.top + cells.height, H),
        )

    def region(self, patches: int, grid: tuple[int, int]) -> int:
        """The region that holds most of the box's area; the lowest index wins ties.

        Args:
            patches: p of p x p regions.
            grid: (H, W) of the visual tokens, at the edges of whose cells regions end.
        """
        H, W = grid
        areas = []
        for region in range(patches**2):
            cells = region_box(region, patches, grid)
            across = _overlap(self.left * W, self.right * W, cells.left, cells.width)
            areas.append(across * _overlap(self.top * H, self.bottom * H, cells.top, cells.height))
        return areas.index(max(areas))


def _overlap(start: Fraction, end: Fraction, first: int, count: int) -> Fraction:
    """How much of [start, end] lies within `count` cells from `first` on."""
    return max(Fraction(), min(end, Fraction(first + count)) - max(start, Fraction(first)))


def seen_box(box: Sequence[float], window: Window) -> SeenBox | None:
    """The part of a box that the backbone sees; None if it sees nothing of it.

    Args:
        box: left, top, right and bottom, in pixels of the picture (`blink.runs.values.box`).
        window: of `blink.model.views.ViewMaker.window`; padding reaches outside the picture.
    """
    left, top, right, bottom = window
    shares = [
        min(max((Fraction(edge) - start) / (end - start), Fraction()), Fraction(1))
        for edge, start, end in zip(box, (left, top) * 2, (right, bottom) * 2, strict=True)
    ]
    seen = SeenBox(*shares)
    return seen if seen.left < seen.right and seen.top < seen.bottom else None


def place_of(region: int, patches: int) -> str:
    """Where a region lies, in words: "top left" of 2 x 2, "row 2, column 4" of many."""
    row, column = divmod(region, patches)
    if patches == 2:
        return f"{('top', 'bottom')[row]} {('left', 'right')[column]}"
    return f"row {row + 1}, column {column + 1}"


def regions_in_words(patches: int) -> str:
    """How the regions of p x p are numbered, in one line."""
    if patches == 2:
        return "regions: " + ", ".join(f"{region} {place_of(region, 2)}" for region in range(4))
    last = patches**2 - 1
    return (
        f"regions: {patches} x {patches}, row by row from 0 at the top left to {last} at the bottom right; "
        f"{patches} is {place_of(patches, patches)}"
    )
