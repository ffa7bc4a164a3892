"""Numbers read from a model."""

import torch

from blink.model.dimensions import Dimensions
from tests import models


def test_numbers_of_a_model() -> None:
    """Would catch key heads taken for query heads, a head width that is not hidden / heads, and norms among the matrices."""
    dims = Dimensions.of(models.llava(kv_heads=2, head_dim=16), "float32")
    assert (dims.hidden, dims.heads, dims.key_heads, dims.head) == (48, 4, 2, 16)
    assert (dims.grid, dims.visual, dims.itemsize) == ((12, 12), 144, 4)
    assert dims.layer_weights == 48 * 16 * (4 + 2 + 2 + 4) + 3 * 48 * 96
    tower = dims.tower
    assert (tower.patches, tower.merge, tower.class_tokens, tower.projected) == ((12, 12), 1, 1, 0)
    assert (tower.width, tower.layers, tower.windowed) == (32, 3, 0)
    assert (tower.patch_weights, tower.layer_weights) == (3 * 4**2 * 32, 4 * 32**2 + 2 * 32 * 48)
    assert (tower.projector_weights, tower.pooling_weights) == (32 * 48 + 48**2, 0)


def test_an_outline_has_the_same_numbers() -> None:
    """Would catch numbers that need weights."""
    model = models.family("qwen3_vl")
    with torch.device("meta"):
        outline = type(model)._from_config(model.config)
    assert Dimensions.of(outline) == Dimensions.of(model)


def test_windows_of_a_view() -> None:
    """Would catch windows of whole patches that cut visual tokens, and the smaller ones at the edges left out.

    3 x 3 visual tokens are 6 x 6 patches: of 16 x 14 patches two whole windows each way, and 4 rows and 2 columns.
    """
    tower = Dimensions.of(models.family("qwen2_5_vl")).tower
    assert (tower.window, tower.windowed, tower.layers) == (6, 2, 3)
    assert tower.windows((16, 14)) == [36, 36, 12, 36, 36, 12, 24, 24, 8]
