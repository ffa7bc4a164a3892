"""LLaVA-NeXT and LLaVA-OneVision: the whole picture as one view, then tiles of it with newline tokens (anyres)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LlavaNextForConditionalGeneration, LlavaOnevisionForConditionalGeneration
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from .base import Encoded, Family, flat


class LlavaNext(Family):
    """The base view's grid comes first, so its tokens do not depend on the tiles."""

    architectures = (LlavaNextForConditionalGeneration, LlavaOnevisionForConditionalGeneration)

    def image_tokens(self, inputs: Mapping[str, Any], in_prompt: Sequence[int]) -> list[int | None]:
        """Known once encoded; before, the picture's size decides how many follow the base view's."""
        sizes = inputs.get("image_sizes")
        if inputs.get("pixel_values") is not None and sizes is not None:
            return [None] * len(sizes)
        return super().image_tokens(inputs, in_prompt)

    def encode(self, inputs: Mapping[str, Any]) -> Encoded:
        """As the model does; without sizes the pixels [B, C, h, w] are base views alone, which get no newline."""
        if inputs.get("image_sizes") is not None:
            return super().encode(inputs)
        config = self.config
        outputs = self.core.vision_tower(inputs["pixel_values"], output_hidden_states=True, return_dict=True)
        chosen = config.vision_feature_layer
        layers = [chosen] if isinstance(chosen, int) else chosen
        features = torch.cat([outputs.hidden_states[layer] for layer in layers], dim=-1)
        if config.vision_feature_select_strategy == "default":
            features = features[:, 1:]
        return Encoded(flat(self.core.multi_modal_projector(features)))

    def pixels_by_picture(self, inputs: Mapping[str, Any], in_prompt: Sequence[int]) -> list[Tensor]:
        """A batch pads pictures to the most tiles."""
        pixels, sizes = inputs["pixel_values"], inputs.get("image_sizes")
        if sizes is None:
            return list(pixels)
        tiles = [
            image_size_to_num_patches(
                size, self.config.image_grid_pinpoints, self.config.vision_config.image_size
            )
            for size in sizes
        ]
        if pixels.dim() == 4:
            return list(pixels.split(tiles))
        return [picture[:count] for picture, count in zip(pixels, tiles, strict=True)]
