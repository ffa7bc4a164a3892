"""What is recorded of one prompt at every layer, against eager attention maps, an attached model's trace, norm and head."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from blink import Policy, TokenSR, attach
from blink.analysis.record import record
from blink.inference.calls.prompt_spans import find_spans
from blink.inference.run import Run
from blink.inference.saliency import focus
from blink.model.backbone import CACHE, Backbone
from tests import models
from tests.analysis.test_probe import maps_of

POLICY = Policy(layers=[0, 2, 3], tau_exp=0.42, tau_drop=0.35)
"""On the model below it expands, drops and keeps."""


def alone(model: Any, seed: int, **settings: Any) -> dict[str, Tensor]:
    inputs = models.batch(model, [seed], **settings)
    return {name: value for name, value in inputs.items() if name != "attention_mask"}


@pytest.mark.parametrize("draws", [False, True])
def test_events_and_lengths_are_those_of_the_attached_model(draws: bool) -> None:
    """Would catch a record of another pass than the answer's: other events, other random draws, other lengths."""
    model = models.llava(grid=6, layers=5, kv_heads=2)
    torch.manual_seed(0)
    modules = {layer: TokenSR(48) for layer in POLICY.layers}
    policy = Policy(POLICY.layers, selector="random", schedule="random") if draws else POLICY
    actions = set()
    for seed in range(4):
        inputs = alone(model, seed)
        records = record(Backbone(model), inputs, Run(policy, modules), policy)
        handle = attach(model, policy, modules)
        cache = model(**inputs, use_cache=True)[CACHE]
        handle.detach()
        assert [one.event for one in records if one.event is not None] == handle.trace[0]
        lengths = [cache.key_layouts[number].columns for number in cache.layout_of_layer]
        assert [one.columns for one in records] == lengths
        assert [one.extension is not None for one in records] == [
            n > inputs["input_ids"].shape[1] for n in lengths
        ]
        actions |= {event.action for event in handle.trace[0]}
    assert actions == ({"expand", "drop"} if draws else {"expand", "keep", "drop"})


@pytest.mark.parametrize("make", [models.llava, models.llava_next])
def test_attention_equals_the_maps_of_the_layers(make: Callable[..., models.Model]) -> None:
    """Would catch spans that are off by the extension or the tiles, and a scan shown after its own action."""
    model = make(grid=6, layers=5, attention="eager")
    inputs = alone(model, 1, words=5, sizes=[(90, 60)])
    backbone = Backbone(model)
    policy = Policy([1, 3], tau_exp=0.0)
    records = record(backbone, inputs, Run(policy), policy)
    start = find_spans(inputs["input_ids"], None, backbone.image_token_id).visual_starts[0]
    end = start + int((inputs["input_ids"] == backbone.image_token_id).sum())
    handle = attach(model, policy)
    maps = maps_of(model, inputs, lambda: model(**inputs))
    handle.detach()
    assert [one.extension is not None for one in records] == [False, True, True, True, True]
    for one in records:
        row_N = maps[one.layer][0][0, :, -1].mean(dim=0)
        X = len(one.extension_X)
        spans = ((0, start), (start, start + 36), (start + 36, end), (end, end + X), (end + X, one.columns))
        assert one.shares == pytest.approx([float(row_N[a:b].sum()) for a, b in spans], abs=1e-5)
        torch.testing.assert_close(one.extension_X, row_N[end : end + X], rtol=1e-4, atol=1e-6)
        found = focus(one.saliency_V[None], (6, 6), 2)
        assert (one.ratio, one.region) == (float(found.ratio_B[0]), int(found.region_B[0]))
        if one.event is not None:
            assert one.event.ratio == pytest.approx(one.ratio, abs=1e-6)
        if one.event is None:  # nothing happened between scan and layer
            torch.testing.assert_close(one.saliency_V, row_N[start : start + 36], rtol=1e-4, atol=1e-6)


def test_words_are_what_norm_and_head_make_of_each_layer() -> None:
    """Would catch probabilities of the layer before, of another token's state, or the final norm applied twice."""
    model = models.llava(grid=6, layers=4)
    inputs, policy = alone(model, 2), Policy([1], tau_exp=0.0)
    records = record(Backbone(model), inputs, Run(policy), policy, watched=[7, 3])
    handle = attach(model, policy)
    with torch.no_grad():
        outputs = model(**inputs, output_hidden_states=True)
        between = [model.model.language_model.norm(state[0, -1]) for state in outputs.hidden_states[1:-1]]
        want = [model.lm_head(state).softmax(-1) for state in (*between, outputs.hidden_states[-1][0, -1])]
    handle.detach()
    torch.testing.assert_close(want[-1], outputs.logits[0, -1].softmax(-1))
    for one, probabilities in zip(records, want, strict=True):
        assert [word.token for word in one.words] == [7, 3]
        assert [word.probability for word in one.words] == pytest.approx(
            probabilities[[7, 3]].tolist(), rel=1e-4
        )
        assert one.top.token == int(probabilities.argmax())
        assert one.top.probability == pytest.approx(float(probabilities.max()), rel=1e-4)
