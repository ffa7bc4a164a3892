"""Hidden states of a picture's base view as they enter decoder layers, without the text behind it.

Axes: B pictures, S columns of a prompt, N columns up to the end of the base view, H x W its grid, d hidden width.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from blink.model.backbone import Backbone
from blink.model.families import Grid
from blink.model.image_inputs import embed_prompt, encode_image
from blink.runs.values import UserError


@dataclass(frozen=True)
class ViewStates:
    """Prompts that end at the base view of their picture, on their way through the decoder; all of one layout.

    Attributes:
        layer: the next layer to run.
        hidden_BNd: what enters it.
        start: first column of the base view, which goes on to the last.
        grid: (H, W) of the base view.
        position_C1N: position ids.
        added: what the model adds behind some layers (DeepStack): layer -> [B, N, d].
    """

    layer: int
    hidden_BNd: Tensor
    start: int
    grid: Grid
    position_C1N: Tensor
    added: Mapping[int, Tensor]

    @property
    def base_view(self) -> Tensor:
        """The base views' states, [B, d, H, W]."""
        return self.hidden_BNd[:, self.start :].transpose(1, 2).unflatten(2, self.grid)

    def split(self) -> list["ViewStates"]:
        """Each row by itself."""
        return [
            replace(
                self,
                hidden_BNd=self.hidden_BNd[row : row + 1],
                added={layer: of_layer_BNd[row : row + 1] for layer, of_layer_BNd in self.added.items()},
            )
            for row in range(len(self.hidden_BNd))
        ]


def join_states(parts: Sequence[ViewStates]) -> ViewStates:
    """Put rows together that enter one layer, all of one layout."""
    first = parts[0]
    if len(parts) == 1:
        return first
    return replace(
        first,
        hidden_BNd=torch.cat([part.hidden_BNd for part in parts]),
        added={layer: torch.cat([part.added[layer] for part in parts]) for layer in first.added},
    )


@torch.no_grad()
def enter_decoder(backbone: Backbone, inputs: Mapping[str, Any]) -> ViewStates:
    """Encode pictures and put them into their prompts, which end here at the base view; see `visual_states`."""
    start, (H, W) = _base_view(backbone, inputs)
    end = start + H * W
    embedded = embed_prompt(backbone, inputs["input_ids"], encode_image(backbone, inputs))
    positions = backbone.family.positions(inputs["input_ids"], None, inputs)
    added = {layer: of_layer_BSd[:, :end] for layer, of_layer_BSd in embedded.added.items()}
    return ViewStates(0, embedded.hidden_BSd[:, :end], start, (H, W), positions[:, :1, :end], added)


@torch.no_grad()
def run_up_to(backbone: Backbone, states: ViewStates, layer: int) -> ViewStates:
    """Run the decoder layers below `layer` that the states have not been through yet."""
    assert states.layer <= layer, f"states that enter layer {states.layer} cannot go back to {layer}"
    hidden_BNd = states.hidden_BNd
    if states.layer < layer:
        frame = backbone.frame(hidden_BNd, None, states.position_C1N)
    for number in range(states.layer, layer):
        hidden_BNd = backbone.run_layer(number, hidden_BNd, frame, None)
        if number in states.added:
            hidden_BNd = hidden_BNd + states.added[number].to(hidden_BNd.device)
    return replace(states, layer=layer, hidden_BNd=hidden_BNd)


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
    entering = enter_decoder(backbone, inputs)
    states = {}
    for layer in wanted:
        entering = run_up_to(backbone, entering, layer)
        states[layer] = entering.base_view
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
