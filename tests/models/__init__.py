"""Random LLaVA and LLaVA-NeXT models, their processors, and pictures and prompts to feed them.

For tests and benchmarks alike: `from tests import models`. Three sizes: `llava` and `llava_next` are small, `true_width`
has the published 7B models' width and few layers, `published` writes small checkpoints in the published ones' layout.
Everything follows from its arguments and a seed; nothing is read from disk or network, and nothing here imports pytest
or blink. In reading order:

    tokenizers.py   a word per token, or byte-pair merges as Llama's
    backbones.py    configs and random weights
    processors.py   tokenizer and image processor of a backbone
    inputs.py       pictures, prompts, batches
    checkpoints.py  folders as Hugging Face lays them out
"""

from .backbones import FAMILIES, PATCH, TEXT_MODELS, Model, llava, llava_next, published_config, true_width
from .checkpoints import PUBLISHED, published, save
from .inputs import batch, noise, picture, prompt
from .processors import processor, published_processor
from .tokenizers import SPECIAL, SYSTEM, WORDS, tokenizer

__all__ = [
    "FAMILIES",
    "PATCH",
    "PUBLISHED",
    "SPECIAL",
    "SYSTEM",
    "TEXT_MODELS",
    "WORDS",
    "Model",
    "batch",
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
    "tokenizer",
    "true_width",
]
