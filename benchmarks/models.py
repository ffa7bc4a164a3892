"""Random LLaVA-1.5 and LLaVA-NeXT backbones of true width, with as many decoder layers as fit into memory.

Widths, heads, vocabulary, vision tower and anyres pinpoints are those of the published 7B checkpoints; the weights
are random and nothing is read from disk or network. What such a model answers means nothing; what it costs does.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.initialization import no_init_weights
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from blink.model.prompts import template_named

FAMILIES = ("llava15", "llava_next")
LAYERS = 32
"""Decoder layers of the full 7B models."""

SIDE = 336
"""Pixels per side of what the vision tower takes, in patches of 14: 24 x 24 visual tokens."""

PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]

_BLOCK = 1_000_003

_SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")


def config(
    family: str, *, layers: int = LAYERS, vision_layers: int = 24, hidden: int = 4096
) -> LlavaConfig | LlavaNextConfig:
    """The published config of a 7B model, with another number of layers or width; arguments as in `true_width`."""
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
        pad_token_id=_SPECIAL.index("<pad>"),
        bos_token_id=_SPECIAL.index("<s>"),
        eos_token_id=_SPECIAL.index("</s>"),
    )
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=vision_layers,
        num_attention_heads=16,
        image_size=SIDE,
        patch_size=14,
        projection_dim=768,
    )
    common: dict[str, Any] = {
        "vision_config": vision,
        "text_config": text,
        "image_token_index": _SPECIAL.index("<image>"),
        "image_seq_length": (SIDE // 14) ** 2,
        "vision_feature_layer": -2,
    }
    if family == "llava15":
        return LlavaConfig(**common)
    return LlavaNextConfig(image_grid_pinpoints=PINPOINTS, **common)


def true_width(
    family: str = "llava15",
    *,
    layers: int,
    dtype: torch.dtype = torch.bfloat16,
    attention: str = "sdpa",
    vision_layers: int = 24,
    hidden: int = 4096,
    seed: int = 0,
) -> LlavaForConditionalGeneration | LlavaNextForConditionalGeneration:
    """A random 7B model cut to its first decoder layers, frozen, in evaluation mode, on the CPU.

    A decoder layer has 202 M weights (405 MB in bfloat16), embedding and head 262 M, the vision tower 304 M.

    Args:
        family: "llava15" or "llava_next".
        layers: decoder layers.
        attention: transformers' `attn_implementation`.
        vision_layers: of the vision tower; 24 is the true number, 2 or more run (the states taken are the last but one's).
        hidden: width of the decoder, a multiple of 128; MLP and heads shrink with it. 4096 is the true width.
    """
    kind: Any = LlavaForConditionalGeneration if family == "llava15" else LlavaNextForConditionalGeneration
    settings = config(family, layers=layers, vision_layers=vision_layers, hidden=hidden)
    with no_init_weights():
        model = kind._from_config(settings, dtype=dtype, attn_implementation=attention)
    _draw(model, seed)
    model.generation_config = GenerationConfig(pad_token_id=0, bos_token_id=1, eos_token_id=2)
    return model.requires_grad_(False).eval()


def processor(
    model: LlavaForConditionalGeneration | LlavaNextForConditionalGeneration,
) -> LlavaProcessor | LlavaNextProcessor:
    """The processor of a model of `true_width`: pads LLaVA-1.5's pictures, a token per word, on the left of others.

    Words beyond those of the conversation template are all the unknown token: lengths are right, words are not.
    """
    words = Whitespace().pre_tokenize_str(template_named("vicuna_v1").prompt("a question"))
    vocabulary = dict.fromkeys([*_SPECIAL, *(word for word, _ in words)])
    core = Tokenizer(WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    core.pre_tokenizer = Whitespace()
    core.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
        padding_side="left",
    )
    square = {"height": SIDE, "width": SIDE}
    settings: dict[str, Any] = {
        "tokenizer": tokenizer,
        "patch_size": 14,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
    }
    if isinstance(model, LlavaNextForConditionalGeneration):
        tiles = LlavaNextImageProcessorPil(
            size={"shortest_edge": SIDE}, crop_size=square, image_grid_pinpoints=PINPOINTS
        )
        return LlavaNextProcessor(image_processor=tiles, **settings)
    images = LlavaImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size=square, do_center_crop=True, do_pad=True
    )
    return LlavaProcessor(image_processor=images, **settings)


def _draw(model: Any, seed: int) -> None:
    """Fill the weights: norms with ones, biases with zeros, all else with numbers of spread 0.02.

    One block of random numbers is repeated, since drawing billions takes minutes; its length is a prime, so that
    no two rows of a matrix are alike.
    """
    block = 0.02 * torch.randn(_BLOCK, generator=torch.Generator().manual_seed(seed))
    start = 0
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                weight.zero_()
            elif "norm" in name:
                weight.fill_(1)
            else:
                repeated = block.to(weight.dtype).repeat(weight.numel() // _BLOCK + 2)
                weight.copy_(repeated[start : start + weight.numel()].view_as(weight))
                start = (start + weight.numel()) % _BLOCK


def picture(seed: int = 0, size: tuple[int, int] = (640, 480)) -> Image.Image:
    """A picture of noise, `size` (width, height)."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
