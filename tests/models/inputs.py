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


def prompt(seed: int, words: int | None = None, system: str | None = None, *, processor: Any = None) -> str:
    """A prompt with one picture.

    Args:
        words: random words in the question; None: 3 to 14.
        system: text before the user's turn; None: 0 to 6 random words. None at all keeps the template's own.
        processor: its conversation template writes the prompt; None, or one without a template: of LLaVA's shape.
    """
    rng = np.random.default_rng(seed)
    before = _words(rng, int(rng.integers(0, 7))) if system is None else system
    question = _words(rng, int(rng.integers(3, 15)) if words is None else words)
    if processor is None or processor.chat_template is None:
        return f"{before} USER: <image>\n{question}? ASSISTANT:"
    return chat_prompt(processor, f"{question}?", before)


def chat_prompt(processor: Any, question: str, system: str = "") -> str:
    """The prompt that a processor's conversation template makes of a question about one picture."""
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    if system:
        turns.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    text: str = processor.apply_chat_template(turns, add_generation_prompt=True)
    start = processor.tokenizer.bos_token
    # a tokenizer that begins each text with the start token would write a second one
    return text.removeprefix(start) if start and processor.tokenizer("").input_ids else text


def batch(
    model: Model, seeds: list[int], sizes: list[tuple[int, int]] | None = None, **prompt_settings: Any
) -> dict[str, torch.Tensor]:
    """What the processor makes of one picture and one prompt per seed: a left-padded batch for `model`.

    The keys are those of the model's forward: input_ids, attention_mask, pixel_values and what else the family needs,
    such as image_sizes or image_grid_thw.

    Args:
        sizes: (width, height) of each picture; None: all of 60 x 60 pixels.
    """
    shapes = sizes or [(60, 60)] * len(seeds)
    prepared = processor(model)
    inputs = prepared(
        images=[[picture(seed, size)] for seed, size in zip(seeds, shapes, strict=True)],
        text=[prompt(seed, processor=prepared, **prompt_settings) for seed in seeds],
        padding=True,
        return_tensors="pt",
    )
    return dict(inputs.to(model.dtype))


def _words(rng: np.random.Generator, count: int) -> str:
    return " ".join(WORDS[i] for i in rng.integers(0, len(WORDS), count))
