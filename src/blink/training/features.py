"""Hidden states of the views of images as they enter decoder layers, and what TokenSR makes of them (Sec. 3.2.1).

All that training, its pictures and the TokenSR figure compare comes from here.

Axes: B images, F = 5 views of each (the full view, then its quadrants in row-major order), N = B * 4 quadrants, h x w
tokens of a quadrant in the full view, H x W grid of visual tokens, d hidden width; P tokens of a prefix.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from blink.model.backbone import Backbone
from blink.model.token_sr import cut_region, upsample
from blink.model.views import QUADRANTS, Views
from blink.runs.values import UserError

VIEWS = 1 + QUADRANTS

PATCHES = 2
"""Quadrants are the regions of a 2 x 2 split."""


def check_quadrants(grid: tuple[int, int]) -> None:
    """Raise ValueError unless the four quadrants of a grid are equal."""
    H, W = grid
    if H % PATCHES or W % PATCHES:
        raise UserError(
            f"patches={PATCHES} does not divide the {H} x {W} grid of visual tokens into equal quadrants"
        )


class Features(NamedTuple):
    """Visual hidden states as they enter some layers: layer -> [B, 5, H, W, d], or [5, H, W, d] of one image."""

    states: dict[int, Tensor]


class QuadrantFeatures(NamedTuple):
    """Visual tokens of N quadrants as they enter one layer, channels first.

    Attributes:
        coarse_Ndhw: the quadrant's tokens in the full view.
        interpolated_NdHW: these, resized to the grid as in inference: what TokenSR is given.
        refined_NdHW: what TokenSR makes of them.
        teacher_NdHW: the tokens of the quadrant seen alone, which TokenSR is to match.
    """

    coarse_Ndhw: Tensor
    interpolated_NdHW: Tensor
    refined_NdHW: Tensor
    teacher_NdHW: Tensor


def trunk_features(
    backbone: Backbone, prefix_ids_1P: Tensor, views: Views, layers: Iterable[int]
) -> Features:
    """Run prefix and visual tokens of some images' views through the decoder once, in the backbone's own dtype.

    The full view's pass serves its four quadrants, and one pass serves all layers; no layer above the last of them runs.
    It runs in inference mode and without autocast.

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


def quadrant_features(state_BFHWd: Tensor, module: nn.Module) -> QuadrantFeatures:
    """Compare the full view's quadrants with the quadrants seen alone, at one layer; N counts image by image.

    Args:
        state_BFHWd: of `trunk_features`.
        module: TokenSR of the layer; gradients reach it, and nothing else.
    """
    full_BdHW = state_BFHWd[:, 0].movedim(-1, 1)
    regions = [cut_region(full_BdHW, region, PATCHES) for region in range(QUADRANTS)]
    coarse_Ndhw = torch.stack(regions, dim=1).flatten(0, 1)
    interpolated_NdHW = upsample(coarse_Ndhw, (full_BdHW.shape[-2], full_BdHW.shape[-1]))
    return QuadrantFeatures(
        coarse_Ndhw,
        interpolated_NdHW,
        refined_NdHW=refine(module, interpolated_NdHW),
        teacher_NdHW=state_BFHWd[:, 1:].flatten(0, 1).movedim(-1, 1),
    )


def refine(module: nn.Module, tokens_NdHW: Tensor) -> Tensor:
    """Run a TokenSR module on tokens in the module's own dtype, which DeepSpeed may have changed."""
    refined_NdHW: Tensor = module(tokens_NdHW.to(next(module.parameters()).dtype))
    return refined_NdHW
