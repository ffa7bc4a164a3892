"""Small random LLaVA and LLaVA-NeXT models, their processors, and pictures and prompts to feed them.

Import as `from tests import models`. Everything follows from its arguments and a seed. The weights are
scaled so that attention is far from flat: saliency ratios then differ between layers, pictures and
questions, and thresholds split the actions. Nothing here imports blink.
"""

import copy
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

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
    MistralConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
PATCH = 4
"""Pixels per side of one visual token."""

SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
WORDS = (
    "is there a an the red green blue yellow small large circle square triangle star dog cat in on of left "
    "right above below image picture what which where how many colour shape object are do you see answer "
    "question using single word or phrase yes no one two three four A B C D E option letter choices from "
    "given directly 是 否"
).split()

Model: TypeAlias = LlavaForConditionalGeneration | LlavaNextForConditionalGeneration
M = TypeVar("M", LlavaForConditionalGeneration, LlavaNextForConditionalGeneration)


def tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer with <image>, that starts each text with <s> and pads on the left."""
    words = Whitespace().pre_tokenize_str(f"{SYSTEM} USER: ASSISTANT: ? , . INST [ ] / Is What Answer")
    vocabulary = list(dict.fromkeys([*SPECIAL, *(word for word, _ in words), *WORDS]))
    core = Tokenizer(WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    core.pre_tokenizer = Whitespace()
    core.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
        padding_side="left",
    )


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
    attention: str = "sdpa",
    dtype: torch.dtype = torch.float32,
    gain: float = 1.6,
    seed: int = 0,
) -> LlavaForConditionalGeneration:
    """A random LLaVA-1.5 in evaluation mode.

    Args:
        grid: visual tokens per side; the picture has `grid * PATCH` pixels per side.
        kv_heads: key and value heads; fewer than `heads` gives grouped queries. None: as many as `heads`.
        head_dim: width of one head; None: `hidden // heads`.
        text: "llama" or "mistral".
        sliding_window: for "mistral" only; None is full attention.
        attention_bias: biases on the attention projections, for "llama" only.
        attention: transformers' `attn_implementation`.
        gain: spread of queries and keys; attention scores have about its square as standard deviation.
    """
    config = LlavaConfig(
        vision_config=_vision(grid),
        text_config=_text(
            text,
            layers=layers,
            hidden=hidden,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            sliding_window=sliding_window,
            attention_bias=attention_bias,
        ),
        image_token_index=SPECIAL.index("<image>"),
        image_seq_length=grid * grid,
        vision_feature_layer=-2,
    )
    return _finish(LlavaForConditionalGeneration, config, attention, dtype, gain, seed)


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
    """A random LLaVA-NeXT in evaluation mode, with 1 x 2, 2 x 1, 2 x 2, 1 x 3 or 3 x 1 tiles.

    The arguments are those of `llava`.
    """
    side = grid * PATCH
    config = LlavaNextConfig(
        vision_config=_vision(grid),
        text_config=_text(
            text,
            layers=layers,
            hidden=hidden,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            sliding_window=sliding_window,
        ),
        image_token_index=SPECIAL.index("<image>"),
        image_grid_pinpoints=[[a * side, b * side] for a, b in ((1, 2), (2, 1), (2, 2), (1, 3), (3, 1))],
        image_seq_length=grid * grid,
        vision_feature_layer=-2,
    )
    return _finish(LlavaNextForConditionalGeneration, config, attention, dtype, gain, seed)


def processor(model: Model) -> LlavaProcessor | LlavaNextProcessor:
    """The processor that fits `model`, with a Pillow-backed image processor."""
    vision: Any = model.config.vision_config
    side = vision.image_size
    settings: dict[str, Any] = {
        "tokenizer": tokenizer(),
        "patch_size": vision.patch_size,
        "vision_feature_select_strategy": model.config.vision_feature_select_strategy,
        "num_additional_image_tokens": 1,
    }
    square = {"height": side, "width": side}
    if isinstance(model, LlavaNextForConditionalGeneration):
        pinpoints: Any = model.config.image_grid_pinpoints
        tiles = LlavaNextImageProcessorPil(
            size={"shortest_edge": side}, crop_size=square, image_grid_pinpoints=pinpoints
        )
        return LlavaNextProcessor(image_processor=tiles, **settings)
    images = LlavaImageProcessorPil(size=square, crop_size=square, do_center_crop=False)
    return LlavaProcessor(image_processor=images, **settings)


def save(model: Model, folder: Path) -> Path:
    """Write model and processor into `folder` as Hugging Face lays them out, and return the folder."""
    model.save_pretrained(folder)
    processor(model).save_pretrained(folder)
    return folder


def picture(seed: int, size: tuple[int, int] = (60, 60)) -> Image.Image:
    """An RGB picture of `size` (width, height): a background and a few bright rectangles at random places."""
    rng = np.random.default_rng(seed)
    width, height = size
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    pixels[:] = rng.integers(0, 256, 3)
    for _ in range(int(rng.integers(2, 6))):
        x, y = int(rng.integers(0, width * 3 // 4)), int(rng.integers(0, height * 3 // 4))
        w, h = int(rng.integers(width // 8, width // 3 + 1)), int(rng.integers(height // 8, height // 3 + 1))
        pixels[y : y + h, x : x + w] = rng.integers(0, 256, 3)
    noise = rng.integers(-20, 21, pixels.shape)
    return Image.fromarray(np.clip(pixels.astype(np.int64) + noise, 0, 255).astype(np.uint8))


def prompt(seed: int, words: int | None = None, system: str | None = None) -> str:
    """A prompt of LLaVA's shape.

    Args:
        words: random words in the question; None: 3 to 14.
        system: text before the user's turn; None: 0 to 6 random words.
    """
    rng = np.random.default_rng(seed)
    before = _words(rng, int(rng.integers(0, 7))) if system is None else system
    question = _words(rng, int(rng.integers(3, 15)) if words is None else words)
    return f"{before} USER: <image>\n{question}? ASSISTANT:"


def batch(
    model: Model, seeds: list[int], sizes: list[tuple[int, int]] | None = None, **prompt_settings: Any
) -> dict[str, torch.Tensor]:
    """What the processor makes of one picture and one prompt per seed: a left-padded batch for `model`.

    The keys are those of the model's forward: input_ids, attention_mask, pixel_values and, for LLaVA-NeXT,
    image_sizes.
    """
    shapes = sizes or [(60, 60)] * len(seeds)
    inputs = processor(model)(
        images=[picture(seed, size) for seed, size in zip(seeds, shapes, strict=True)],
        text=[prompt(seed, **prompt_settings) for seed in seeds],
        padding=True,
        return_tensors="pt",
    )
    wanted = ("input_ids", "attention_mask", "pixel_values", "image_sizes")
    tensors = {name: inputs[name] for name in wanted if name in inputs}
    tensors["pixel_values"] = tensors["pixel_values"].to(model.dtype)
    return tensors


def _words(rng: np.random.Generator, count: int) -> str:
    return " ".join(WORDS[i] for i in rng.integers(0, len(WORDS), count))


def _vision(grid: int) -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=grid * PATCH,
        patch_size=PATCH,
        projection_dim=32,
    )


def _text(
    kind: str,
    *,
    layers: int,
    hidden: int,
    heads: int,
    kv_heads: int | None,
    head_dim: int | None,
    sliding_window: int | None,
    attention_bias: bool = False,
) -> PreTrainedConfig:
    common: dict[str, Any] = {
        "vocab_size": len(tokenizer()),
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads or heads,
        "head_dim": head_dim or hidden // heads,
        "max_position_embeddings": 2048,
        "pad_token_id": SPECIAL.index("<pad>"),
        "bos_token_id": SPECIAL.index("<s>"),
        "eos_token_id": SPECIAL.index("</s>"),
    }
    if kind == "mistral":
        return MistralConfig(sliding_window=sliding_window, **common)
    if kind == "llama" and sliding_window is None:
        return LlamaConfig(attention_bias=attention_bias, **common)
    raise ValueError(
        f"text={kind!r} with sliding_window={sliding_window}: use 'llama', or 'mistral' with a window"
    )


def _finish(
    kind: type[M], config: PreTrainedConfig, attention: str, dtype: torch.dtype, gain: float, seed: int
) -> M:
    """Build the model with random weights from `seed`; the same seed gives the same weights for any dtype."""
    model = kind._from_config(copy.deepcopy(config), attn_implementation=attention)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(_draw(name, weight.shape, gain, generator))
    model.generation_config = GenerationConfig(
        pad_token_id=SPECIAL.index("<pad>"),
        bos_token_id=SPECIAL.index("<s>"),
        eos_token_id=SPECIAL.index("</s>"),
    )
    return model.to(dtype).eval()


def _draw(name: str, shape: torch.Size, gain: float, generator: torch.Generator) -> torch.Tensor:
    values = torch.randn(shape, generator=generator)
    if "norm" in name and name.endswith("weight"):
        return 1 + 0.2 * values
    if len(shape) == 1:
        return 0.2 * values
    if "embed" in name:
        return values
    fan_in = shape[1:].numel()
    spread = gain if "language_model" in name and (".q_proj." in name or ".k_proj." in name) else 1.0
    return spread * values / fan_in**0.5
