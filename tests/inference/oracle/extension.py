"""Cutting a region out, making an extension of it, and the positions of a sequence that holds one.

Axes: N tokens, D hidden, G visual tokens of the base grid, H x W grid, h x w region.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from tests.inference.oracle.pictures import Picture

Box = tuple[int, int, int, int]
"""Top row, left column, height and width of a region."""


class Extension(NamedTuple):
    """A living extension: its tokens row by row, its rows and columns, and the region that it refines."""

    tokens_ND: Tensor
    grid: tuple[int, int]
    box: Box


def region_box(grid: tuple[int, int], patches: int, region: int) -> Box:
    """Where a region lies; the cuts of a side of n cells are at floor(i n / p) (item 10)."""
    (height, width), (a, b) = grid, divmod(region, patches)
    top, left = a * height // patches, b * width // patches
    return top, left, (a + 1) * height // patches - top, (b + 1) * width // patches - left


def extend(
    visual_GD: Tensor,
    grid: tuple[int, int],
    box: Box,
    interpolate: bool,
    module: Callable[[Tensor], Tensor] | None,
) -> Extension:
    """The extension: cut out, resized to the grid, through the module, flattened row by row (item 4)."""
    top, left, h, w = box
    cut_DHW = torch.stack(
        [
            torch.stack([visual_GD[y * grid[1] + x] for x in range(left, left + w)])
            for y in range(top, top + h)
        ]
    ).permute(2, 0, 1)
    if interpolate:
        down_Hh, across_Ww = bilinear_weights(h, grid[0]), bilinear_weights(w, grid[1])
        cut_DHW = torch.einsum("Yy,dyx,Xx->dYX", down_Hh, cut_DHW.float(), across_Ww).to(visual_GD.dtype)
    if module is not None:
        cut_DHW = module(cut_DHW[None])[0]
    rows, columns = cut_DHW.shape[1:]
    tokens_ND = torch.stack([cut_DHW[:, y, x] for y in range(rows) for x in range(columns)])
    return Extension(tokens_ND, (rows, columns), box)


def bilinear_weights(small: int, large: int) -> Tensor:
    """Row i holds what the `small` samples of a line give to sample i of `large`, corners not aligned."""
    weights = torch.zeros(large, small)
    for i in range(large):
        place = min(max((i + 0.5) * small / large - 0.5, 0.0), small - 1.0)
        below = min(int(place), small - 1)
        above = min(below + 1, small - 1)
        weights[i, below] += 1 - (place - below)
        weights[i, above] += place - below
    return weights


def positions(
    picture: Picture,
    cells_G: Tensor,
    system: int,
    visual: int,
    extension: Extension | None,
    text: int,
    scheme: str,
) -> Tensor:
    """Time, row and column [3, N] of [system; visual; extension; text] (item 6), three equal numbers where 1-D.

    Args:
        cells_G: places of the base view's tokens in the visual span.
        system, visual, text: lengths of the spans.
        scheme: "append" or "region".
    """
    assert scheme in ("append", "region"), scheme

    def line(start: int, count: int) -> Tensor:
        return torch.arange(start, start + count).expand(3, -1)

    def plane(start: int, height: int, width: int) -> Tensor:
        return torch.tensor([[start, start + y, start + x] for y in range(height) for x in range(width)]).T

    shown_3N = plane(system, *picture.grid) if picture.planar else line(system, visual)
    assert shown_3N.shape[1] == visual, "M-RoPE without a token between the first visual one and the last"
    following = int(shown_3N.max()) + 1
    spans = [line(0, system), shown_3N]
    if extension is not None and scheme == "region":
        spans.append(shown_3N[:, cells_G[refined(extension, picture.grid[1])]])
    elif extension is not None:
        count = len(extension.tokens_ND)
        spans.append(plane(following, *extension.grid) if picture.planar else line(following, count))
        following = int(spans[-1].max()) + 1
    return torch.cat([*spans, line(following, text)], dim=1)


def refined(extension: Extension, columns: int) -> list[int]:
    """The base view's cell, counted row by row, that lies nearest to each token of an extension."""
    (rows, width), (top, left, h, w) = extension.grid, extension.box
    return [
        (top + (2 * i + 1) * h // (2 * rows)) * columns + left + (2 * j + 1) * w // (2 * width)
        for i in range(rows)
        for j in range(width)
    ]
