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


@pytest.mark.parametrize("family", BUILDERS)
def test_visual_states_are_those_of_a_full_prompt(family: str) -> None:
    """Catches a trunk that differs from the model's: another prefix, another view, positions or layers off by one."""
    model = BUILDERS[family](grid=6, layers=4, kv_heads=2)
    backbone = Backbone(model)
    inputs = models.batch(model, [5], sizes=[(60, 40)])
    ids = inputs["input_ids"]
    first = int((ids[0] == backbone.image_token_id).int().argmax())
    pixels = inputs["pixel_values"] if family == "llava" else inputs["pixel_values"][:, 0]
    states = backbone.visual_states(ids[:, :first], pixels, [3, 0, 2])
    with torch.no_grad():
        whole = model(**inputs, output_hidden_states=True).hidden_states
    assert sorted(states) == [0, 2, 3]
    for layer, state in states.items():
        want = whole[layer][:, first : first + 36].transpose(1, 2).unflatten(2, (6, 6))
        torch.testing.assert_close(state, want, atol=1e-5, rtol=1e-5)
        assert not state.requires_grad


def test_visual_states_run_no_layer_too_many() -> None:
    """Catches work above the highest asked layer: training layer L may have loaded layers 0 to L-1 only."""
    model = models.llava(grid=4, layers=4)
    backbone = Backbone(model)
    pixels = models.batch(model, [1])["pixel_values"]
    prefix = torch.tensor([[1, 7]])
    want = backbone.visual_states(prefix, pixels, [2])[2]
    for layer in model.model.language_model.layers[2:]:
        for weight in layer.parameters():
            weight.data.fill_(float("nan"))
    assert torch.equal(backbone.visual_states(prefix, pixels, [2])[2], want)
    assert backbone.visual_states(prefix[:, :0], pixels, [0])[0].isfinite().all()
    with pytest.raises(ValueError, match="0 to 4"):
        backbone.visual_states(prefix, pixels, [5])
    with pytest.raises(ValueError, match="0 to 4"):
        backbone.visual_states(prefix, pixels, [])


def test_a_class_token_is_no_cell() -> None:
    """Catches a grid that is shifted by the class token which "full" keeps."""
    model = models.llava(grid=4)
    pixels = models.batch(model, [1])["pixel_values"]
    want = Backbone(model).visual_states(torch.tensor([[1]]), pixels, [0])[0]
    model.config.vision_feature_select_strategy = "full"
    backbone = Backbone(model)
    assert backbone.family.tokens_per_view == 17
    assert torch.equal(backbone.visual_states(torch.tensor([[1]]), pixels, [0])[0], want)


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
