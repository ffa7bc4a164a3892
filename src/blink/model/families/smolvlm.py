"""SmolVLM and Idefics3: tiles of the picture with tokens between them, and behind them the whole picture."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import Idefics3ForConditionalGeneration, SmolVLMForConditionalGeneration

from .base import Family, Grid, Tower, count_runs, encoded_before, side


class SmolVLM(Family):
    """The global view's grid is the end of the visual span. The tokens between tiles belong to that span.

    A picture is written as `<fake> <row_1_col_1> <image> ... <image> <fake> <row_1_col_2> <image> ...`, a line break
    behind each row of tiles, then `<fake> <global-img> <image> ... <image> <fake>`; uncut, as the last of these alone.
    """

    architectures = (SmolVLMForConditionalGeneration, Idefics3ForConditionalGeneration)
    image_inputs = ("pixel_values", "pixel_attention_mask")
    text_model = "text_model"
    base_view_last = True

    @cached_property
    def grid(self) -> Grid:
        """The connector joins neighbouring patches of the vision tower."""
        vision, scale = self.config.vision_config, self.config.scale_factor
        H, W = (side(vision.image_size, axis) // vision.patch_size // scale for axis in (0, 1))
        return H, W

    def pictures(self, ids: Sequence[int], columns: Sequence[int]) -> int:
        """Tiles of one picture have a single `<fake>` between them; a picture ends with one, and the next begins with one."""
        if not columns or columns[0] < 2:
            return count_runs(ids, columns)
        fake = ids[columns[0] - 2]
        gaps = [ids[before + 1 : after] for before, after in pairwise(columns) if after != before + 1]
        return 1 + sum(list(gap).count(fake) != 1 for gap in gaps)

    def closing(self, ids: Sequence[int], columns: Sequence[int]) -> int:
        """The last `<fake>`."""
        after = ids[columns[-1] + 1 : columns[-1] + 2]
        return int(columns[0] >= 2 and after == ids[columns[0] - 2 : columns[0] - 1])

    def image_tokens(self, inputs: Mapping[str, Any], in_prompt: Sequence[int]) -> list[int | None]:
        """Tiles are padded to the most of any row with pictures of zeros, as the model itself takes them out."""
        if encoded_before(inputs) is not None or inputs.get("pixel_values") is None:
            return super().image_tokens(inputs, in_prompt)
        return [len(tiles) * self.tokens_per_view for tiles in self.pixels_by_picture(inputs, in_prompt)]

    def pixels_by_picture(self, inputs: Mapping[str, Any], in_prompt: Sequence[int]) -> list[Tensor]:
        """Without the padding."""
        pixels_BPChw: Tensor = inputs["pixel_values"]
        real_BP = (pixels_BPChw != 0).flatten(2).any(dim=2)
        return [tiles[real_P] for tiles, real_P in zip(pixels_BPChw, torch.atleast_2d(real_BP), strict=True)]

    def view_inputs(self, pixels_BChw: Tensor) -> dict[str, Tensor]:
        """A picture's tiles have an axis of their own."""
        return {"pixel_values": pixels_BChw[:, None]}

    def tower(self) -> Tower:
        """The connector projects once `scale_factor` x `scale_factor` patches are joined."""
        vision = self.core.vision_model
        return Tower(
            vision.embeddings,
            vision.encoder.layers,
            (self.core.connector,),
            pooling=None,
            width=self.config.vision_config.hidden_size,
            merge=self.config.scale_factor,
        )
