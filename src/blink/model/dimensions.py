"""The numbers of a LLaVA or LLaVA-NeXT config: widths, counts, and how many visual tokens a picture becomes.

Plain numbers in, plain numbers out: no tensors, and no model is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class AttentionWidths(NamedTuple):
    """Query heads and key heads of a text model, and the width of one head."""

    heads: int
    key_heads: int
    head: int


def attention_widths(text_config: Any) -> AttentionWidths:
    """Read a text model's config; where it names no key heads there are as many as query heads."""
    heads = text_config.num_attention_heads
    key_heads = getattr(text_config, "num_key_value_heads", None) or heads
    head = getattr(text_config, "head_dim", None) or text_config.hidden_size // heads
    return AttentionWidths(heads, key_heads, head)


@dataclass(frozen=True)
class Dimensions:
    """The sizes in a LLaVA or LLaVA-NeXT config from which its cost is computed.

    Attributes:
        hidden, mlp, layers, vocabulary: of the decoder.
        heads, key_heads, head: query heads, key heads and the width of one.
        grid: (H, W) visual tokens of one view.
        vision_hidden, vision_mlp, vision_layers, patch: of the vision tower, all of whose layers are run.
        vision_tokens: per view, a class token included.
        features: input width of the projector.
        pinpoints: (height, width) in pixels that LLaVA-NeXT may tile a picture to; empty for LLaVA.
        itemsize: bytes of one number.
    """

    hidden: int
    mlp: int
    layers: int
    vocabulary: int
    heads: int
    key_heads: int
    head: int
    grid: tuple[int, int]
    vision_hidden: int
    vision_mlp: int
    vision_layers: int
    patch: int
    vision_tokens: int
    features: int
    pinpoints: tuple[tuple[int, int], ...] = ()
    itemsize: int = 2

    @classmethod
    def of(cls, config: Any, dtype: str = "bfloat16") -> Dimensions:
        """Read the config of a LlavaForConditionalGeneration or LlavaNextForConditionalGeneration."""
        text, vision = config.text_config, config.vision_config
        side = vision.image_size // vision.patch_size
        chosen = config.vision_feature_layer
        return cls(
            hidden=text.hidden_size,
            mlp=text.intermediate_size,
            layers=text.num_hidden_layers,
            vocabulary=text.vocab_size,
            **attention_widths(text)._asdict(),
            grid=(side, side),
            vision_hidden=vision.hidden_size,
            vision_mlp=vision.intermediate_size,
            vision_layers=vision.num_hidden_layers,
            patch=vision.patch_size,
            vision_tokens=side * side + (config.vision_feature_select_strategy == "default"),
            features=vision.hidden_size * (1 if isinstance(chosen, int) else len(chosen)),
            pinpoints=tuple((h, w) for h, w in getattr(config, "image_grid_pinpoints", None) or ()),
            itemsize=BYTES[dtype],
        )

    @property
    def visual(self) -> int:
        """Visual tokens of one view."""
        return self.grid[0] * self.grid[1]

    @property
    def layer_weights(self) -> int:
        """Numbers in the matrices of one decoder layer."""
        return 2 * self.hidden * self.head * (self.heads + self.key_heads) + 3 * self.hidden * self.mlp


def tiles(dims: Dimensions, height: int, width: int) -> tuple[int, int]:
    """(rows, columns) of tiles that LLaVA-NeXT cuts a picture of this size into, the base view not counted.

    As transformers' `select_best_resolution`: the pinpoint that keeps most of the picture's pixels, and of several such
    the one that pads least.
    """

    def worth(pinpoint: tuple[int, int]) -> tuple[int, int]:
        scale = min(pinpoint[1] / width, pinpoint[0] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - pinpoint[0] * pinpoint[1]

    best = max(dims.pinpoints, key=worth)
    return best[0] // (dims.grid[0] * dims.patch), best[1] // (dims.grid[1] * dims.patch)


def image_tokens(dims: Dimensions, height: int, width: int) -> int:
    """Visual tokens of a picture of this size: one view's, and for LLaVA-NeXT its tiles without padding, with newlines."""
    if not dims.pinpoints:
        return dims.visual
    down, across = tiles(dims, height, width)
    H, W = down * dims.grid[0], across * dims.grid[1]
    # transformers' `unpad_image` removes the rows or columns that only pad the picture to the tiles' shape
    if width / height > W / H:
        padding = (H - int(round(height * (W / width), 7))) // 2
        H -= 2 * padding
    else:
        padding = (W - int(round(width * (H / height), 7))) // 2
        W -= 2 * padding
    return dims.visual + H * (W + 1)
