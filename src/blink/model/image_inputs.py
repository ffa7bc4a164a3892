"""Pictures on their way into a backbone: whether they fit the prompt, their visual tokens, and their names.

Beside `backbone.py` the only file that knows how transformers passes pictures around. Axes: B samples, T visual tokens
of a picture, tiles and newlines included, d hidden width.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from blink.model.backbone import Backbone


def check_images(backbone: Backbone, tokens: list[int], inputs: dict[str, Any]) -> None:
    """Raise unless each row of a prompt has one image, and as many image tokens as that has visual tokens.

    Args:
        tokens: image tokens per row.
        inputs: the arguments of the model's forward, by name.
    """
    H, W = backbone.grid
    encoded = (inputs.get("mm_encoder_outputs") or {}).get("image")
    pixels, sizes = inputs.get("pixel_values"), inputs.get("image_sizes")
    if encoded is not None:
        counts = [len(features) for features in encoded.pooler_output]
    else:
        counts = [0] * (0 if pixels is None else len(pixels if sizes is None else sizes))
    if len(counts) != len(tokens):
        raise ValueError(
            f"the prompt has {len(tokens)} rows and {len(counts)} images; Blink takes exactly one image per sample"
        )
    for row, (found, count) in enumerate(zip(tokens, counts, strict=True)):
        if backbone.family == "llava":
            backbone.check_cells(count or H * W)
        fits = found == (count or H * W) if count or backbone.family == "llava" else found >= H * W
        if not fits:
            raise ValueError(
                f"row {row} of the prompt has {found} image tokens, its image has {count or f'{H * W} or more'}; "
                "let the processor put them in, for exactly one image per sample"
            )


def encode_image(backbone: Backbone, inputs: Mapping[str, Any]) -> Tensor:
    """All visual tokens of one picture, tiles and newlines included: [T, d].

    Args:
        inputs: what the processor made of one picture and one prompt, on the model's device, in its dtype.

    Raises:
        ValueError: the prompt's image tokens are not as many, or the grid is another than the config says.
    """
    sizes = inputs.get("image_sizes")
    encoded = backbone.core.get_image_features(
        pixel_values=inputs["pixel_values"], image_sizes=sizes, return_dict=True
    )
    tokens = (inputs["input_ids"] == backbone.image_token_id).sum(dim=1).tolist()
    check_images(backbone, tokens, {"mm_encoder_outputs": {"image": encoded}})
    features_Td: Tensor = encoded.pooler_output[0]
    return features_Td.to(backbone.device, backbone.dtype)


def pixel_digests(backbone: Backbone, pixels: Tensor, sizes: Tensor | None) -> list[str]:
    """A hash per image of its pixels in float32; tiles that only pad the batch are left out.

    Args:
        pixels: [B, 3, h, w], or [B, tiles, 3, h, w] with `sizes` for LLaVA-NeXT.
        sizes: [B, 2] height and width of the pictures, for LLaVA-NeXT.
    """
    images = list(pixels)
    if backbone.family == "llava_next" and sizes is not None:
        config = backbone.model.config
        tiles = [
            image_size_to_num_patches(size, config.image_grid_pinpoints, config.vision_config.image_size)
            for size in sizes
        ]
        images = (
            [image[:count] for image, count in zip(images, tiles, strict=True)]
            if pixels.dim() == 5
            else list(pixels.split(tiles))
        )
    return [
        hashlib.sha256(image.float().cpu().contiguous().numpy().tobytes()).hexdigest() for image in images
    ]
