"""Turns pictures and prompts into a backbone's inputs, embeddings and visual tokens, and checks that they fit.

Beside `backbone.py` the only file that knows how transformers passes pictures around. Axes: B samples, S columns of a
prompt, T visual tokens of a picture, tiles and newlines included, d hidden width.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from blink.model.backbone import Backbone
from blink.runs.values import UserError


def prompt_inputs(backbone: Backbone, images: Sequence[Image.Image], prompts: Sequence[str]) -> Any:
    """Run the processor on prompts with one picture each; tensors on the model's device and in its dtype.

    Several prompts are padded to the longest, on the left if the processor was loaded by `load_processor`.
    """
    inputs = backbone.processor(
        images=list(images), text=list(prompts), padding=len(prompts) > 1, return_tensors="pt"
    )
    return inputs.to(backbone.model.device, backbone.model.dtype)


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
        raise UserError(
            f"the prompt has {len(tokens)} rows and {len(counts)} images; Blink takes exactly one image per sample"
        )
    for row, (in_prompt, count) in enumerate(zip(tokens, counts, strict=True)):
        if backbone.family == "llava":
            backbone.check_cells(count or H * W)
        # not encoded yet, a LLaVA-NeXT picture has at least its base view; how many tiles follow, its size decides
        fits = in_prompt == (count or H * W) if count or backbone.family == "llava" else in_prompt >= H * W
        if not fits:
            raise UserError(
                f"row {row} of the prompt has {in_prompt} image tokens, its image has {count or f'{H * W} or more'}; "
                "let the processor put them in, for exactly one image per sample"
            )


def embed_prompt(backbone: Backbone, inputs: Mapping[str, Any]) -> Tensor:
    """Embeddings of prompts with the visual tokens in place, as they enter layer 0: [B, S, d].

    Args:
        inputs: the processor's output, on the model's device and in its dtype.
    """
    ids_BS = inputs["input_ids"]
    images = {name: inputs[name] for name in ("pixel_values", "image_sizes") if name in inputs}
    embedded_BSd = backbone.embed(ids_BS)
    encoded = backbone.core.get_image_features(**images, return_dict=True).pooler_output
    features = backbone.entering(torch.cat(list(encoded)).to(embedded_BSd))
    visual_BS1 = (ids_BS == backbone.image_token_id)[..., None]
    return embedded_BSd.masked_scatter(visual_BS1, features)


def encode_image(backbone: Backbone, inputs: Mapping[str, Any]) -> Tensor:
    """All visual tokens of one picture as they enter layer 0, tiles and newlines included: [T, d].

    Args:
        inputs: the processor's output for one picture and one prompt, on the model's device, in its dtype.

    Raises:
        ValueError: the prompt has another number of image tokens, or the picture another grid than the config says.
    """
    sizes = inputs.get("image_sizes")
    encoded = backbone.core.get_image_features(
        pixel_values=inputs["pixel_values"], image_sizes=sizes, return_dict=True
    )
    tokens = (inputs["input_ids"] == backbone.image_token_id).sum(dim=1).tolist()
    check_images(backbone, tokens, {"mm_encoder_outputs": {"image": encoded}})
    features_Td: Tensor = encoded.pooler_output[0]
    return backbone.entering(features_Td.to(backbone.device, backbone.dtype))


def pixel_digests(backbone: Backbone, pixels: Tensor, sizes: Tensor | None) -> list[str]:
    """A hash per image of its pixels as the vision tower sees them, in the model's dtype; tiles of padding are left out.

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
    seen = (
        image.to(backbone.model.dtype).float().cpu().contiguous() for image in images
    )  # NumPy has no bfloat16
    return [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in seen]
