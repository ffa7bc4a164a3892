"""Hidden states of a picture's base view as they enter decoder layers, without the text behind it.

Axes: B pictures, S columns of a prompt, N columns up to the end of the base view, H x W its grid, d hidden width.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from blink.model.backbone import Backbone
from blink.model.image_inputs import embed_prompt, encode_image
from blink.runs.values import UserError


@torch.no_grad()
def visual_states(backbone: Backbone, inputs: Mapping[str, Any], layers: Iterable[int]) -> dict[int, Tensor]:
    """Hidden states of base views as they enter each of `layers`.

    Runs all up to the end of the base view through decoder layers 0 .. max(layers) - 1, without gradients. Attention is
    causal and all else comes later, so these are the states of any prompt that begins like that: whatever its question,
    and where the base view comes first, whatever tiles follow it.

    Args:
        inputs: the processor's output for prompts that may end at their picture, on the model's device and in its dtype:
            pictures of one layout (the same columns, the same grid), without padding.
        layers: 0 gives what enters the decoder, `num_layers` the output of the last layer that is loaded.

    Returns:
        layer -> [B, d, H, W].

    Raises:
        ValueError: for a layer that is not loaded, or prompts of several layouts.
    """
    wanted = sorted(set(layers))
    if not wanted or wanted[0] < 0 or wanted[-1] > backbone.num_layers:
        raise UserError(
            f"layers {wanted}: this model can give the states that enter layers 0 to {backbone.num_layers}"
        )
    start, (H, W) = _base_view(backbone, inputs)
    end = start + H * W
    embedded = embed_prompt(backbone, inputs["input_ids"], encode_image(backbone, inputs))
    hidden_BNd = embedded.hidden_BSd[:, :end]
    states = {}
    if wanted[-1]:
        position_CBS = backbone.family.positions(inputs["input_ids"], None, inputs)
        frame = backbone.frame(hidden_BNd, None, position_CBS[..., :end])
    for layer in range(wanted[-1] + 1):
        if layer in wanted:
            states[layer] = hidden_BNd[:, start:].transpose(1, 2).unflatten(2, (H, W))
        if layer < wanted[-1]:
            hidden_BNd = backbone.run_layer(layer, hidden_BNd, frame, None)
            if layer in embedded.added:
                hidden_BNd = hidden_BNd + embedded.added[layer][:, :end]
    return states


def _base_view(backbone: Backbone, inputs: Mapping[str, Any]) -> tuple[int, tuple[int, int]]:
    """First column and grid of the base view of every row; ValueError unless all rows agree in them."""
    ids_BS, mask_BS = inputs["input_ids"], inputs.get("attention_mask")
    visual_BS = ids_BS == backbone.image_token_id
    grids = set(backbone.family.grids(inputs, len(ids_BS)))
    alike = len(grids) == 1 and bool((visual_BS == visual_BS[0]).all())
    if not alike or (mask_BS is not None and not mask_BS.all()):
        raise UserError(
            f"the pictures of {len(ids_BS)} prompts do not stand in the same columns, with one grid (found {grids}) and "
            "without padding; give those of one layout at a time"
        )
    column_T = visual_BS[0].nonzero()[:, 0]
    if not len(column_T):
        raise UserError(
            "the prompts have no image tokens; put the processor's image token where the picture goes"
        )
    H, W = grid = grids.pop()
    first = int(column_T[-1]) + 1 - H * W if backbone.family.base_view_last else int(column_T[0])
    return first, grid
