"""Random models of all families, their processors, and pictures and prompts to feed them.

For tests and benchmarks alike: `from tests import models`. Three sizes: `family` (and of it `llava` and `llava_next`) is
small, `true_width` has the published 7B LLaVAs' width and few layers, `published` writes small checkpoints in the published
ones' layout. Everything follows from its arguments and a seed; nothing is read from disk or network, and nothing here
imports pytest, or of blink more than its placeholder for video processors. In reading order:

    tokenizers.py      a word per token, or byte-pair merges as Llama's
    weights.py         random weights of any model
    backbones.py       LLaVA-1.5 and LLaVA-NeXT: small, or of true width
    families.py        the other families, small
    chat_templates.py  the conversation templates of those
    processors.py      tokenizer and image processor of a model
    inputs.py          pictures, prompts, batches
    checkpoints.py     folders as Hugging Face lays them out, now and earlier
    second_device.py   a second device where a machine has but a CPU
"""

from .backbones import (
    FAMILIES,
    PATCH,
    TEXT_MODELS,
    Model,
    checkpoint_activations,
    llava,
    llava_next,
    published_config,
    true_width,
)
from .checkpoints import PUBLISHED, published, save, save_as_before
from .families import SMALL, family
from .inputs import batch, noise, picture, prompt
from .processors import processor, published_processor
from .tokenizers import SPECIAL, SYSTEM, WORDS, tokenizer

__all__ = [
    "FAMILIES",
    "PATCH",
    "PUBLISHED",
    "SMALL",
    "SPECIAL",
    "SYSTEM",
    "TEXT_MODELS",
    "WORDS",
    "Model",
    "batch",
    "checkpoint_activations",
    "family",
    "llava",
    "llava_next",
    "noise",
    "picture",
    "processor",
    "prompt",
    "published",
    "published_config",
    "published_processor",
    "save",
    "save_as_before",
    "tokenizer",
    "true_width",
]
