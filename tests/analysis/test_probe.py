"""What is read of prompts, against the maps of the stock layers under eager attention and an attached model's trace."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from blink import Policy, TokenSR, attach
from blink.analysis.probe import probe
from blink.inference.calls.prompt_spans import find_spans
from blink.inference.run import Run
from blink.inference.saliency import focus
from blink.model.backbone import Backbone
from tests import models

EXPANDING = Policy(layers=[1, 3], tau_exp=0.0, tau_drop=0.0)


def maps_of(model: Any, inputs: dict[str, Tensor], run: Callable[[], Any]) -> list[list[Tensor]]:
    """Attention maps [B, heads, N, N] that each layer of an eager model formed during a run, one per call."""
    layers = Backbone(model).decoder.layers
    maps: list[list[Tensor]] = [[] for _ in layers]
    hooks = [
        layer.self_attn.register_forward_hook(lambda _, __, out, found=found: found.append(out[1]))
        for layer, found in zip(layers, maps, strict=True)
    ]
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
    return maps


@pytest.mark.parametrize("make", [models.llava, models.llava_next])
def test_rows_equal_the_last_rows_of_eager_maps(make: Callable[..., models.Model]) -> None:
    """Would catch padding in the softmax, keys without rotary embedding, and tiles taken for the base view."""
    model = make(grid=6, layers=3, attention="eager", kv_heads=2)
    inputs = models.batch(model, [1, 2, 3], sizes=[(60, 60), (90, 60), (60, 90)])
    backbone = Backbone(model)
    found = probe(backbone, inputs, layers=range(3))
    maps = maps_of(model, inputs, lambda: model(**inputs))
    spans = find_spans(inputs["input_ids"], inputs["attention_mask"] != 0, backbone.image_token_id)
    for layer in range(3):
        row_BN = maps[layer][0][:, :, -1].mean(dim=1)
        want_BV = spans.visual(row_BN[..., None], (6, 6))[..., 0]
        for row, probed in enumerate(found):
            torch.testing.assert_close(probed.attention[layer].original_V, want_BV[row], rtol=1e-5, atol=1e-7)
            assert probed.attention[layer].extension_X.numel() == 0


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "internvl", "smolvlm", "llava_onevision"])
def test_rows_of_every_family_lie_on_their_own_grids(name: str) -> None:
    """Would catch one grid for a batch of several, a base view that is a tile, and layers run without DeepStack."""
    model = models.family(name, layers=3, attention="eager")
    inputs = models.batch(model, [1, 2], sizes=[(56, 88), (120, 44)])
    backbone = Backbone(model)
    found = probe(backbone, inputs, layers=range(3))
    maps = maps_of(model, inputs, lambda: model(**inputs))
    for row, probed in enumerate(found):
        [columns] = (inputs["input_ids"][row] == backbone.image_token_id).nonzero().T
        H, W = probed.attention[0].grid
        assert (((11, 7), (6, 15))[row] if name.startswith("qwen") else (6, 6)) == (H, W)
        own = columns[-H * W :] if backbone.family.base_view_last else columns[: H * W]
        for layer in range(3):
            row_N = maps[layer][0][row, :, -1].mean(dim=0)
            torch.testing.assert_close(probed.attention[layer].original_V, row_N[own], rtol=1e-5, atol=1e-7)


def test_rows_of_a_living_extension_equal_eager_maps() -> None:
    """Would catch an extension looked at where the text is, one layer late, or without its TokenSR."""
    model = models.llava(grid=6, layers=5, attention="eager")
    inputs = models.batch(model, [4], words=5)
    torch.manual_seed(0)
    modules = {1: TokenSR(48), 3: TokenSR(48)}
    [found] = probe(Backbone(model), inputs, range(5), Run(EXPANDING, modules))
    handle = attach(model, EXPANDING, modules)
    maps = maps_of(model, inputs, lambda: model(**inputs))
    assert found.events == handle.trace[0]
    start = int((inputs["input_ids"][0] == Backbone(model).image_token_id).int().argmax())
    for layer in range(5):
        [attention_BANN] = maps[layer]
        row_N = attention_BANN[0, :, -1].mean(dim=0)
        look = found.attention[layer]
        torch.testing.assert_close(look.original_V, row_N[start : start + 36], rtol=1e-5, atol=1e-7)
        assert look.extension_X.numel() == (36 if layer >= 1 else 0)
        if layer >= 1:
            torch.testing.assert_close(look.extension_X, row_N[start + 36 : start + 72], rtol=1e-5, atol=1e-7)


def test_ratio_equals_that_of_blinks_events() -> None:
    """Would catch a figure of ratios that are not those on which Blink decides."""
    model = models.llava(grid=6, layers=4)
    inputs = models.batch(model, [5, 6])
    idle = Policy(layers=range(4), tau_exp=1.0, tau_drop=0.0, patches=3, scale_tau=False)
    with torch.no_grad():
        looked = probe(Backbone(model), inputs, range(4))
        handle = attach(model, idle)
        model(**inputs)
    for probed, events in zip(looked, handle.trace, strict=True):
        for event in events:
            found = focus(probed.attention[event.layer].original_V[None], (6, 6), 3)
            assert found.ratio_B.item() == pytest.approx(event.ratio, rel=1e-6)
            assert found.region_B.item() == event.region


def test_a_missing_layer_is_named() -> None:
    """Would catch figures that silently lack a layer."""
    model = models.llava(grid=6, layers=2)
    with pytest.raises(ValueError, match="layer 2 is not loaded; this model has decoder layers 0 to 1"):
        probe(Backbone(model), models.batch(model, [1]), layers=[2])
