"""Costs of answered questions on paper against what torch counts while small models answer them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from blink import TokenSR, attach, save_token_sr
from blink.evaluation.answering.cost import (
    vision,
)
from blink.evaluation.answering.meter import Meter
from blink.inference.policy import Event, Policy
from blink.model.backbone import Backbone
from blink.model.dimensions import Dimensions
from tests import models
from tests.flops import counted_forward

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
