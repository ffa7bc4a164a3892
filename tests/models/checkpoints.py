"""Folders as Hugging Face lays them out: of any model, and small checkpoints in the layout of the published LLaVAs."""

import json
from pathlib import Path
from typing import Any

from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
    MistralConfig,
)

from .backbones import (
    PINPOINTS,
    PUBLISHED_PATCH,
    PUBLISHED_SIDE,
    Model,
    llava_config,
    small_vision,
)
from .processors import processor, published_processor
from .weights import random_weights

PUBLISHED = ("llava15_7b", "llava15_13b", "llava_next_7b", "llava_next_mistral_7b")
"""As the options of conf/model."""


def save(model: Model, folder: Path) -> Path:
    """Write model and processor into `folder`, and return the folder."""
    model.save_pretrained(folder)
    processor(model).save_pretrained(folder)
    return folder


def save_as_before(model: Model, folder: Path, *, named: bool = True) -> Path:
    """As `save`, in the layout of checkpoints from before processor_config.json held all settings.

    The image processor's settings are in preprocessor_config.json, those of videos in video_preprocessor_config.json, the
    conversation template with the tokenizer.

    Args:
        named: whether a processor_config.json says how many visual tokens a picture becomes; the oldest have none.
    """
    save(model, folder)
    settings = json.loads((folder / "processor_config.json").read_text())
    pictures, videos = settings.pop("image_processor"), settings.pop("video_processor", None)
    # named for torchvision's, as the hub's are, whatever is installed
    pictures["image_processor_type"] = pictures["image_processor_type"].removesuffix("Pil")
    pictures["processor_class"] = settings["processor_class"]
    _write(folder / "preprocessor_config.json", pictures)
    if videos is not None:
        _write(folder / "video_preprocessor_config.json", videos)
    if named:
        _write(folder / "processor_config.json", settings)
    else:
        (folder / "processor_config.json").unlink()
    template = folder / "chat_template.jinja"
    if template.exists():
        tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
        _write(folder / "tokenizer_config.json", {**tokenizer, "chat_template": template.read_text()})
        template.unlink()
    return folder


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2))


def published(kind: str, folder: Path, *, layers: int = 3, **text_settings: Any) -> Path:
    """Write a small random checkpoint in the layout of a published one, in several shards, and return its folder.

    True to it: classes, 336-pixel pictures in patches of 14 (24 x 24 visual tokens), anyres pinpoints, image and padding
    tokens at the end of the vocabulary, a Llama tokenizer (byte-pair merges, byte fallback, a start token), the hub's
    image processor, Mistral's grouped queries and absent window. Small: widths, layers, words.

    Args:
        kind: one of `PUBLISHED`.
        text_settings: of the text model's config, over those of the kind.
    """
    tiled, mistral = "next" in kind, "mistral" in kind
    fitting = published_processor(tiled=tiled)
    words = fitting.tokenizer
    ids = {f"{name}_token_id": getattr(words, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    text: dict[str, Any] = {
        "vocab_size": len(words) + 6,  # rounded up, as the published embeddings are
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2 if mistral else 4,
        "max_position_embeddings": 4096,
        **ids,
        **text_settings,
    }
    config = llava_config(
        small_vision(PUBLISHED_SIDE, PUBLISHED_PATCH),
        MistralConfig(**{"sliding_window": None, **text}) if mistral else LlamaConfig(**text),
        image_token=words.convert_tokens_to_ids("<image>"),
        pinpoints=PINPOINTS if tiled else None,
    )
    classes: Any = LlavaNextForConditionalGeneration if tiled else LlavaForConditionalGeneration
    model: Model = classes._from_config(config)
    random_weights(model)
    model.generation_config = GenerationConfig(**ids)
    model.save_pretrained(folder, max_shard_size="200KB")
    fitting.save_pretrained(folder)
    return folder
