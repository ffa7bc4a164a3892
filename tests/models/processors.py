"""The processor of a random model: its tokenizer, and an image processor that works with Pillow."""

from typing import Any

from transformers import (
    Idefics3Processor,
    InternVLProcessor,
    LlavaNextProcessor,
    LlavaOnevisionProcessor,
    LlavaProcessor,
    Qwen2_5_VLProcessor,
    Qwen2VLProcessor,
    Qwen3VLProcessor,
    SmolVLMProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from blink.model.processors import NoVideo, assemble

from .backbones import PINPOINTS, PUBLISHED_PATCH, PUBLISHED_SIDE, Model
from .chat_templates import CHAT_TEMPLATES
from .tokenizers import chat_tokenizer, llama_tokenizer, tokenizer

MAX_TILES = 4
"""Of InternVL and, two per side, of SmolVLM and Idefics3; beside the view of the whole picture."""

MIN_TOKENS, MAX_TOKENS = 16, 100
"""Visual tokens of a picture in the Qwens."""


def processor(model: Model) -> Any:
    """The processor that fits `model`, of the class that transformers has for it, with a token per word.

    LLaVA-1.5's pictures are padded to a square at true width, and stretched to one in small models.
    """
    config = model.config
    name = config.model_type
    if name == "llava_next":
        return LlavaNextProcessor(
            _tiles(config.vision_config.image_size, config.image_grid_pinpoints),
            tokenizer=tokenizer(),
            **_visual_tokens(config.vision_config.patch_size),
        )
    if name == "llava":
        return _llava(config)
    settings: dict[str, Any] = {"chat_template": CHAT_TEMPLATES[name]}
    if name == "llava_onevision":
        side = config.vision_config.image_size
        settings |= {
            "num_image_tokens": (side // config.vision_config.patch_size) ** 2,
            "vision_feature_select_strategy": config.vision_feature_select_strategy,
            "vision_aspect_ratio": config.vision_aspect_ratio,
        }
        pictures = LlavaOnevisionImageProcessorPil(
            size=_square(side), image_grid_pinpoints=config.image_grid_pinpoints
        )
    elif name == "internvl":
        settings["image_seq_length"] = config.image_seq_length
        pictures = GotOcr2ImageProcessorPil(
            size=_square(config.vision_config.image_size[0]), crop_to_patches=True, max_patches=MAX_TILES
        )
    elif name in ("smolvlm", "idefics3"):
        side = config.vision_config.image_size
        settings["image_seq_len"] = (side // config.vision_config.patch_size // config.scale_factor) ** 2
        kind = SmolVLMImageProcessorPil if name == "smolvlm" else Idefics3ImageProcessorPil
        pictures = kind(size={"longest_edge": 2 * side}, max_image_size={"longest_edge": side})
    else:
        pictures = _qwen_pictures(config.vision_config)
    parts = {
        "image_processor": pictures,
        "tokenizer": chat_tokenizer("qwen" if name.startswith("qwen") else name),
    }
    if name != "idefics3":
        parts["video_processor"] = NoVideo()
    return assemble(_CLASSES[name], settings=settings, **parts)


_CLASSES = {
    "llava_onevision": LlavaOnevisionProcessor,
    "internvl": InternVLProcessor,
    "smolvlm": SmolVLMProcessor,
    "idefics3": Idefics3Processor,
    "qwen2_vl": Qwen2VLProcessor,
    "qwen2_5_vl": Qwen2_5_VLProcessor,
    "qwen3_vl": Qwen3VLProcessor,
}


def published_processor(*, tiled: bool = False) -> LlavaProcessor | LlavaNextProcessor:
    """LLaVA-1.5's or, with tiles, LLaVA-NeXT's as the hub has it; LLaVA-1.5's is CLIP's, which crops the centre."""
    settings = {"tokenizer": llama_tokenizer(), **_visual_tokens(PUBLISHED_PATCH)}
    if tiled:
        return LlavaNextProcessor(_tiles(PUBLISHED_SIDE, PINPOINTS), **settings)
    return LlavaProcessor(CLIPImageProcessorPil(**_cropped(PUBLISHED_SIDE)), **settings)


def _llava(config: Any) -> LlavaProcessor:
    vision, select = config.vision_config, config.vision_feature_select_strategy
    side = vision.image_size
    if vision.model_type == "siglip_vision_model":
        return LlavaProcessor(
            SiglipImageProcessorPil(size=_square(side)),
            tokenizer=chat_tokenizer("llava"),
            chat_template=CHAT_TEMPLATES["llava"],
            patch_size=vision.patch_size,
            vision_feature_select_strategy=select,
        )
    if side == PUBLISHED_SIDE:
        pictures = LlavaImageProcessorPil(**_cropped(side), do_pad=True)
    else:
        pictures = LlavaImageProcessorPil(size=_square(side), crop_size=_square(side), do_center_crop=False)
    return LlavaProcessor(pictures, tokenizer=tokenizer(), **_visual_tokens(vision.patch_size, select))


def _visual_tokens(patch: int, select: str = "default") -> dict[str, Any]:
    """What a processor counts visual tokens by: the tower has a class token, which "default" cuts off."""
    return {
        "patch_size": patch,
        "vision_feature_select_strategy": select,
        "num_additional_image_tokens": 1,
    }


def _cropped(side: int) -> dict[str, Any]:
    return {"size": {"shortest_edge": side}, "crop_size": _square(side), "do_center_crop": True}


def _tiles(side: int, pinpoints: Any) -> LlavaNextImageProcessorPil:
    return LlavaNextImageProcessorPil(
        size={"shortest_edge": side}, crop_size=_square(side), image_grid_pinpoints=pinpoints
    )


def _qwen_pictures(vision: Any) -> Qwen2VLImageProcessorPil:
    token = (vision.patch_size * vision.spatial_merge_size) ** 2
    return Qwen2VLImageProcessorPil(
        size={"shortest_edge": MIN_TOKENS * token, "longest_edge": MAX_TOKENS * token},
        patch_size=vision.patch_size,
        merge_size=vision.spatial_merge_size,
        temporal_patch_size=vision.temporal_patch_size,
    )


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}
