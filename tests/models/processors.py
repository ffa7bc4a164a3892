"""The processor of a random backbone: its tokenizer, and an image processor that works with Pillow."""

from typing import Any

from transformers import LlavaNextForConditionalGeneration, LlavaNextProcessor, LlavaProcessor
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from .backbones import PINPOINTS, PUBLISHED_PATCH, PUBLISHED_SIDE, Model
from .tokenizers import llama_tokenizer, tokenizer


def processor(model: Model) -> LlavaProcessor | LlavaNextProcessor:
    """The processor that fits `model`, with a token per word.

    LLaVA-1.5's pictures are padded to a square at true width, and stretched to one in small models.
    """
    vision: Any = model.config.vision_config
    side = vision.image_size
    settings = {"tokenizer": tokenizer(), **_visual_tokens(vision.patch_size)}
    if isinstance(model, LlavaNextForConditionalGeneration):
        return LlavaNextProcessor(_tiles(side, model.config.image_grid_pinpoints), **settings)
    if side == PUBLISHED_SIDE:
        return LlavaProcessor(_cropped(do_pad=True), **settings)
    return LlavaProcessor(
        LlavaImageProcessorPil(size=_square(side), crop_size=_square(side), do_center_crop=False), **settings
    )


def published_processor(*, tiled: bool = False) -> LlavaProcessor | LlavaNextProcessor:
    """LLaVA-1.5's or, with tiles, LLaVA-NeXT's as the hub has it; LLaVA-1.5's crops the centre of a picture."""
    settings = {"tokenizer": llama_tokenizer(), **_visual_tokens(PUBLISHED_PATCH)}
    if tiled:
        return LlavaNextProcessor(_tiles(PUBLISHED_SIDE, PINPOINTS), **settings)
    return LlavaProcessor(_cropped(), **settings)


def _visual_tokens(patch: int) -> dict[str, Any]:
    """What a processor counts visual tokens by: the tower's class token is cut off."""
    return {
        "patch_size": patch,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
    }


def _cropped(**settings: bool) -> LlavaImageProcessorPil:
    side = PUBLISHED_SIDE
    return LlavaImageProcessorPil(
        size={"shortest_edge": side}, crop_size=_square(side), do_center_crop=True, **settings
    )


def _tiles(side: int, pinpoints: Any) -> LlavaNextImageProcessorPil:
    return LlavaNextImageProcessorPil(
        size={"shortest_edge": side}, crop_size=_square(side), image_grid_pinpoints=pinpoints
    )


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}
