"""Numbers read from a config, and the tokens that a picture becomes."""

import pytest

from blink.model.dimensions import Dimensions, image_tokens, tiles
from tests import models


def test_numbers_of_a_config() -> None:
    """Would catch key heads taken for query heads, and a head width that is not hidden / heads."""
    dims = Dimensions.of(models.llava(kv_heads=2, head_dim=16).config, "float32")
    assert (dims.hidden, dims.heads, dims.key_heads, dims.head) == (48, 4, 2, 16)
    assert (dims.grid, dims.visual, dims.vision_tokens, dims.itemsize) == ((12, 12), 144, 145, 4)


@pytest.mark.parametrize(
    "size", [(60, 60), (24, 24), (50, 90), (90, 50), (33, 100), (100, 33), (47, 61), (300, 200)]
)
def test_tokens_of_a_picture_in_tiles(size: tuple[int, int]) -> None:
    """Would catch another choice of tiles, padding that is counted, and newlines that are not."""
    model = models.llava_next()
    dims = Dimensions.of(model.config)
    made = models.processor(model)(images=models.picture(0, size), text="<image> yes", return_tensors="pt")
    width, height = size
    down, across = tiles(dims, height, width)
    assert 1 + down * across == made["pixel_values"].shape[1]
    found = int((made["input_ids"] == model.config.image_token_id).sum())
    assert image_tokens(dims, height, width) == found


def test_tokens_of_a_picture_without_tiles() -> None:
    """Would catch LLaVA-1.5 treated like LLaVA-NeXT."""
    assert image_tokens(Dimensions.of(models.llava(grid=6).config), 50, 90) == 36
