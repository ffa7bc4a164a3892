"""The view on a model: its facts, its trunk, and the masks its attention gets."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, LlamaConfig, LlamaForCausalLM
from transformers.masking_utils import flash_attention_mask

import blink
from blink.model.backbone import Backbone
from tests import models

BUILDERS = {"llava": models.llava, "llava_next": models.llava_next}


@pytest.mark.parametrize("family", BUILDERS)
def test_facts(family: str) -> None:
    """Catches constants where the config should speak."""
    backbone = Backbone(BUILDERS[family](grid=6, layers=3, hidden=48))
    assert (backbone.family.name, backbone.grid) == (family, (6, 6))
    assert (backbone.hidden_size, backbone.num_layers) == (48, 3)


def test_other_models_are_refused() -> None:
    """Catches an attach that half works on a model it does not know."""
    config = LlamaConfig(
        vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    with pytest.raises(ValueError, match=r"LlamaForCausalLM.*LlavaForConditionalGeneration"):
        Backbone(LlamaForCausalLM(config))
    model = models.llava(grid=4)
    model.model.language_model.config.sliding_window = 8
    with pytest.raises(ValueError, match=r"'llama'.*sliding window of 8"):
        Backbone(model)


def padding_only(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What flash attention computes: padding from a 2-D mask, causal, aligned at the last key."""
    B, A, N, _E = query.shape
    M = key.shape[2]
    assert attention_mask is None or attention_mask.shape == (B, M), "flash attention takes 2-D masks"
    key, value = (part.repeat_interleave(A // part.shape[1], dim=1) for part in (key, value))
    allowed = torch.ones(N, M, dtype=torch.bool).tril(M - N).expand(B, 1, N, M)
    if attention_mask is not None:
        allowed = allowed & attention_mask.bool()[:, None, None]
    scores = (query @ key.transpose(2, 3) * scaling).masked_fill(~allowed, torch.finfo(query.dtype).min)
    return (scores.softmax(-1) @ value).transpose(1, 2), None


AttentionInterface.register("padding_only", padding_only)
AttentionMaskInterface.register("padding_only", flash_attention_mask)


@pytest.mark.parametrize("padded", [True, False])
def test_flash_attention_gets_its_masks(padded: bool) -> None:
    """Catches 4-D masks where padding masks are expected, at prompts and steps of mixed extensions."""
    model = models.llava(grid=6, layers=5, kv_heads=2)
    inputs = models.batch(model, [1, 2, 3]) if padded else models.batch(model, [1, 2, 3], words=6)
    policy = blink.Policy(layers=[1, 2, 3], tau_exp=0.35, tau_drop=0.33)
    outcomes = []
    for attention in ("sdpa", "padding_only"):
        model.model.language_model.set_attn_implementation(attention)
        handle = blink.attach(model, policy)
        ids = model.generate(**inputs, max_new_tokens=6, do_sample=False)
        with torch.no_grad():
            logits = model(**inputs).logits[:, -1]
        outcomes.append((ids, logits, [[event.action for event in events] for events in handle.trace]))
        handle.detach()
    (ids, logits, actions), (flash_ids, flash_logits, flash_actions) = outcomes
    assert len({tuple(row) for row in actions}) > 1, "the rows should differ in their actions"
    assert actions == flash_actions
    assert torch.equal(ids, flash_ids)
    torch.testing.assert_close(logits, flash_logits, atol=1e-4, rtol=1e-4)
