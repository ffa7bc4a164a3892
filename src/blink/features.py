"""What the frozen trunk makes of the views of pictures, layer by layer: all that training asks of a backbone.

Axes: B images, F = 5 views of each (the full view, then its quadrants in row-major order), H x W grid of visual tokens,
d hidden width; P tokens of a prefix.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from blink.backbone import Backbone
from blink.views import QUADRANTS, Views

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
