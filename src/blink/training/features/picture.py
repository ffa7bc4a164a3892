"""The tokens of one quadrant at one layer as a picture: coarse, interpolated, refined by TokenSR, and the teacher's.

Red, green and blue are the first three principal components of the tokens, so that similar tokens have similar colours.

Axes: h x w tokens, d hidden width, H x W grid, N points.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

_CELL = 96
_GAP = 4
"""Pixels: of a cell of a picture, and between cells."""


def feature_picture(quadrant: Image.Image, tokens: Sequence[Tensor]) -> Image.Image:
    """Draw a quadrant and its tokens side by side; in a lower row, each of these less its own mean token.

    Args:
        quadrant: as a picture.
        tokens: one quadrant of `QuadrantFeatures`, as `principal_colours` takes them.
    """
    pixels = np.asarray(quadrant.convert("RGB")) / 255
    rows = [(pixels, *principal_colours(tokens, less_mean)) for less_mean in (False, True)]
    side = _CELL + _GAP
    sheet = Image.new("RGB", (side * len(rows[0]) - _GAP, side * len(rows) - _GAP), "white")
    for y, row in enumerate(rows):
        for x, cell in enumerate(row):
            shown = Image.fromarray((np.asarray(cell) * 255).round().astype(np.uint8))
            sheet.paste(shown.resize((_CELL, _CELL), Image.Resampling.NEAREST), (x * side, y * side))
    return sheet


def principal_colours(tokens: Sequence[Tensor], less_mean: bool = False) -> list[npt.NDArray[np.float64]]:
    """Turn grids of tokens into colours, RGB in [0, 1], all in one basis.

    Each colour is stretched from the 1st to the 99th percentile of its component.

    Args:
        tokens: each [d, h, w] or [d, H, W]. The basis is fitted to all but the first, the coarse ones, of which the
            others are made.
        less_mean: take each grid's mean token away first.

    Returns:
        Of each grid [h or H, w or W, 3].
    """
    parts = [part.float().flatten(1).T for part in tokens]
    parts = [part - part.mean(dim=0) for part in parts] if less_mean else parts
    fitted = torch.cat(parts[1:])
    centre = fitted.mean(dim=0)
    basis = _leading_directions(fitted - centre, 3)
    # signs are arbitrary otherwise
    basis = basis * torch.where(basis.sum(dim=1, keepdim=True) < 0, -1.0, 1.0)
    ends = torch.tensor([0.01, 0.99], device=basis.device)
    low, high = torch.quantile((fitted - centre) @ basis.T, ends, dim=0)
    colours = [
        (((part - centre) @ basis.T - low) / (high - low).clamp_min(1e-12)).clamp(0, 1) for part in parts
    ]
    shapes = [part.shape[1:] for part in tokens]
    return [
        colour.view(*shape, -1).cpu().double().numpy() for colour, shape in zip(colours, shapes, strict=True)
    ]


def _leading_directions(points_Nd: Tensor, count: int) -> Tensor:
    """The first principal directions of centred points, float32 [count, d], by subspace iteration.

    All of them, by singular values, take a minute on a CPU at the width of a 7B backbone. The start is always the same.
    """
    start = torch.randn(points_Nd.shape[1], count + 5, generator=torch.Generator().manual_seed(0))
    directions_dk = start.to(points_Nd)
    for _ in range(6):
        directions_dk = torch.linalg.qr(points_Nd.T @ (points_Nd @ directions_dk)).Q
    turned = torch.linalg.svd(points_Nd @ directions_dk, full_matrices=False).Vh
    return (turned @ directions_dk.T)[:count]
