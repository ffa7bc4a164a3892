"""Regions of a grid of visual tokens: their cells, cutting them out, and resizing them (Sec. 3.2.1).

Training and inference cut and resize regions with the same functions.

Axes: B samples, d hidden width, H x W the grid, h x w one region.
"""

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from blink.runs.values import UserError


class Box(NamedTuple):
    """A rectangle of cells of a grid: row and column of its first cell, and how many there are."""

    top: int
    left: int
    height: int
    width: int


def check_patches(patches: int, grid: tuple[int, int], where: str = "") -> None:
    """Raise ValueError unless `grid` (H, W) splits into `patches` x `patches` regions, 2 <= p <= min(H, W).

    Args:
        where: names the sample in the message, where grids depend on pictures.
    """
    H, W = grid
    if not 2 <= patches <= min(H, W):
        raise UserError(
            f"{where}patches={patches} does not fit the {H} x {W} grid of visual tokens; use a number from 2 to "
            f"{min(H, W)}"
            if min(H, W) > 1
            else f"{where}the {H} x {W} grid of visual tokens cannot be split into {patches} x {patches} regions: the "
            "picture is too narrow"
        )


def region_box(region: int, patches: int, grid: tuple[int, int]) -> Box:
    """The cells of one region, by its row-major index; a side of n cells is cut at floor(i n / p)."""
    (row, column), (H, W) = divmod(region, patches), grid
    top, bottom = row * H // patches, (row + 1) * H // patches
    left, right = column * W // patches, (column + 1) * W // patches
    return Box(top, left, bottom - top, right - left)


def region_frame(
    region: int, patches: int, grid: tuple[int, int] | None, size: tuple[float, float] = (1.0, 1.0)
) -> tuple[float, float, float, float]:
    """Where a region lies in a picture that shows the whole grid: left, top, width and height.

    Args:
        grid: (H, W), at the edges of whose cells regions end; None: all regions are equal.
        size: (width, height) of the picture; the default gives fractions.
    """
    H, W = grid = grid or (patches, patches)
    box, (width, height) = region_box(region, patches, grid), size
    return box.left * width / W, box.top * height / H, box.width * width / W, box.height * height / H


def cut_region(visual_BdHW: Tensor, region: int, patches: int) -> Tensor:
    """Cut one of the p x p regions out of each sample: [B, d, h, w].

    Args:
        visual_BdHW: visual tokens as a grid.
        region: row-major index in [0, p^2).
    """
    box = region_box(region, patches, (visual_BdHW.shape[2], visual_BdHW.shape[3]))
    return visual_BdHW[:, :, box.top : box.top + box.height, box.left : box.left + box.width]


def upsample(region_Bdhw: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a region to `size` (H, W), bilinear in float32 with align_corners=False; the dtype stays."""
    resized = F.interpolate(region_Bdhw.float(), size=size, mode="bilinear", align_corners=False)
    return resized.to(region_Bdhw.dtype)
