"""Hidden states of the views of images as they enter decoder layers, and what TokenSR makes of them (Sec. 3.2.1).

All that training, its pictures and the TokenSR figure compare comes from here.

Axes: B images, F = 5 views of each (the full view, then its quadrants in row-major order), N = B * 4 quadrants, h x w
tokens of a quadrant in the full view, H x W grid of the base view, d hidden width.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from blink.model.backbone import Backbone
from blink.model.families import Grid
from blink.model.token_sr import Context, call_module, cut_region, region_box, upsample
from blink.model.views import PATCHES, QUADRANTS, VIEWS, Views
from blink.model.visual_states import visual_states


class Features(NamedTuple):
    """Visual hidden states as they enter some layers: layer -> [B, 5, H, W, d], or [5, H, W, d] of one image."""

    states: dict[int, Tensor]


Batch = Views | list[Features]
"""Some images: inputs of the backbone, or what it makes of them, those of one grid together."""


class QuadrantFeatures(NamedTuple):
    """Visual tokens of N quadrants as they enter one layer, channels first.

    Attributes:
        coarse: the quadrant's tokens in the full view, [d, h, w] each: where a side of the grid is odd, sizes differ.
        interpolated_NdHW: these, resized to the grid as in inference: what TokenSR is given.
        refined_NdHW: what TokenSR makes of them.
        teacher_NdHW: the tokens of the quadrant seen alone, which TokenSR is to match.
    """

    coarse: Sequence[Tensor]
    interpolated_NdHW: Tensor
    refined_NdHW: Tensor
    teacher_NdHW: Tensor


def trunk_features(backbone: Backbone, views: Views, layers: Iterable[int]) -> list[Features]:
    """Run the views of some images through the decoder once, in the backbone's own dtype; views of one layout together.

    The full view's pass serves its four quadrants, and one pass serves all layers; no layer above the last of them runs.
    It runs in inference mode and without autocast.

    Args:
        views: on the backbone's device.

    Returns:
        For each grid the features of its images, in their order. Ordinary tensors, which autograd takes as constants.
    """
    layers = sorted(set(layers))
    by_grid: dict[Grid, list[tuple[Tensor, dict[int, Tensor]]]] = {}
    for inputs, places in zip(views.inputs, views.places, strict=True):
        ready = {
            name: value.to(backbone.dtype) if value.is_floating_point() else value
            for name, value in inputs.items()
        }
        with torch.inference_mode(), torch.autocast(backbone.device.type, enabled=False):
            states = visual_states(backbone, ready, layers)
        H, W = states[layers[0]].shape[2:]
        by_grid.setdefault((H, W), []).append((places, states))
    return [_in_order(parts, layers) for parts in by_grid.values()]


def _in_order(parts: list[tuple[Tensor, dict[int, Tensor]]], layers: Sequence[int]) -> Features:
    """Features of the images of one grid, whose views ran in several parts: places and states of each."""
    order = torch.cat([places for places, _ in parts]).argsort()
    # joining and picking copy, so that none is an inference tensor
    return Features(
        {
            layer: torch.cat([channels_last(states[layer]) for _, states in parts])[order].unflatten(
                0, (-1, VIEWS)
            )
            for layer in layers
        }
    )


def stack_features(features: Sequence[Features]) -> list[Features]:
    """Join the features of single images, in their order; those of one grid go together."""
    by_grid: dict[torch.Size, list[Features]] = {}
    for of_image in features:
        by_grid.setdefault(next(iter(of_image.states.values())).shape, []).append(of_image)
    return [
        Features({layer: torch.stack([one.states[layer] for one in alike]) for layer in alike[0].states})
        for alike in by_grid.values()
    ]


def images_in(batch: Batch) -> int:
    """How many images a batch holds."""
    if isinstance(batch, Views):
        return batch.images
    return sum(len(next(iter(features.states.values()))) for features in batch)


def layers_read(modules: Mapping[int, nn.Module]) -> tuple[int, ...]:
    """Layers whose states some modules are trained and measured with: their own, and 0 where one sees the encoded crop."""
    crop = any(getattr(module, "needs_crop", False) for module in modules.values())
    return tuple(sorted({*modules, *((0,) if crop else ())}))


def quadrant_features(features: Features, layer: int, module: nn.Module) -> QuadrantFeatures:
    """Compare the full view's quadrants with the quadrants seen alone, at one layer; N counts image by image.

    Args:
        features: of `trunk_features`, with all that `layers_read` names.
        module: TokenSR of the layer; gradients reach it, and nothing else.
    """
    state_BFHWd = features.states[layer]
    full_BdHW = state_BFHWd[:, 0].movedim(-1, 1)
    grid = full_BdHW.shape[-2], full_BdHW.shape[-1]
    regions = [cut_region(full_BdHW, region, PATCHES).contiguous() for region in range(QUADRANTS)]
    interpolated = [upsample(region_Bdhw, grid) for region_Bdhw in regions]
    interpolated_NdHW = torch.stack(interpolated, dim=1).flatten(0, 1)
    return QuadrantFeatures(
        coarse=[region_Bdhw[image] for image in range(len(full_BdHW)) for region_Bdhw in regions],
        interpolated_NdHW=interpolated_NdHW,
        refined_NdHW=refine(module, interpolated_NdHW, quadrant_context(features, layer, module)),
        teacher_NdHW=state_BFHWd[:, 1:].flatten(0, 1).movedim(-1, 1),
    )


def damaged_images(features: QuadrantFeatures) -> list[bool]:
    """Whether the backbone's states of each image hold nan or infinity."""
    whole_NdHW = features.interpolated_NdHW.isfinite() & features.teacher_NdHW.isfinite()
    damaged: list[bool] = (~whole_NdHW).flatten(1).unflatten(0, (-1, QUADRANTS)).flatten(1).any(1).tolist()
    return damaged


def channels_last(tokens_BdHW: Tensor) -> Tensor:
    """[B, d, H, W] -> [B, H, W, d]."""
    return tokens_BdHW.movedim(1, -1)


def quadrant_context(features: Features, layer: int, module: nn.Module) -> Context | None:
    """What a module is given beside the quadrants; None if it needs nothing.

    The encoded crop of a quadrant is the view of it alone as that enters layer 0.
    """
    if not getattr(module, "needs_context", False):
        return None
    full_BdHW = features.states[layer][:, 0].movedim(-1, 1)
    grid = full_BdHW.shape[2], full_BdHW.shape[3]
    visual_NdHW = full_BdHW.repeat_interleave(QUADRANTS, dim=0)
    boxes = [region_box(region, PATCHES, grid) for region in range(QUADRANTS)]
    crop_NdHW = None
    if getattr(module, "needs_crop", False):
        crop_NdHW = features.states[0][:, 1:].flatten(0, 1).movedim(-1, 1)
    return Context(visual_NdHW, boxes * len(full_BdHW), crop_NdHW)


def refine(module: nn.Module, tokens_NdHW: Tensor, context: Context | None = None) -> Tensor:
    """Run a TokenSR module on tokens in the module's own dtype, which DeepSpeed may have changed."""
    dtype = next(module.parameters()).dtype
    if context is not None:
        crop_NdHW = None if context.crop_BdHW is None else context.crop_BdHW.to(dtype)
        context = Context(context.visual_BdGg.to(dtype), context.boxes, crop_NdHW)
    return call_module(module, tokens_NdHW.to(dtype), context)
