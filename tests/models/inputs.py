"""Pictures, prompts, and batches of both, each from a seed."""

from typing import Any

import numpy as np
import torch
from PIL import Image

from .backbones import Model
from .processors import processor
from .tokenizers import WORDS


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
    spread = rng.integers(-20, 21, pixels.shape)
    return Image.fromarray(np.clip(pixels.astype(np.int64) + spread, 0, 255).astype(np.uint8))


def noise(seed: int = 0, size: tuple[int, int] = (640, 480)) -> Image.Image:
    """An RGB picture of `size` (width, height), each value drawn by itself."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


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
