"""What the literal Algorithm 1 must know of a picture, family by family: features, base view, grid, positions.

Features come from the stock model's vision tower and projector; where the base view lies among them is said here
from the config alone.

Axes: B samples, S tokens, T visual tokens of one picture (tiles and newline tokens included), D hidden.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Picture(NamedTuple):
    """One picture as the decoder gets it.

    Attributes:
        features_TD: one row for each image token of the prompt.
        grid: rows and columns of the base view.
        base: row of `features_TD` where the base view begins; it goes on row by row.
        planar: whether the tokens have rows and columns among their positions (M-RoPE).
        deepstack: what is added to the visual tokens behind the first layers, [T, D] each.
    """

    features_TD: Tensor
    grid: tuple[int, int]
    base: int
    planar: bool = False
    deepstack: tuple[Tensor, ...] = ()


QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


@torch.no_grad()
def see(model: Any, inputs: dict[str, Tensor]) -> Picture:
    """The picture of a batch of one."""
    names = ("pixel_values", "image_sizes", "pixel_attention_mask", "image_grid_thw")
    seen = {name: inputs[name] for name in names if name in inputs}
    out = model.get_image_features(**seen, return_dict=True)
    features_TD = torch.cat(list(out.pooler_output))
    kind, config = model.config.model_type, model.config
    if kind in QWEN:
        frames, *patches = inputs["image_grid_thw"][0].tolist()
        assert frames == 1, "a picture, not a video"
        rows, columns = (side // config.vision_config.spatial_merge_size for side in patches)
        deepstack = tuple(torch.cat(list(layer)) for layer in getattr(out, "deepstack_features", None) or ())
        return Picture(features_TD, (rows, columns), 0, planar=True, deepstack=deepstack)
    side = cells(config)
    first = kind in ("llava_next", "llava_onevision")
    return Picture(features_TD, (side, side), 0 if first else len(features_TD) - side * side)


def cells(config: Any) -> int:
    """Visual tokens on a side of one tile or view."""
    pixels, patch = (
        size if isinstance(size, int) else size[0]
        for size in (config.vision_config.image_size, config.vision_config.patch_size)
    )
    if config.model_type == "internvl":
        return int(pixels // patch * config.downsample_ratio)
    if config.model_type in ("smolvlm", "idefics3"):
        return pixels // patch // int(config.scale_factor)
    return int(pixels // patch)


def alone(model: Any, inputs: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    """One row of a batch without its padding, as the processor would have written it by itself."""
    real_S = inputs["attention_mask"][row].bool()
    written = {"input_ids", "attention_mask", "mm_token_type_ids"} & set(inputs)
    single = {name: inputs[name][row : row + 1, real_S] for name in written}
    kind = model.config.model_type
    if kind in QWEN:
        counts = [math.prod(grid) for grid in inputs["image_grid_thw"].tolist()]
    elif kind == "internvl":
        shown_B = (inputs["input_ids"] == model.config.image_token_id).sum(1)
        counts = (shown_B // cells(model.config) ** 2).tolist()
    else:
        counts = [1] * len(inputs["input_ids"])
    start = sum(counts[:row])
    single["pixel_values"] = inputs["pixel_values"][start : start + counts[row]]
    rest = set(inputs) - set(single)
    return {**single, **{name: inputs[name][row : row + 1] for name in rest}}
