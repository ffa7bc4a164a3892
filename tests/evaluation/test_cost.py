"""Costs on paper against what torch counts while small models run."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from blink import TokenSR, attach, save_token_sr
from blink.evaluation.cost import (
    Cost,
    Meter,
    decode,
    decoder_layer,
    head,
    key_value_bytes,
    prompt,
    token_sr,
    training_step,
    vision,
)
from blink.inference.policy import Event, Policy
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


ANSWERED = {
    "stock": None,
    "always": Policy([1, 3], tau_exp=0, tau_drop=0),
    "as it was cut": Policy([1, 3], tau_exp=0, tau_drop=0, interpolate=False, patches=3),
}


@pytest.mark.parametrize("policy", ANSWERED.values(), ids=ANSWERED.keys())
@pytest.mark.parametrize("make", [models.llava, models.llava_next])
def test_question_alone(make: Callable[..., models.Model], policy: Policy | None, tmp_path: Any) -> None:
    """Would catch tiles or answers that are forgotten, and a module's cost that ignores its folder or its input."""
    model = make(grid=6)
    size, answer = (50, 95), 4
    processor = models.processor(model)
    save_token_sr({layer: TokenSR(48, (8, 6), (3, 1, 1)) for layer in (1, 3)}, tmp_path, backbone="none")
    handle = None if policy is None else attach(model, policy, str(tmp_path))
    text = models.prompt(2)
    inputs = processor(images=models.picture(2, size), text=text, return_tensors="pt")
    settings: dict[str, Any] = {"do_sample": False, "max_new_tokens": answer, "min_new_tokens": answer}
    found = counted_forward(lambda: model.generate(**inputs, **settings))
    events = [] if handle is None else handle.trace[0]
    meter = Meter(Backbone(model, processor), policy, None if policy is None else str(tmp_path))
    assert meter(size, text, events, answer) == found


FAMILIES = [name for name in models.SMALL if name not in ("llava", "llava_next")]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    "policy", [None, Policy([1, 2, 3], 0, 0, patches=3, schedule="cycle", interpolate=False)]
)
def test_question_alone_in_every_family(name: str, policy: Policy | None) -> None:
    """Would catch windows, tiles, mergers or class tokens that are forgotten, grids and regions of another picture."""
    model = models.family(name)
    processor = models.processor(model)
    meter_of_all = Meter(Backbone(model, processor), policy, None)
    for size in ((60, 60), (56, 88), (120, 44)):
        text = models.prompt(2, processor=processor)
        inputs = processor(images=[[models.picture(2, size)]], text=[text], return_tensors="pt")
        handle = None if policy is None else attach(model, policy)
        settings: dict[str, Any] = {"do_sample": False, "max_new_tokens": 3, "min_new_tokens": 3}
        found = counted_forward(partial(model.generate, **inputs, **settings))
        events = [] if handle is None else handle.trace[0]
        assert meter_of_all(size, text, events, 3) == found
        if handle is not None:
            handle.detach()


@pytest.mark.parametrize("name", models.SMALL)
def test_encoded_regions_in_every_family(name: str) -> None:
    """Would catch a crop's tower, prefix or layers that are forgotten, and one that is counted anew where it goes on."""
    model = models.family(name)
    processor = models.processor(model)
    size, text = (56, 88), models.prompt(2, processor=processor)
    image = models.picture(2, size)
    inputs = processor(images=[[image]], text=[text], return_tensors="pt")
    policy = Policy([1, 3], 0, 0, source="encode", selector="box", patches=3)
    handle = attach(Backbone(model, processor), policy)
    settings: dict[str, Any] = {"do_sample": False, "max_new_tokens": 3, "min_new_tokens": 3}
    with handle.pictures([image]), handle.boxes([[2, 3, 20, 20]]):
        found = counted_forward(partial(model.generate, **inputs, **settings))
    assert Meter(Backbone(model, processor), policy, None)(size, text, handle.trace[0], 3) == found
    handle.detach()


@pytest.mark.parametrize("text", models.TEXT_MODELS)
def test_question_alone_with_every_text_model(text: str) -> None:
    """Would catch feed-forwards without a gate, fused projections and heads of a width of their own."""
    model = models.llava(grid=6, text=text)
    processor, policy = models.processor(model), Policy([1, 3], 0, 0)
    handle = attach(model, policy)
    inputs = models.batch(model, [0])
    found = counted_forward(lambda: model(**inputs, logits_to_keep=1))
    meter = Meter(Backbone(model, processor), policy, None)
    assert meter((60, 60), models.prompt(0), handle.trace[0], 1) == found


def test_tower_that_pools_its_views() -> None:
    """Would catch SigLIP's pooling head left out, which runs although nobody reads what it makes."""
    config = models.llava(grid=6, tower="siglip", select="full", text="qwen2").config
    config.vision_config.vision_use_head = True
    model = type(models.llava(layers=1))._from_config(config).eval()
    inputs = models.batch(model, [0])
    found = counted_forward(lambda: model.get_image_features(pixel_values=inputs["pixel_values"]))
    assert vision(Dimensions.of(model)).flops == found


def test_what_cannot_be_counted_is_not_counted(caplog: pytest.LogCaptureFixture) -> None:
    """Would catch all experts counted for each token, and modules of any kind counted as nothing."""
    model = models.llava(grid=6)
    processor = models.processor(model)
    policy = Policy([1], 0, 0)
    event = [Event(1, 1.0, 0, "expand")]
    own = Meter(Backbone(model, processor), policy, {1: torch.nn.Conv2d(48, 48, 1)})
    assert own((60, 60), models.prompt(0), event, 1) is None
    assert "the module of layer 1 is a Conv2d and no TokenSR" in caplog.text
    nothing = Meter(Backbone(model, processor), policy, {1: torch.nn.Identity()})
    interpolated = Meter(Backbone(model, processor), policy, None)
    assert nothing((60, 60), models.prompt(0), event, 1) == interpolated((60, 60), models.prompt(0), event, 1)
    model.model.language_model.layers[2].mlp.experts = torch.nn.Parameter(torch.zeros(4, 48, 48))
    stacked = Meter(Backbone(model, processor), None, None)
    assert stacked((60, 60), models.prompt(0), [], 1) is None
    assert "decoder layer 2 holds a stack of matrices (mlp.experts)" in caplog.text


def test_modules_of_a_mapping_count_like_those_of_a_folder(tmp_path: Any) -> None:
    """Would catch modules that are given directly and count nothing."""
    model = models.llava(grid=6)
    modules = {1: TokenSR(48, (8, 6), (3, 1, 1))}
    save_token_sr(modules, tmp_path, backbone="none")
    policy, backbone = Policy([1], tau_exp=0, tau_drop=0), Backbone(model, models.processor(model))
    handle = attach(model, policy, modules)
    model(**models.batch(model, [0]), logits_to_keep=1)
    by_folder, by_mapping, without = (
        Meter(backbone, policy, given)((60, 60), models.prompt(0), handle.trace[0], 1)
        for given in (str(tmp_path), modules, None)
    )
    assert without is not None
    assert by_folder == by_mapping == without + 2 * 36 * (48 * 8 * 9 + 8 * 6 + 6 * 48)
