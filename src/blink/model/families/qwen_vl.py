"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: one view of any shape, whose positions count rows and columns (M-RoPE)."""

import inspect
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
)

from blink.runs.values import UserError

from .base import Family, Grid, Tower


class QwenVL(Family):
    """All visual tokens are the grid, which follows from the picture's size. Qwen3-VL adds to them behind its first layers."""

    architectures = (
        Qwen2VLForConditionalGeneration,
        Qwen2_5_VLForConditionalGeneration,
        Qwen3VLForConditionalGeneration,
    )
    image_inputs = ("pixel_values", "image_grid_thw")
    axes = 3
    any_size = True

    @cached_property
    def grid(self) -> None:
        """Depends on the picture."""
        return None

    def grids(self, inputs: Mapping[str, Any], rows: int) -> list[Grid]:
        """Patches of each picture over the merge size; ValueError for a video."""
        merge = self.config.vision_config.spatial_merge_size
        if inputs.get("video_grid_thw") is not None or inputs.get("pixel_values_videos") is not None:
            raise UserError("the prompt has a video; Blink takes exactly one image per sample")
        thw: Tensor | None = inputs.get("image_grid_thw")
        ids_BS, position = inputs.get("input_ids"), inputs.get("position_ids")
        if thw is None and ids_BS is not None and position is not None and position.dim() == 3:
            # `generate` has encoded the picture, and dropped its shape; its positions tell it.
            visual_BS = ids_BS == self.image_token_id
            return [_extent(position[-2:, row, visual_BS[row]]) for row in range(rows)]
        if thw is None:
            raise UserError(
                "the prompt has no image_grid_thw, which says how a picture's tokens lie; pass on all that the processor "
                "returns"
            )
        return [(height // merge, width // merge) for _, height, width in thw.tolist()]

    def closing(self, ids: Sequence[int], columns: Sequence[int]) -> int:
        """`<|vision_end|>`, where the prompt has one."""
        return int(ids[columns[-1] + 1 : columns[-1] + 2] == [self.config.vision_end_token_id])

    def image_tokens(self, inputs: Mapping[str, Any], in_prompt: Sequence[int]) -> list[int | None]:
        """As many as the grid has cells."""
        return [height * width for height, width in self.grids(inputs, len(in_prompt))]

    def positions(self, ids_BS: Tensor, valid_BS: Tensor | None, inputs: Mapping[str, Any]) -> Tensor:
        """Time, row and column of each token, by the model's own `get_rope_index`."""
        position: Tensor | None = inputs.get("position_ids")
        if inputs.get("image_grid_thw") is None and position is not None:
            position_CBS = position[-3:]
            return position_CBS if valid_BS is None else position_CBS.masked_fill(~valid_BS, 0)
        kinds = {}
        if "mm_token_type_ids" in inspect.signature(self.core.get_rope_index).parameters:
            kinds["mm_token_type_ids"] = (ids_BS == self.image_token_id).int()
        position_CBS, _ = self.core.get_rope_index(
            ids_BS,
            image_grid_thw=inputs["image_grid_thw"],
            attention_mask=None if valid_BS is None else valid_BS.long(),
            **kinds,
        )
        if valid_BS is not None:
            position_CBS = position_CBS.masked_fill(~valid_BS, 0)
        return position_CBS

    def added(self, inputs: Mapping[str, Any], hidden_BSd: Tensor) -> dict[int, Tensor]:
        """DeepStack's features, at the places of the visual tokens."""
        features = inputs.get("deepstack_visual_embeds") or ()
        visual_BS1 = (
            None if not len(features) else inputs["visual_pos_masks"].to(hidden_BSd.device)[..., None]
        )
        return {
            layer: torch.zeros_like(hidden_BSd).masked_scatter(visual_BS1, of_layer_Td.to(hidden_BSd))
            for layer, of_layer_Td in enumerate(features)
            if visual_BS1 is not None
        }

    def pixels_by_picture(self, inputs: Mapping[str, Any], in_prompt: Sequence[int]) -> list[Tensor]:
        """Patches of all pictures come in one tensor."""
        return list(inputs["pixel_values"].split(inputs["image_grid_thw"].prod(dim=-1).tolist()))

    def base_view_pixels(self, inputs: Mapping[str, Any], in_prompt: Sequence[int]) -> list[Tensor]:
        """Patches come merge x merge at a time, each frame of a picture twice."""
        vision = self.config.vision_config
        patch, merge, frames = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
        pictures = []
        for patches, (_, h, w) in zip(
            self.pixels_by_picture(inputs, in_prompt), inputs["image_grid_thw"].tolist(), strict=True
        ):
            cut = patches.view(h // merge, w // merge, merge, merge, -1, frames, patch, patch)
            pictures.append(cut[..., 0, :, :].permute(4, 0, 2, 5, 1, 3, 6).reshape(-1, h * patch, w * patch))
        return pictures

    def view_inputs(self, pixels_BChw: Tensor) -> dict[str, Tensor]:
        """The patches of all pictures, one after the other, and their grids."""
        vision = self.config.vision_config
        patch, merge, frames = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
        h, w = (side // patch for side in pixels_BChw.shape[2:])
        cut = pixels_BChw.unflatten(3, (w // merge, merge, patch)).unflatten(2, (h // merge, merge, patch))
        # [B, C, rows, merge, patch, columns, merge, patch] to [B, rows, columns, merge, merge, C, frames, patch, patch]
        patches = cut.permute(0, 2, 5, 3, 6, 1, 4, 7)[..., None, :, :].expand(*(-1,) * 6, frames, -1, -1)
        grid = torch.tensor([[1, h, w]] * len(pixels_BChw), device=pixels_BChw.device)
        return {"pixel_values": patches.reshape(len(pixels_BChw) * h * w, -1), "image_grid_thw": grid}

    def tower(self) -> Tower:
        """The mergers join patches and project them; Qwen3-VL has more of them, for DeepStack."""
        vision, config = self.core.visual, self.config.vision_config
        window: int | None = getattr(config, "window_size", None)
        return Tower(
            vision.patch_embed,
            vision.blocks,
            (vision.merger, *getattr(vision, "deepstack_merger_list", ())),
            pooling=None,
            width=getattr(config, "embed_dim", config.hidden_size),
            merge=config.spatial_merge_size,
            window=None if window is None else window // config.patch_size,
            whole=tuple(getattr(config, "fullatt_block_indexes", ())),
        )

    def views_by_picture(self, inputs: Mapping[str, Any], in_prompt: Sequence[int]) -> list[list[Grid]]:
        """The picture as it is."""
        return [[(height, width)] for _, height, width in inputs["image_grid_thw"].tolist()]


def _extent(position_2T: Tensor) -> Grid:
    """Rows and columns of a picture from the positions of its tokens."""
    height, width = (position_2T.amax(dim=1) - position_2T.amin(dim=1) + 1).tolist()
    return height, width
