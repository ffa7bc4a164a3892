"""What the frozen trunk makes of the views of pictures, layer by layer: all that training asks of a backbone.

Axes: B images, F = 5 views of each (the full view, then its quadrants in row-major order), H x W grid of visual tokens,
d hidden width; P tokens of a prefix.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from blink.bench.statistics import Floats
from blink.model.backbone import Backbone
from blink.model.views import QUADRANTS, Views

VIEWS = 1 + QUADRANTS


class Features(NamedTuple):
    """Visual tokens as they enter some layers: layer -> [B, 5, H, W, d], or [5, H, W, d] of one image."""

    states: dict[int, Tensor]


def trunk_features(
    backbone: Backbone, prefix_ids_1P: Tensor, views: Views, layers: Iterable[int]
) -> Features:
    """Run the trunk once over the views of some images, in the backbone's own dtype and in inference mode.

    The full view's pass serves its four quadrants, and one pass serves all layers; no layer above the last of them runs.

    Args:
        prefix_ids_1P: int64, the prompt before the image.
        views: batched, on the backbone's device.

    Returns:
        Ordinary tensors, which autograd takes as constants.
    """
    pixels_BFChw = torch.cat((views.full_Chw[:, None], views.quadrants_QChw), dim=1)
    pixels = pixels_BFChw.flatten(0, 1).to(backbone.dtype)
    prefix_ids_BP = prefix_ids_1P.to(pixels.device).expand(len(pixels), -1)
    with torch.inference_mode(), torch.autocast(pixels.device.type, enabled=False):
        states = backbone.visual_states(prefix_ids_BP, pixels, layers)
    return Features(
        {
            layer: state_BdHW.movedim(1, -1)
            .unflatten(0, (-1, VIEWS))
            .clone()  # a clone is no inference tensor
            for layer, state_BdHW in states.items()
        }
    )


class Tokens(NamedTuple):
    """Tokens of one quadrant at one layer: `coarse_dhw` as the full view has them, the others [d, H, W]."""

    coarse_dhw: Tensor
    interp_dHW: Tensor
    token_sr_dHW: Tensor
    teacher_dHW: Tensor


def principal_colours(tokens: Tokens, less_mean: bool = False) -> list[Floats]:
    """Coarse, interpolated, TokenSR's and the teacher's tokens as RGB in [0, 1], in one basis: [h or H, w or W, 3].

    Args:
        less_mean: take each part's mean token away first.
    """
    parts = [part.float().flatten(1).T for part in tokens]
    parts = [part - part.mean(dim=0) for part in parts] if less_mean else parts
    fitted = torch.cat(parts[1:])
    centre = fitted.mean(dim=0)
    basis = _leading_directions(fitted - centre, 3)
    basis = basis * torch.where(
        basis.sum(dim=1, keepdim=True) < 0, -1.0, 1.0
    )  # signs are arbitrary otherwise
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
