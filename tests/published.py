"""Small checkpoints laid out as the published LLaVA checkpoints are, with random weights.

True to them: classes, 336-pixel pictures in patches of 14 (24 x 24 visual tokens), anyres pinpoints, image and padding
tokens at the end of the vocabulary, a Llama tokenizer (byte-pair merges, byte fallback, a start token), the hub's image
processors (LLaVA-1.5's crops the centre), Mistral's grouped queries and absent window. Small: widths, layers, words.
"""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, trainers
from tokenizers.models import BPE
from tokenizers.normalizers import Replace
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlamaTokenizerFast,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaProcessor,
    MistralConfig,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from tests import models

KINDS = ("llava15_7b", "llava15_13b", "llava_next_7b", "llava_next_mistral_7b")
"""As the options of conf/model."""

PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]

_SIDE = 336
_WORDS = 420
_CORPUS = [
    models.SYSTEM.replace("human", "user"),
    " ".join(models.WORDS),
    "USER: \n ASSISTANT: [INST] [/INST] Is there a red circle in the image? "
    "Answer the question using a single word or phrase.",
] * 3


def tokenizer() -> LlamaTokenizerFast:
    """Merges learned from a few sentences; any other text falls back to bytes."""
    core = Tokenizer(BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.normalizer = Replace(" ", "▁")
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    core.train_from_iterator(_CORPUS, trainers.BpeTrainer(vocab_size=_WORDS, special_tokens=special))
    learned = json.loads(core.to_str())["model"]
    made = LlamaTokenizerFast(
        vocab=learned["vocab"],
        merges=[tuple(merge) for merge in learned["merges"]],
        add_bos_token=True,
        padding_side="left",
    )
    made.add_special_tokens({"pad_token": "<pad>", "additional_special_tokens": ["<image>"]})
    return made


def llava15_processor() -> LlavaProcessor:
    """LLaVA-1.5's, as the hub has it: shortest side to 336, then the centre."""
    square = {"height": _SIDE, "width": _SIDE}
    images = LlavaImageProcessorPil(size={"shortest_edge": _SIDE}, crop_size=square, do_center_crop=True)
    return LlavaProcessor(image_processor=images, tokenizer=tokenizer(), **_TOKENS)


def llava_next_processor() -> LlavaNextProcessor:
    """LLaVA-NeXT's, with all its pinpoints."""
    square = {"height": _SIDE, "width": _SIDE}
    tiles = LlavaNextImageProcessorPil(
        size={"shortest_edge": _SIDE}, crop_size=square, image_grid_pinpoints=PINPOINTS
    )
    return LlavaNextProcessor(image_processor=tiles, tokenizer=tokenizer(), **_TOKENS)


_TOKENS: dict[str, Any] = {
    "patch_size": 14,
    "vision_feature_select_strategy": "default",
    "num_additional_image_tokens": 1,
}


def write(kind: str, folder: Path, *, layers: int = 3, **text_settings: Any) -> Path:
    """Write a checkpoint of a kind in several shards, and return its folder.

    Args:
        kind: one of `KINDS`.
        text_settings: of the text model's config, over those of the kind.
    """
    processor = llava_next_processor() if "next" in kind else llava15_processor()
    words = processor.tokenizer
    text: dict[str, Any] = {
        "vocab_size": len(words) + 6,  # rounded up, as the published embeddings are
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2 if "mistral" in kind else 4,
        "max_position_embeddings": 4096,
        "pad_token_id": words.pad_token_id,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        **text_settings,
    }
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=_SIDE,
        patch_size=14,
        projection_dim=32,
    )
    settings: dict[str, Any] = {
        "vision_config": vision,
        "text_config": MistralConfig(**{"sliding_window": None, **text})
        if "mistral" in kind
        else LlamaConfig(**text),
        "image_token_index": words.convert_tokens_to_ids("<image>"),
        "image_seq_length": 576,
        "vision_feature_layer": -2,
    }
    torch.manual_seed(0)
    model: LlavaForConditionalGeneration | LlavaNextForConditionalGeneration
    if "next" in kind:
        config = LlavaNextConfig(image_grid_pinpoints=PINPOINTS, **settings)
        model = LlavaNextForConditionalGeneration._from_config(config)
    else:
        model = LlavaForConditionalGeneration._from_config(LlavaConfig(**settings))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:  # far from flat attention, so that ratios differ
                weight.normal_(0, 1.6 / weight[0].numel() ** 0.5 if ".q_" in name or ".k_" in name else 0.12)
    model.generation_config = GenerationConfig(
        pad_token_id=words.pad_token_id, bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id
    )
    model.save_pretrained(folder, max_shard_size="200KB")
    processor.save_pretrained(folder)
    return folder
