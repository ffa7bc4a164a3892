"""The reference itself against the stock models: a wrong oracle would bless a wrong implementation."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests import models
from tests.inference.oracle import literal as oracle
from tests.inference.oracle.extension import Extension, bilinear_weights, extend, positions, region_box
from tests.inference.oracle.pictures import Picture, see

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
        picture = see(model, inputs)
        ours = oracle.run(model, inputs["input_ids"][0], picture, NEVER)
        assert [step.action for step in ours.steps] == ["keep"] * 3
        assert (ours.logits_SW - stock).abs().max() < 1e-5 * stock.abs().max()


@pytest.mark.parametrize("size", [(60, 60), (120, 30), (30, 130), (50, 60)])
def test_never_firing_oracle_is_the_stock_llava_next(size: tuple[int, int]) -> None:
    """Catches features or a visual span that leave out tiles or newline tokens."""
    model = models.llava_next(kv_heads=2)
    inputs = models.batch(model, [1], [size])
    with torch.no_grad():
        stock = model(**inputs).logits[0]
    picture = see(model, inputs)
    assert len(picture.features_TD) > 36
    ours = oracle.run(model, inputs["input_ids"][0], picture, NEVER)
    assert (ours.logits_SW - stock).abs().max() < 1e-5 * stock.abs().max()


@pytest.mark.parametrize("shape", SHAPES)
def test_saliency_is_the_row_of_eager_attention(shape: str) -> None:
    """Catches a saliency that is normalised over the visual span only, or taken at another query."""
    model = models.llava(attention="eager", **SHAPES[shape])
    inputs = models.batch(model, [5])
    with torch.no_grad():
        maps = model(**inputs, output_attentions=True).attentions
    picture = see(model, inputs)
    ours = oracle.run(model, inputs["input_ids"][0], picture, NEVER)
    visual = inputs["input_ids"][0] == model.config.image_token_id
    for layer in NEVER.layers:
        torch.testing.assert_close(ours.rows[layer], maps[layer][0, :, -1].mean(0)[visual], rtol=0, atol=1e-6)


def test_similarity_is_equation_2() -> None:
    """Catches a rotary embedding or a softmax over other tokens in the similarity reading of Eq. 1-2."""
    model = models.llava(grid=6, kv_heads=2)
    inputs = models.batch(model, [3])
    picture = see(model, inputs)
    plan = oracle.Plan(layers=(0,), tau_exp=1.0, tau_drop=0.0, saliency="similarity")
    row = oracle.run(model, inputs["input_ids"][0], picture, plan).rows[0]
    layer = model.model.language_model.layers[0]
    last = model.model.language_model.embed_tokens(inputs["input_ids"][0, -1:])
    query = layer.self_attn.q_proj(layer.input_layernorm(last))[0].view(4, 12)
    keys = layer.self_attn.k_proj(layer.input_layernorm(picture.features_TD)).view(36, 2, 12)
    scores = sum(keys[:, head // 2] @ query[head] for head in range(4)) / 48**0.5
    torch.testing.assert_close(row, scores.softmax(0), rtol=1e-5, atol=1e-7)


def test_generate_without_events_is_stock_generate() -> None:
    """Catches a recomputation that shifts the prompt's end, and greedy decoding that is not the arg max."""
    model: Any = models.llava(grid=6)
    inputs = models.batch(model, [2])
    stock = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    picture = see(model, inputs)
    tokens, lead = oracle.generate(model, inputs["input_ids"][0], picture, NEVER, None, 8)
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
    picture = see(model, inputs)
    beams = oracle.beam_search(model, inputs["input_ids"][0], picture, NEVER, None, 6, 3)
    assert out.sequences[:, inputs["input_ids"].shape[1] :].tolist() == [tokens for tokens, _ in beams]
    assert out.sequences_scores.tolist() == pytest.approx([score for _, score in beams], abs=1e-4)


@pytest.mark.parametrize(("small", "large"), [(6, 12), (4, 12), (3, 12), (3, 6), (2, 6), (1, 4)])
def test_bilinear_weights_are_those_of_torch(small: int, large: int) -> None:
    """Catches aligned corners, or edges that fade, in the oracle's own bilinear resize."""
    picture = torch.randn(2, small, small, generator=torch.Generator().manual_seed(small))
    weights = bilinear_weights(small, large)
    expected = F.interpolate(picture[None], (large, large), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(torch.einsum("Yy,dyx,Xx->dYX", weights, picture, weights), expected)


def test_extension_by_hand() -> None:
    """Catches regions numbered by columns, or an extension flattened by columns."""
    visual_GD = torch.arange(16.0)[:, None]
    for region, tokens in enumerate([[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]):
        made = extend(visual_GD, (4, 4), region_box((4, 4), 2, region), False, None)
        assert made.tokens_ND[:, 0].tolist() == tokens


def test_uneven_regions_by_hand() -> None:
    """Catches cuts that round up or leave a rest out: they lie at floor(i n / p) of each side."""
    boxes = [region_box((5, 7), 3, region) for region in range(9)]
    assert [(top, h) for top, _, h, _ in boxes[::3]] == [(0, 1), (1, 2), (3, 2)]
    assert [(left, w) for _, left, _, w in boxes[:3]] == [(0, 2), (2, 2), (4, 3)]
    assert [(left, w) for _, left, _, w in boxes[6:]] == [(0, 2), (2, 2), (4, 3)]
    made = extend(torch.arange(35.0)[:, None], (5, 7), boxes[5], False, None)
    assert made.grid == (2, 3)
    assert made.tokens_ND[:, 0].tolist() == [11, 12, 13, 18, 19, 20]
    assert extend(torch.zeros(35, 1), (5, 7), boxes[5], True, None).grid == (5, 7)


def test_positions_by_hand() -> None:
    """Catches a cell that is rounded to the wrong neighbour, and text that moves or stays where it must not."""
    line = Picture(torch.zeros(8, 1), (2, 3), base=2)
    plane = Picture(torch.zeros(6, 1), (2, 3), base=0, planar=True)
    grown = Extension(torch.zeros(6, 1), (2, 3), box=(1, 1, 1, 2))

    def places(picture: Picture, extension: Extension | None, scheme: str) -> list[list[int]]:
        visual = len(picture.features_TD)
        shown = torch.arange(picture.base, visual)
        return positions(picture, shown, 4, visual, extension, 2, scheme).tolist()

    assert places(line, None, "region") == [list(range(14))] * 3
    assert places(line, grown, "append") == [list(range(20))] * 3
    # the region is the last two cells of the lower row, at 10 and 11
    refining = [10, 11, 11, 10, 11, 11]
    assert places(line, grown, "region") == [[*range(12), *refining, 12, 13]] * 3
    assert places(plane, None, "append") == [
        [0, 1, 2, 3, 4, 4, 4, 4, 4, 4, 7, 8],
        [0, 1, 2, 3, 4, 4, 4, 5, 5, 5, 7, 8],
        [0, 1, 2, 3, 4, 5, 6, 4, 5, 6, 7, 8],
    ]
    assert places(plane, grown, "append") == [
        [0, 1, 2, 3, 4, 4, 4, 4, 4, 4, 7, 7, 7, 7, 7, 7, 10, 11],
        [0, 1, 2, 3, 4, 4, 4, 5, 5, 5, 7, 7, 7, 8, 8, 8, 10, 11],
        [0, 1, 2, 3, 4, 5, 6, 4, 5, 6, 7, 8, 9, 7, 8, 9, 10, 11],
    ]
    assert places(plane, grown, "region") == [
        [0, 1, 2, 3, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 7, 8],
        [0, 1, 2, 3, 4, 4, 4, 5, 5, 5, 5, 5, 5, 5, 5, 5, 7, 8],
        [0, 1, 2, 3, 4, 5, 6, 4, 5, 6, 5, 6, 6, 5, 6, 6, 7, 8],
    ]


def test_decision_by_hand() -> None:
    """Catches thresholds that are not strict, ties that go to the last region, and unscaled thresholds."""
    row = torch.tensor([1.0, 1, 3, 3, 1, 1, 3, 3, 0, 0, 3, 3, 0, 0, 3, 3]) / 28

    def decide(**settings: Any) -> oracle.Step:
        return oracle.decide(oracle.Plan(layers=(0,), **settings), 0, 0, row, (4, 4), False, None)

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
