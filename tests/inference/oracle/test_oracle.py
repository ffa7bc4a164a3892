"""The reference itself against the stock models: a wrong oracle would bless a wrong implementation."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests import models
from tests.inference.oracle import literal as oracle

NEVER = oracle.Plan(layers=(0, 2, 4), tau_exp=1.0, tau_drop=0.0)
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "grouped": {"kv_heads": 2},
    "wide heads, biases": {"kv_heads": 1, "head_dim": 20, "attention_bias": True},
    "mistral": {"text": "mistral", "kv_heads": 2},
}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("shape", SHAPES)
def test_never_firing_oracle_is_the_stock_model(shape: str, attention: str) -> None:
    """Catches a wrong norm, rotary embedding, head grouping, bias, mask or residual in the oracle."""
    model = models.llava(attention=attention, grid=6, **SHAPES[shape])
    for seed in range(3):
        inputs = models.batch(model, [seed])
        with torch.no_grad():
            stock = model(**inputs).logits[0]
        features = oracle.image_features(model, inputs["pixel_values"])
        ours = oracle.run(model, inputs["input_ids"][0], features, NEVER)
        assert [step.action for step in ours.steps] == ["keep"] * 3
        assert (ours.logits_SW - stock).abs().max() < 1e-5 * stock.abs().max()


@pytest.mark.parametrize("size", [(60, 60), (120, 30), (30, 130), (50, 60)])
def test_never_firing_oracle_is_the_stock_llava_next(size: tuple[int, int]) -> None:
    """Catches features or a visual span that leave out tiles or newline tokens."""
    model = models.llava_next(kv_heads=2)
    inputs = models.batch(model, [1], [size])
    with torch.no_grad():
        stock = model(**inputs).logits[0]
    features = oracle.image_features(model, inputs["pixel_values"], inputs["image_sizes"])
    assert len(features) > 36
    ours = oracle.run(model, inputs["input_ids"][0], features, NEVER)
    assert (ours.logits_SW - stock).abs().max() < 1e-5 * stock.abs().max()


@pytest.mark.parametrize("shape", SHAPES)
def test_saliency_is_the_row_of_eager_attention(shape: str) -> None:
    """Catches a saliency that is normalised over the visual span only, or taken at another query."""
    model = models.llava(attention="eager", **SHAPES[shape])
    inputs = models.batch(model, [5])
    with torch.no_grad():
        maps = model(**inputs, output_attentions=True).attentions
    features = oracle.image_features(model, inputs["pixel_values"])
    ours = oracle.run(model, inputs["input_ids"][0], features, NEVER)
    visual = inputs["input_ids"][0] == model.config.image_token_id
    for layer in NEVER.layers:
        torch.testing.assert_close(ours.rows[layer], maps[layer][0, :, -1].mean(0)[visual], rtol=0, atol=1e-6)


def test_similarity_is_equation_2() -> None:
    """Catches a rotary embedding or a softmax over other tokens in the similarity reading of Eq. 1-2."""
    model = models.llava(grid=6, kv_heads=2)
    inputs = models.batch(model, [3])
    features = oracle.image_features(model, inputs["pixel_values"])
    plan = oracle.Plan(layers=(0,), tau_exp=1.0, tau_drop=0.0, saliency="similarity")
    row = oracle.run(model, inputs["input_ids"][0], features, plan).rows[0]
    layer = model.model.language_model.layers[0]
    last = model.model.language_model.embed_tokens(inputs["input_ids"][0, -1:])
    query = layer.self_attn.q_proj(layer.input_layernorm(last))[0].view(4, 12)
    keys = layer.self_attn.k_proj(layer.input_layernorm(features)).view(36, 2, 12)
    scores = sum(keys[:, head // 2] @ query[head] for head in range(4)) / 48**0.5
    torch.testing.assert_close(row, scores.softmax(0), rtol=1e-5, atol=1e-7)


def test_generate_without_events_is_stock_generate() -> None:
    """Catches a recomputation that shifts the prompt's end, and greedy decoding that is not the arg max."""
    model: Any = models.llava(grid=6)
    inputs = models.batch(model, [2])
    stock = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    features = oracle.image_features(model, inputs["pixel_values"])
    tokens, lead = oracle.generate(model, inputs["input_ids"][0], features, NEVER, None, 8)
    assert lead > 1e-4
    assert tokens == stock.tolist()


def test_beam_search_without_events_is_stock_beam_search() -> None:
    """Catches candidates that are cut too early, or scores of the wrong step, in the oracle's beam search."""
    model: Any = models.llava(grid=6)
    inputs = models.batch(model, [6])
    out = model.generate(
        **inputs,
        max_new_tokens=6,
        num_beams=3,
        num_return_sequences=3,
        do_sample=False,
        eos_token_id=None,
        length_penalty=0.0,
        output_scores=True,
        return_dict_in_generate=True,
    )
    features = oracle.image_features(model, inputs["pixel_values"])
    beams = oracle.beam_search(model, inputs["input_ids"][0], features, NEVER, None, 6, 3)
    assert out.sequences[:, inputs["input_ids"].shape[1] :].tolist() == [tokens for tokens, _ in beams]
    assert out.sequences_scores.tolist() == pytest.approx([score for _, score in beams], abs=1e-4)


@pytest.mark.parametrize(("small", "large"), [(6, 12), (4, 12), (3, 12), (3, 6), (2, 6), (1, 4)])
def test_bilinear_weights_are_those_of_torch(small: int, large: int) -> None:
    """Catches aligned corners, or edges that fade, in the oracle's own bilinear resize."""
    picture = torch.randn(2, small, small, generator=torch.Generator().manual_seed(small))
    weights = oracle.bilinear_weights(small, large)
    expected = F.interpolate(picture[None], (large, large), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(torch.einsum("Yy,dyx,Xx->dYX", weights, picture, weights), expected)


def test_extension_by_hand() -> None:
    """Catches regions numbered by columns, or an extension flattened by columns."""
    visual_GD = torch.arange(16.0)[:, None]
    plan = oracle.Plan(layers=(0,), interpolate=False)
    assert oracle.extend(visual_GD, 4, 1, plan, None)[:, 0].tolist() == [2, 3, 6, 7]
    assert oracle.extend(visual_GD, 4, 2, plan, None)[:, 0].tolist() == [8, 9, 12, 13]


def test_decision_by_hand() -> None:
    """Catches thresholds that are not strict, ties that go to the last region, and unscaled thresholds."""
    row = torch.tensor([1.0, 1, 3, 3, 1, 1, 3, 3, 0, 0, 3, 3, 0, 0, 3, 3]) / 28

    def decide(**settings: Any) -> oracle.Step:
        return oracle.decide(oracle.Plan(layers=(0,), **settings), 0, 0, row, 4, False, None)

    tie = decide(tau_exp=0.4, tau_drop=0.1)
    assert (tie.region, tie.action, tie.margin) == (1, "expand", 0.0)
    assert abs(tie.ratio - 12 / 28) < 1e-6
    assert decide(tau_exp=tie.ratio, tau_drop=0.1).action == "keep"
    assert decide(tau_exp=tie.ratio, tau_drop=tie.ratio).action == "keep"
    assert decide(tau_exp=0.5, tau_drop=0.45).action == "drop"
    assert decide(tau_exp=0.4, tau_drop=0.6).action == "expand"
    assert decide(tau_exp=0.5, tau_drop=0.1, patches=4).action == "keep"
    assert decide(tau_exp=0.4, tau_drop=0.1, patches=4).action == "expand"
    assert decide(tau_exp=0.4, tau_drop=0.1, patches=4, scale_tau=False).action == "keep"
