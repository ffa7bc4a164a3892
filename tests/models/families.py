"""Small random models of the other families: LLaVA-OneVision, InternVL, SmolVLM, Idefics3, Qwen2-VL, Qwen2.5-VL, Qwen3-VL.

Each of the class that transformers has for it, with what sets it apart: SigLIP towers without a class token, tiles before
or behind the base view, grids that follow the picture, M-RoPE, windows in the vision tower, deepstack.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from .backbones import PATCH, SMALL_VISION, Model, llava, llava_next, small_siglip, text_config
from .tokenizers import CHAT_TOKENS, chat_tokenizer
from .weights import IDS, small

MERGE = 2
"""Patches per side of one visual token in the families that merge them."""

_Built: TypeAlias = tuple[Any, PreTrainedConfig]


def family(
    name: str,
    *,
    grid: int = 6,
    layers: int = 5,
    hidden: int = 48,
    heads: int = 4,
    kv_heads: int | None = 2,
    attention: str = "sdpa",
    dtype: torch.dtype = torch.float32,
    gain: float = 1.6,
    seed: int = 0,
    **settings: Any,
) -> Model:
    """A small random model of a family, in evaluation mode.

    Args:
        name: one of SMALL.
        grid: visual tokens per side of one view; Qwen's follows the picture, in tokens of PATCH * MERGE pixels.
        settings: `text`, one of TEXT_MODELS, where the family takes any text model (not Qwen's own), and `head_dim`;
            for the two LLaVAs all that `llava` and `llava_next` take.

        The others as in `llava`.
    """
    common: dict[str, Any] = {
        "layers": layers,
        "hidden": hidden,
        "heads": heads,
        "kv_heads": kv_heads,
        **settings,
    }
    drawn: dict[str, Any] = {"attention": attention, "dtype": dtype, "gain": gain, "seed": seed}
    if name == "llava":
        return llava(grid=grid, **common, **drawn)
    if name == "llava_siglip":
        return llava(grid=grid, **{"tower": "siglip", "select": "full", "text": "qwen2", **common}, **drawn)
    if name == "llava_next":
        return llava_next(grid=grid, **common, **drawn)
    kind, config = _BUILDERS[name](grid, common)
    return small(kind, config, **drawn)


def _onevision(grid: int, common: dict[str, Any]) -> _Built:
    side = grid * PATCH
    return LlavaOnevisionForConditionalGeneration, LlavaOnevisionConfig(
        vision_config=small_siglip(side, PATCH),
        text_config=_words("llava_onevision", "qwen2", common),
        image_grid_pinpoints=[[a * side, b * side] for a in range(1, 4) for b in range(1, 4)],
        vision_aspect_ratio="anyres_max_4",  # so that six tiles are more than it keeps, and shrink
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        **_ids("llava_onevision", image_token_index="<image>", video_token_index="<video>"),
    )


def _internvl(grid: int, common: dict[str, Any]) -> _Built:
    side = grid * MERGE * PATCH
    return InternVLForConditionalGeneration, InternVLConfig(
        vision_config={
            **SMALL_VISION,
            "image_size": [side, side],
            "patch_size": [PATCH, PATCH],
            "attention_bias": True,
        },
        text_config=_words("internvl", "qwen2", common),
        image_seq_length=grid * grid,
        downsample_ratio=1 / MERGE,
        tie_word_embeddings=False,
        **_ids("internvl", image_token_id="<IMG_CONTEXT>"),
    )


def _smolvlm(grid: int, common: dict[str, Any]) -> _Built:
    return SmolVLMForConditionalGeneration, SmolVLMConfig(**_shuffled("smolvlm", grid, common))


def _idefics3(grid: int, common: dict[str, Any]) -> _Built:
    return Idefics3ForConditionalGeneration, Idefics3Config(**_shuffled("idefics3", grid, common))


def _shuffled(kind: str, grid: int, common: dict[str, Any]) -> dict[str, Any]:
    """What SmolVLM and Idefics3 share: MERGE x MERGE patches shuffled into one visual token."""
    return {
        "vision_config": {
            **SMALL_VISION,
            "image_size": grid * MERGE * PATCH,
            "patch_size": PATCH,
        },
        "text_config": _words(kind, "llama", common),
        "scale_factor": MERGE,
        "pad_token_id": IDS["pad_token_id"],
        **_ids(kind, image_token_id="<image>"),
    }


def _qwen2_vl(grid: int, common: dict[str, Any]) -> _Built:
    return Qwen2VLForConditionalGeneration, Qwen2VLConfig(
        vision_config={
            **_QWEN_VISION,
            "depth": 3,
            "embed_dim": 32,
            "mlp_ratio": 2,
            "hidden_size": common["hidden"],
        },
        text_config=_qwen_words(common),
        **_qwen_ids(),
    )


def _qwen2_5_vl(grid: int, common: dict[str, Any]) -> _Built:
    return Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig(
        vision_config={
            **_QWEN_VISION,
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 48,
            "out_hidden_size": common["hidden"],
            "window_size": 3 * MERGE * PATCH,  # 3 x 3 visual tokens
            "fullatt_block_indexes": [1],
        },
        text_config=_qwen_words(common),
        **_qwen_ids(),
    )


def _qwen3_vl(grid: int, common: dict[str, Any]) -> _Built:
    return Qwen3VLForConditionalGeneration, Qwen3VLConfig(
        vision_config={
            **_QWEN_VISION,
            "depth": 4,
            "hidden_size": 32,
            "intermediate_size": 48,
            "out_hidden_size": common["hidden"],
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1, 2],
        },
        text_config={**_qwen_words(common), "head_dim": _head(common)},
        **_qwen_ids(),
    )


_QWEN_VISION: dict[str, Any] = {
    "num_heads": 2,
    "patch_size": PATCH,
    "spatial_merge_size": MERGE,
    "temporal_patch_size": 2,
}

_BUILDERS: dict[str, Callable[[int, dict[str, Any]], _Built]] = {
    "llava_onevision": _onevision,
    "internvl": _internvl,
    "smolvlm": _smolvlm,
    "idefics3": _idefics3,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
}

SMALL = ("llava", "llava_siglip", "llava_next", *_BUILDERS)
"""What `family` makes: the `model_type`s of transformers, and a LLaVA with SigLIP tower."""


def _words(kind: str, default: str, common: dict[str, Any]) -> PreTrainedConfig:
    given = {"text": default, **common}
    return text_config(given.pop("text"), vocabulary=len(chat_tokenizer(kind)), **given)


def _head(common: dict[str, Any]) -> int:
    return int(common.get("head_dim") or common["hidden"] // common["heads"])


def _qwen_words(common: dict[str, Any]) -> dict[str, Any]:
    """The text half of a Qwen-VL's config, with M-RoPE: of each head's angles a third for time, height and width."""
    angles = _head(common) // 2
    return {
        "vocab_size": len(chat_tokenizer("qwen")),
        "hidden_size": common["hidden"],
        "intermediate_size": 2 * common["hidden"],
        "num_hidden_layers": common["layers"],
        "num_attention_heads": common["heads"],
        "num_key_value_heads": common["kv_heads"] or common["heads"],
        "max_position_embeddings": 2048,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [angles - 2 * (angles // 3), angles // 3, angles // 3],
        },
        **IDS,
    }


def _qwen_ids() -> dict[str, int]:
    return _ids(
        "qwen",
        image_token_id="<|image_pad|>",
        video_token_id="<|video_pad|>",
        vision_start_token_id="<|vision_start|>",
        vision_end_token_id="<|vision_end|>",
    )


def _ids(kind: str, **tokens: str) -> dict[str, int]:
    return {name: CHAT_TOKENS[kind].index(token) for name, token in tokens.items()}
