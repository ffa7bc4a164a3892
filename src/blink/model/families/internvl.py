"""InternVL in transformers' own format: tiles of the picture, and behind several of them the whole as a thumbnail."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from torch import Tensor
from transformers import InternVLForConditionalGeneration

from .base import Family, Grid, Tower, encoded_before, flat, side


class InternVL(Family):
    """The thumbnail's grid is the end of the visual tokens; a picture that is not cut has one tile, which is the thumbnail."""

    architectures = (InternVLForConditionalGeneration,)
    image_inputs = ("pixel_values",)
    base_view_last = True

    @cached_property
    def grid(self) -> Grid:
        """Pixel shuffle joins neighbouring patches of the vision tower."""
        vision, ratio = self.config.vision_config, self.config.downsample_ratio
        H, W = (
            int(side(vision.image_size, axis) // side(vision.patch_size, axis) * ratio) for axis in (0, 1)
        )
        return H, W

    def closing(self, ids: Sequence[int], columns: Sequence[int]) -> int:
        """`<img>` and `</img>` stand around all tiles; which ids they have, the tokenizer alone knows."""
        return 1

    def image_tokens(self, inputs: Mapping[str, Any], in_prompt: Sequence[int]) -> list[int | None]:
        """Tiles of all pictures come in one tensor: rows must hold whole tiles, and as many as there are together."""
        encoded, pixels, per_tile = encoded_before(inputs), inputs.get("pixel_values"), self.tokens_per_view
        if encoded is not None:
            total = len(flat(encoded.pooler_output))
        elif pixels is not None:
            total = len(pixels) * per_tile
        else:
            return []
        whole = [max(per_tile, count // per_tile * per_tile) for count in in_prompt]
        return [*whole[:-1], max(0, total - sum(whole[:-1]))]

    def pixels_by_picture(self, inputs: Mapping[str, Any], in_prompt: Sequence[int]) -> list[Tensor]:
        """As many tiles as the row has tokens for."""
        return list(inputs["pixel_values"].split([count // self.tokens_per_view for count in in_prompt]))

    def tower(self) -> Tower:
        """A class token goes through the tower and is dropped behind it."""
        vision = self.core.vision_tower
        return Tower(
            vision.embeddings,
            vision.encoder.layer,
            (self.core.multi_modal_projector,),
            pooling=None,
            width=self.config.vision_config.hidden_size,
            merge=round(1 / self.config.downsample_ratio),
            class_tokens=1,
        )
