"""Random LLaVA-1.5 and LLaVA-NeXT models: small, or of the published 7B models' width with few layers.

The small ones' weights are scaled so that attention is far from flat: saliency ratios then differ between layers,
pictures and questions, and thresholds split the actions. What a model of true width answers means nothing; what it
costs does.
"""

from typing import Any, TypeAlias

import torch
from transformers import (
    AutoConfig,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
    SiglipVisionConfig,
)
from transformers.initialization import no_init_weights

from .tokenizers import IMAGE, SPECIAL, chat_tokenizer, tokenizer
from .weights import IDS, repeat_block, small

PATCH = 4
"""Pixels per side of one visual token of the small models."""

FAMILIES = ("llava15", "llava_next")
PUBLISHED_PATCH, PUBLISHED_SIDE = 14, 336
"""Pixels per side of a visual token and of a picture or tile: 24 x 24 visual tokens."""

PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]

TEXT_MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {},
    "phi3": {},
    "granite": {"embedding_multiplier": 0.7, "attention_multiplier": 0.4, "residual_multiplier": 0.8},
    "olmo2": {},
    "gemma": {},
    "smollm3": {},
    "cohere": {},
    "glm4": {},
    "starcoder2": {"sliding_window": None},
}
"""Text models with full attention, and what their small configs need beside the common numbers."""

Model: TypeAlias = PreTrainedModel
"""A model of any of these classes."""


def llava(
    *,
    grid: int = 12,
    layers: int = 5,
    hidden: int = 48,
    heads: int = 4,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    text: str = "llama",
    sliding_window: int | None = None,
    attention_bias: bool = False,
    rope_parameters: dict[str, Any] | None = None,
    tower: str = "clip",
    select: str = "default",
    max_positions: int = 2048,
    attention: str = "sdpa",
    dtype: torch.dtype = torch.float32,
    gain: float = 1.6,
    seed: int = 0,
) -> LlavaForConditionalGeneration:
    """A small random LLaVA-1.5 in evaluation mode, or with another vision tower a LLaVA of its kind.

    Args:
        grid: visual tokens per side; the picture has `grid * PATCH` pixels per side.
        kv_heads: key and value heads; fewer than `heads` gives grouped queries. None: as many as `heads`.
        head_dim: width of one head; None: `hidden // heads`.
        text: one of TEXT_MODELS.
        sliding_window: for those that know one, such as "mistral"; None is full attention.
        attention_bias: biases on the attention projections, for "llama" only.
        rope_parameters: of the rotary embeddings, as in transformers' configs; None is the plain kind.
        tower: "clip" or "siglip", the latter with the conversation template of LLaVA-Interleave.
        select: "default" takes the tower's tokens but the first, "full" all of them; CLIP's first is a class token, and
            SigLIP has none.
        max_positions: tokens that the text model says it was trained for.
        attention: transformers' `attn_implementation`.
        gain: spread of queries and keys; attention scores have about its square as standard deviation.
    """
    siglip = tower == "siglip"
    words = text_config(
        text,
        vocabulary=len(chat_tokenizer("llava") if siglip else tokenizer()),
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        sliding_window=sliding_window,
        attention_bias=attention_bias,
        rope_parameters=rope_parameters,
        max_positions=max_positions,
    )
    vision = small_siglip(grid * PATCH, PATCH) if siglip else small_vision(grid * PATCH, PATCH)
    config = llava_config(vision, words, select=select)
    return small(LlavaForConditionalGeneration, config, attention, dtype, gain, seed)


def llava_next(
    *,
    grid: int = 6,
    layers: int = 5,
    hidden: int = 48,
    heads: int = 4,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    text: str = "llama",
    sliding_window: int | None = None,
    attention: str = "sdpa",
    dtype: torch.dtype = torch.float32,
    gain: float = 1.6,
    seed: int = 0,
) -> LlavaNextForConditionalGeneration:
    """A small random LLaVA-NeXT in evaluation mode, with 1 x 2, 2 x 1, 2 x 2, 1 x 3 or 3 x 1 tiles.

    The arguments are those of `llava`.
    """
    words = text_config(
        text,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        sliding_window=sliding_window,
    )
    side = grid * PATCH
    pinpoints = [[a * side, b * side] for a, b in ((1, 2), (2, 1), (2, 2), (1, 3), (3, 1))]
    config = llava_config(small_vision(side, PATCH), words, pinpoints=pinpoints)
    return small(LlavaNextForConditionalGeneration, config, attention, dtype, gain, seed)


def true_width(
    family: str = "llava15",
    *,
    layers: int,
    dtype: torch.dtype = torch.bfloat16,
    attention: str = "sdpa",
    vision_layers: int = 24,
    hidden: int = 4096,
    seed: int = 0,
    device: str = "cpu",
) -> Model:
    """A random 7B model cut to its first decoder layers, frozen, in evaluation mode.

    A decoder layer has 202 M weights (405 MB in bfloat16), embedding and head 262 M, the vision tower 304 M.

    Args:
        family: "llava15" or "llava_next".
        layers: decoder layers.
        attention: transformers' `attn_implementation`.
        vision_layers: of the vision tower; 24 is the true number, 2 or more run (the states taken are the last but one's).
        hidden: width of the decoder, a multiple of 128; MLP and heads shrink with it. 4096 is the true width.
        device: where the weights are made, without a way over the CPU.
    """
    kind: Any = LlavaForConditionalGeneration if family == "llava15" else LlavaNextForConditionalGeneration
    settings = published_config(family, layers=layers, vision_layers=vision_layers, hidden=hidden)
    with no_init_weights(), torch.device(device):
        model = kind._from_config(settings, dtype=dtype, attn_implementation=attention)
    repeat_block(model, seed)
    model.generation_config = GenerationConfig(**IDS)
    return model.requires_grad_(False).eval()


def published_config(
    family: str, *, layers: int = 32, vision_layers: int = 24, hidden: int = 4096
) -> LlavaConfig | LlavaNextConfig:
    """The published config of a 7B model: widths, heads, vocabulary, vision tower and anyres pinpoints.

    Arguments as in `true_width`, for another number of layers or width.
    """
    if family not in FAMILIES:
        raise ValueError(f"family={family!r}: expected one of {', '.join(FAMILIES)}")
    text = LlamaConfig(
        vocab_size=32064,
        hidden_size=hidden,
        intermediate_size=11008 * hidden // 4096,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 128,
        num_key_value_heads=hidden // 128,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        **IDS,
    )
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=vision_layers,
        num_attention_heads=16,
        image_size=PUBLISHED_SIDE,
        patch_size=PUBLISHED_PATCH,
        projection_dim=768,
    )
    return llava_config(vision, text, pinpoints=PINPOINTS if family == "llava_next" else None)


def llava_config(
    vision: CLIPVisionConfig | SiglipVisionConfig,
    text: PreTrainedConfig,
    *,
    image_token: int = SPECIAL.index(IMAGE),
    pinpoints: list[list[int]] | None = None,
    select: str = "default",
) -> LlavaConfig | LlavaNextConfig:
    """LLaVA-1.5's config of a vision tower and a text model, or with `pinpoints` LLaVA-NeXT's.

    Args:
        image_token: id of <image>.
        pinpoints: [height, width] of each arrangement of tiles, in pixels.
        select: as in `llava`.
    """
    parts: dict[str, Any] = {
        "vision_config": vision,
        "text_config": text,
        "image_token_index": image_token,
        "image_seq_length": (vision.image_size // vision.patch_size) ** 2,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": select,
    }
    return (
        LlavaConfig(**parts)
        if pinpoints is None
        else LlavaNextConfig(image_grid_pinpoints=pinpoints, **parts)
    )


SMALL_VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
}
"""Sizes of every small vision tower."""


def small_vision(side: int, patch: int) -> CLIPVisionConfig:
    """A vision tower of width 32 with three layers, for pictures of `side` pixels in patches of `patch`."""
    return CLIPVisionConfig(**SMALL_VISION, image_size=side, patch_size=patch, projection_dim=32)


def small_siglip(side: int, patch: int) -> SiglipVisionConfig:
    """As `small_vision`, a SigLIP, which has no class token."""
    return SiglipVisionConfig(**SMALL_VISION, image_size=side, patch_size=patch, vision_use_head=False)


def text_config(
    kind: str,
    *,
    vocabulary: int | None = None,
    layers: int,
    hidden: int,
    heads: int,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    sliding_window: int | None = None,
    attention_bias: bool = False,
    rope_parameters: dict[str, Any] | None = None,
    max_positions: int = 2048,
) -> PreTrainedConfig:
    """The config of a small text model. Arguments as in `llava`; `vocabulary` None: as many words as `tokenizer` has."""
    common: dict[str, Any] = {
        "vocab_size": vocabulary or len(tokenizer()),
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads or heads,
        "head_dim": head_dim or hidden // heads,
        "max_position_embeddings": max_positions,
        **IDS,
    }
    if attention_bias:
        common["attention_bias"] = True
    if rope_parameters:
        common["rope_parameters"] = rope_parameters
    config: PreTrainedConfig = AutoConfig.for_model(kind, **{**common, **TEXT_MODELS[kind]})
    if sliding_window is not None:
        assert hasattr(config, "sliding_window"), f"{kind} knows no window"
        config.sliding_window = sliding_window
    return config


def checkpoint_activations(model: Any, reentrant: bool) -> None:
    """Recompute activations in the backward pass, by the name that it has from transformers 5.24 on or the one before."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})
