"""Random weights for a model of any class: small models whose attention is far from flat, and wide ones, quickly."""

import copy
from typing import Any, TypeVar

import torch
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel

from .tokenizers import BOS, EOS, PAD, SPECIAL

IDS: dict[str, Any] = {
    "pad_token_id": SPECIAL.index(PAD),
    "bos_token_id": SPECIAL.index(BOS),
    "eos_token_id": SPECIAL.index(EOS),
}
"""As configs name the special tokens of `tokenizer`, and of `chat_tokenizer`, which has them in the same places."""

_BLOCK = 1_000_003

M = TypeVar("M", bound=PreTrainedModel)


def random_weights(model: Any, *, gain: float = 1.6, seed: int = 0) -> None:
    """Draw all weights of a small model; the same seed gives the same weights for any dtype.

    Args:
        gain: as in `llava`.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(_draw(name, weight.shape, gain, generator))


def small(
    kind: type[M], config: PreTrainedConfig, attention: str, dtype: torch.dtype, gain: float, seed: int
) -> M:
    """A model of a class with random weights, as `llava` describes them."""
    model = kind._from_config(copy.deepcopy(config), attn_implementation=attention)
    random_weights(model, gain=gain, seed=seed)
    model.generation_config = GenerationConfig(**IDS)
    return model.to(dtype).eval()


def _draw(name: str, shape: torch.Size, gain: float, generator: torch.Generator) -> torch.Tensor:
    values = torch.randn(shape, generator=generator)
    of_text = name.startswith(("model.language_model.", "model.text_model."))
    if name.endswith("weight") and ("norm" in name or ".ln_" in name):
        return (gain if of_text and name.endswith((".q_norm.weight", ".k_norm.weight")) else 1) * (
            1 + 0.2 * values
        )
    if len(shape) == 1:
        return 0.2 * values
    if "embed" in name:
        return values
    fan_in = shape[1:].numel()
    scores = of_text and any(f".{part}." in name for part in ("q_proj", "k_proj", "qkv_proj"))
    return (gain if scores else 1.0) * values / fan_in**0.5


def repeat_block(model: Any, seed: int) -> None:
    """Fill the weights: norms with ones, biases with zeros, all else with numbers of spread 0.02.

    One block of random numbers is repeated, since drawing billions takes minutes; its length is a prime, so that
    no two rows of a matrix are alike.
    """
    drawn = 0.02 * torch.randn(_BLOCK, generator=torch.Generator().manual_seed(seed))
    block = drawn.to(next(model.parameters()).device)
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
