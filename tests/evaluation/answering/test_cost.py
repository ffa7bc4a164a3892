"""Costs on paper against what torch counts while small models run."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from blink import TokenSR, attach
from blink.evaluation.answering.cost import (
    Cost,
    decode,
    decoder_layer,
    head,
    key_value_bytes,
    prompt,
    token_sr,
    training_step,
    vision,
)
from blink.inference.policy import Policy
from blink.model.backbone import CACHE, Backbone
from blink.model.dimensions import Dimensions
from blink.model.views import Views
from blink.training.module import TokenSRTraining
from tests import models
from tests.flops import counted, counted_forward

KINDS: dict[str, Callable[[], models.Model]] = {
    "llava": lambda: models.llava(),
    "grouped-eager": lambda: models.llava(kv_heads=2, head_dim=16, attention="eager"),
    "next-mistral": lambda: models.llava_next(text="mistral", kv_heads=2),
}


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> models.Model:
    return KINDS[request.param]()


def views(inputs: dict[str, Tensor]) -> int:
    """Pictures or tiles that the vision tower sees."""
    pixels = inputs["pixel_values"]
    return pixels.shape[1] if pixels.dim() == 5 else len(pixels)


POLICIES: dict[str, Policy] = {
    "never": Policy(layers=(0, 1, 3), tau_exp=1, tau_drop=0),
    "always": Policy(layers=(0, 2, 4), tau_exp=0, tau_drop=0),
    "on and off": Policy(layers=(1, 2, 3, 4), schedule="cycle"),
    "as it was cut": Policy(layers=(1, 3), tau_exp=0, tau_drop=0, interpolate=False, patches=3),
    "similarity": Policy(layers=(1, 2), tau_exp=0, tau_drop=0, saliency="similarity"),
}


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
def test_prompt_pass_with_blink(model: models.Model, policy: Policy) -> None:
    """Would catch a forgotten scan, extension or TokenSR, a wrong length of some layer, and grouped heads."""
    inputs = models.batch(model, [3], [(50, 90)])
    dims = Dimensions.of(model)
    modules = {layer: TokenSR(dims.hidden) for layer in policy.layers}
    handle = attach(model, policy, modules)
    found = counted_forward(lambda: model(**inputs, logits_to_keep=1))
    (events,) = handle.trace
    expected = prompt(
        dims,
        inputs["input_ids"].shape[1],
        events,
        extension=None if policy.interpolate else dims.visual // policy.patches**2,
        expander=token_sr(dims),
        saliency=policy.saliency,
    )
    assert found == (vision(dims, views(inputs)) + expected).flops


def test_stock_prompt_and_decoding(model: models.Model) -> None:
    """Would catch a wrong projection, feed-forward, head or vision tower, and keys that do not grow by one a step."""
    inputs = models.batch(model, [4])
    dims, tokens = Dimensions.of(model), inputs["input_ids"].shape[1]
    settings: dict[str, Any] = {"do_sample": False, "max_new_tokens": 5, "min_new_tokens": 5}
    found = counted_forward(lambda: model.generate(**inputs, **settings))
    expected = vision(dims, views(inputs)) + prompt(dims, tokens) + decode(dims, tokens, 4)
    assert found == expected.flops


def test_decoding_behind_extensions() -> None:
    """Would catch a decoding step that forgets the extension's keys, or has them in layers where none lives."""
    model = models.llava()
    inputs = models.batch(model, [5])
    dims, tokens = Dimensions.of(model), inputs["input_ids"].shape[1]
    handle = attach(model, Policy(layers=(1, 3), schedule="cycle"))
    settings: dict[str, Any] = {"do_sample": False, "max_new_tokens": 4, "min_new_tokens": 4}
    found = counted_forward(lambda: model.generate(**inputs, **settings))
    (events,) = handle.trace
    expected = vision(dims) + prompt(dims, tokens, events) + decode(dims, tokens, 3, events)
    assert found == expected.flops


@pytest.mark.parametrize("layers", [(2,), (1, 3)])
def test_training_step(layers: tuple[int, ...]) -> None:
    """Would catch a trunk run once per layer or per quadrant, and a backward pass of the wrong size."""
    model = models.llava(grid=6).requires_grad_(False)
    dims = Dimensions.of(model)
    module = TokenSRTraining(Backbone(model), layers)
    side = model.config.vision_config.image_size
    ids = torch.tensor([1, 5, 7, *[model.config.image_token_id] * 36]).expand(10, -1)
    batch = Views(({"input_ids": ids, "pixel_values": torch.rand(10, 3, side, side)},), (torch.arange(10),))

    def step() -> None:
        found = module.quadrant_features(batch)[0].values()
        torch.stack([one.refined_NdHW.square().mean() for one in found]).sum().backward()

    assert counted(step) == training_step(dims, layers, prefix=3, images=2).flops


def test_training_from_kept_features_is_the_modules_alone() -> None:
    """Would catch a cached step that still counts the backbone, or drops the modules."""
    dims = Dimensions.of(models.llava(grid=6))
    whole, cached = (training_step(dims, (2,), 3, 2, cached=kept) for kept in (False, True))
    assert whole.flops - cached.flops == (vision(dims, 10) + decoder_layer(dims, 39, 39, rows=10) * 2).flops
    assert cached.flops == 8 * 2 * 36 * (2 * 48 * 24 * 25 + 3 * 24 * 12 * 9 + 3 * 12 * 48)


def test_bytes_are_those_of_the_weights_and_caches() -> None:
    """Would catch weights counted twice or left out, and caches of the wrong width."""
    model = models.llava(kv_heads=2)
    dims = Dimensions.of(model, "float32")
    layer = sum(p.numel() * 4 for p in model.model.language_model.layers[0].parameters() if p.dim() == 2)
    inputs = models.batch(model, [0])
    tokens = inputs["input_ids"].shape[1]
    cache = model(**inputs)[CACHE].layers[0]
    kept = cache.keys.nbytes + cache.values.nbytes
    assert key_value_bytes(dims, tokens) == kept
    assert decoder_layer(dims, tokens, tokens).bytes == layer + 2 * kept
    assert head(dims).bytes == model.lm_head.weight.nbytes
    matrices = [*model.model.vision_tower.parameters(), *model.model.multi_modal_projector.parameters()]
    positions = model.model.vision_tower.embeddings.position_embedding.weight
    assert vision(dims).bytes == sum(p.nbytes for p in matrices if p.dim() > 1 and p is not positions)
    assert token_sr(dims).bytes == sum(p.nbytes for p in TokenSR(48).parameters() if p.dim() > 1)


def test_costs_add_up_and_multiply() -> None:
    """Would catch sums of tuples instead of numbers."""
    assert 2 * Cost(3, 4) + Cost(1, 1) * 3 == Cost(9, 11)
