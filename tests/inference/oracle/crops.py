"""Crops of the original picture, and the region that holds a box, for the literal Algorithm 1.

The crop is cut with Pillow, goes through the processor as a user's picture would, and through a stock forward pass, which
is stopped at no layer: what enters the layer asked for is read there.

Axes: G visual tokens of the base view, D hidden.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tests import models
from tests.inference.oracle.pictures import QWEN

WHOLE = {
    "internvl": {"crop_to_patches": False},
    "smolvlm": {"do_image_splitting": False},
    "idefics3": {"do_image_splitting": False},
}
"""Settings with which a processor shows a picture without tiles."""

Cells = tuple[int, int, int, int]
"""Top row, left column, height and width."""

PixelBox = tuple[int, int, int, int]
"""Left, top, right and bottom."""


class Original(NamedTuple):
    """A picture before the processor, the whole of which the model sees; the text of the prompt; what it asks about."""

    image: Image.Image
    text: str
    box: PixelBox | None = None
    processor: Any = None


@torch.no_grad()
def crop_tokens(model: Any, original: Original, cells: Cells, grid: tuple[int, int], layer: int) -> Tensor:
    """The tokens [G, D] of some cells of the picture, seen alone behind the prompt's prefix, as they enter a layer."""
    top, left, h, w = cells
    (H, W), (width, height) = grid, original.image.size
    edges = (width * left // W, height * top // H, -(-width * (left + w) // W), -(-height * (top + h) // H))
    crop = original.image.crop(edges)
    processor, kind = original.processor or models.processor(model), model.config.model_type
    if kind in QWEN:
        token = model.config.vision_config.patch_size * model.config.vision_config.spatial_merge_size
        crop = crop.resize((W * token, H * token), processor.image_processor.resample)
    text = original.text.partition(processor.image_token)[0] + processor.image_token + " it"
    inputs = processor(images=[[crop]], text=[text], return_tensors="pt", **WHOLE.get(kind, {}))
    inputs = {name: value for name, value in inputs.items() if name not in ("rows", "cols")}
    shown = (inputs["input_ids"][0] == model.config.image_token_id).nonzero()[:, 0]
    first = kind in ("llava_next", "llava_onevision")
    base = shown[: H * W] if first else shown[-H * W :]
    assert len(base) == H * W
    entering: list[Tensor] = []
    decoder = getattr(model.model, "text_model", None) or model.model.language_model
    hook = decoder.layers[layer].register_forward_pre_hook(
        lambda _, args, kwargs: entering.append(args[0] if args else kwargs["hidden_states"]),
        with_kwargs=True,
    )
    try:
        model(**inputs)
    finally:
        hook.remove()
    return entering[0][0, base]


def boxed_region(original: Original, patches: int, grid: tuple[int, int]) -> int:
    """The region that holds most of the box, by counting points of a lattice that divides pixels and cells alike."""
    assert original.box is not None
    counts = []
    for side, cells, start, end in zip(
        original.image.size, grid[::-1], original.box[:2], original.box[2:], strict=True
    ):
        inside = np.zeros(side * cells, dtype=int)
        inside[max(0, start) * cells : max(0, end) * cells] = 1
        cuts = [part * cells // patches * side for part in range(patches + 1)]
        counts.append([int(inside[a:b].sum()) for a, b in pairwise(cuts)])
    across, down = counts
    areas = [down[row] * across[column] for row in range(patches) for column in range(patches)]
    return areas.index(max(areas))
