"""A model whose layers lie on several devices: attach and the engine, against the same model on one."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import accelerate
import pytest
import torch

import blink
from blink.model.backbone import Backbone
from tests import models
from tests.models.second_device import SECOND, second_device, spread

pytestmark = [
    # accelerate, of a parameter that belongs to no submodule of its own
    pytest.mark.filterwarnings("ignore:The following device_map keys do not match:UserWarning"),
]

POLICIES = {
    "never": blink.Policy(layers=[0, 1, 2, 3], tau_exp=1, tau_drop=0),
    "sometimes": blink.Policy(layers=[0, 1, 2, 3], tau_exp=0.3, tau_drop=0.27),
    "always": blink.Policy(layers=[1, 3], tau_exp=0, tau_drop=0),
    "region": blink.Policy(layers=[1, 2, 3], tau_exp=0, tau_drop=0, positions="region"),
    "similarity": blink.Policy(layers=[1, 2], tau_exp=0.25, tau_drop=0.2, saliency="similarity"),
    "never similar": blink.Policy.never([0, 1, 2, 3], saliency="similarity"),
    "encode": blink.Policy(layers=[2, 3], tau_exp=0, tau_drop=0, source="encode"),
}
_SLOW = [
    ("llava_next", "sometimes"),
    ("qwen3_vl", "region"),
    *[("llava", name) for name in POLICIES if name != "sometimes"],
]
CASES = [("llava", "sometimes"), *[pytest.param(*case, marks=pytest.mark.slow) for case in _SLOW]]


@pytest.fixture(autouse=True)
def _second_device() -> Iterator[None]:
    with second_device():
        yield


def on_two(model: Any, tower: bool = True) -> Any:
    """A copy of a model with the upper half of its layers and its head, perhaps its vision tower, on the second device."""
    there = copy.deepcopy(model)
    decoder = Backbone(there).decoder
    half = len(decoder.layers) // 2
    towers = [name for name, _ in there.named_modules() if name in ("model.vision_tower", "model.visual")]
    spread(there, decoder, range(half, len(decoder.layers)), others=["lm_head", *towers[:tower]])
    assert decoder.layers[-1].mlp.down_proj.weight.device == SECOND
    return there


@pytest.mark.slow
@pytest.mark.parametrize(("family", "name"), CASES)
def test_attach_on_two_devices(family: str, name: str) -> None:
    """Catches what is left on the first device when hidden states have gone on to the next."""
    model = models.family(family)
    inputs = models.batch(model, [1, 2, 3])
    found = []
    for one in (model, on_two(model)):
        handle = blink.attach(one, POLICIES[name])
        with torch.no_grad():
            logits = one(**inputs).logits.cpu()
        ids = one.generate(**inputs, max_new_tokens=5, do_sample=False).cpu()
        found.append((logits, ids, handle.trace))
    (logits, ids, trace), (logits_there, ids_there, trace_there) = found
    torch.testing.assert_close(logits_there, logits)
    assert torch.equal(ids, ids_there)
    assert _without_ratios(trace_there) == _without_ratios(trace)
    assert _ratios(trace_there) == pytest.approx(_ratios(trace), abs=1e-5)
    if not name.startswith("never"):
        assert any(event.action == "expand" for events in trace for event in events)


def test_modules_lie_with_their_layers() -> None:
    """Catches TokenSR on the first device for visual tokens that enter a layer on the second."""
    model = models.family("llava")
    modules = {layer: blink.TokenSR(48).requires_grad_(False) for layer in (1, 3)}
    policy = blink.Policy(layers=[1, 3], tau_exp=0, tau_drop=0)
    inputs, found = models.batch(model, [1, 2]), []
    for one in (model, on_two(model)):
        blink.attach(one, policy, modules)
        with torch.no_grad():
            found.append(one(**inputs).logits.cpu())
    torch.testing.assert_close(*found)


def test_an_offloaded_model_is_refused() -> None:
    """Catches garbage from weights that accelerate brings in and takes away with each module."""
    model = models.family("llava")
    accelerate.cpu_offload(model)
    with pytest.raises(ValueError, match="weights of the model are on the meta device"):
        blink.attach(model, POLICIES["always"])


def test_a_layer_on_two_devices_is_refused() -> None:
    """Catches a layer that is taken to be where its first weight is."""
    model = models.family("llava")
    model.model.language_model.layers[2].mlp.to(SECOND)
    with pytest.raises(ValueError, match=r"decoder layer 2 lies on several devices \(cpu, lazy\)"):
        blink.attach(model, POLICIES["always"])


@pytest.mark.parametrize(("family", "name"), CASES)
def test_the_engine_on_two_devices(family: str, name: str) -> None:
    """Catches trunks, extensions and rows that meet on two devices, at the prompt or while they decode."""
    model = models.family(family)
    processor = models.processor(model)
    runs = [blink.Run(), blink.Run(POLICIES[name])]
    asks = [
        blink.Ask(
            models.picture(seed), [models.prompt(number, processor=processor) for number in prompts], runs
        )
        for seed, prompts in ((1, (1, 2)), (2, (3,)))
    ]
    # The tower of CLIP expands a weight, which the second device does not take in inference mode.
    there = on_two(model, tower=family.startswith("qwen"))
    answers = [
        [
            answer
            for of_ask in blink.Engine(one, processor).answer_many(asks, max_new_tokens=5)
            for of_run in of_ask
            for answer in of_run
        ]
        for one in (model, there)
    ]
    ids, ids_there = ([answer.ids for answer in of_one] for of_one in answers)
    trace, trace_there = ([answer.events for answer in of_one] for of_one in answers)
    assert ids_there == ids
    assert _without_ratios(trace_there) == _without_ratios(trace)
    assert _ratios(trace_there) == pytest.approx(_ratios(trace), abs=1e-5)


def test_extensions_cross_devices_in_uneven_groups() -> None:
    """Catches extensions that are laid out for one device and run on the next."""
    model = models.family("llava")
    processor = models.processor(model)
    # A trunk with one extension beside one with four: groups with places that stay empty.
    asks = [
        blink.Ask(
            models.picture(seed),
            [models.prompt(1, processor=processor)],
            [
                blink.Run(blink.Policy(layers=[1], tau_exp=0, tau_drop=0, selector="random", seed=draw))
                for draw in range(draws)
            ],
        )
        for seed, draws in ((1, 1), (2, 12))
    ]
    there = copy.deepcopy(model)
    spread(there, Backbone(there).decoder, [1, 2])  # there and back
    answers = [
        [
            answer.ids
            for of_ask in blink.Engine(one, processor).answer_many(asks, max_new_tokens=3, pictures=2)
            for of_run in of_ask
            for answer in of_run
        ]
        for one in (model, there)
    ]
    assert answers[0] == answers[1]


def _without_ratios(trace: Any) -> Any:
    return [[replace(event, ratio=0.5) for event in events] for events in trace]


def _ratios(trace: Any) -> list[float]:
    return [event.ratio for events in trace for event in events]
