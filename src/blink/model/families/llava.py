"""LLaVA: one view of every picture, made by a CLIP or SigLIP tower."""

from functools import cached_property
from typing import Any

from transformers import LlavaForConditionalGeneration

from blink.runs.values import UserError

from .base import Family, has_class_token


class Llava(Family):
    """The grid is the last H x W tokens: with "full", a CLIP tower's class token comes before it."""

    architectures = (LlavaForConditionalGeneration,)
    image_inputs = ("pixel_values",)
    base_view_last = True

    def check(self) -> None:
        """Raise ValueError for a Pixtral tower, and for a selection of features that leaves no grid."""
        vision = self.config.vision_config
        if vision.model_type == "pixtral":
            raise UserError(
                "the vision tower is Pixtral's, which puts a break token behind every row of visual tokens; Blink needs a "
                "picture's tokens as one unbroken grid, as CLIP and SigLIP towers give it"
            )
        assert self.grid is not None
        if self.tokens_per_view < self.grid[0] * self.grid[1]:
            raise UserError(
                f"the vision tower ({vision.model_type}) has no class token, and vision_feature_select_strategy='default' "
                f"drops the first of its {self.grid[0]} x {self.grid[1]} tokens, which leaves no grid; a checkpoint of "
                "this tower needs 'full'"
            )

    @cached_property
    def tokens_per_view(self) -> int:
        """One per cell of the grid, and a class token where the tower has one and the config keeps it."""
        assert self.grid is not None
        dropped = self.config.vision_feature_select_strategy == "default"
        return self.grid[0] * self.grid[1] + has_class_token(self.core.vision_tower) - dropped

    def image_tokens(self, inputs: Any, in_prompt: Any) -> list[int | None]:
        """Every picture has as many; ValueError for pictures that were encoded to others, as of another size."""
        counts = super().image_tokens(inputs, in_prompt)
        other = [count for count in counts if count not in (None, self.tokens_per_view)]
        if other:
            assert self.grid is not None
            H, W = self.grid
            raise UserError(
                f"the vision tower gives {other[0]} tokens for an image, its {H} x {W} grid has {H * W}; "
                "Blink needs one token per cell (vision_feature_select_strategy='default' drops a class token)"
            )
        return [self.tokens_per_view] * len(counts)
