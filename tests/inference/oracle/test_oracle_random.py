"""The random ablations: what is drawn is done as Algorithm 1 says, and depends on the sample alone."""

from collections import Counter
from typing import Any

import pytest
import torch

import blink
from tests import models
from tests.inference.oracle import comparison
from tests.inference.oracle import literal as oracle
from tests.inference.oracle.comparison import attached, modules_of, rig, samples

SMALL: dict[str, Any] = {"grid": 6, "kv_heads": 2}
LAYERS = (0, 2, 3, 4)


@pytest.mark.parametrize(
    ("selector", "schedule"),
    [("random", "threshold"), ("saliency", "random"), ("random", "random"), ("random", "cycle")],
)
def test_drawn_events_are_carried_out(selector: str, schedule: str) -> None:
    """Catches a drawn region that is recorded but not cut, and draws where saliency or thresholds rule."""
    pair = rig(**SMALL)
    modules = modules_of(pair.twin)
    inputs = models.batch(pair.model, list(range(1, 7)))
    median = float(comparison.ratios("llava", 2, "attention", **SMALL).mean())
    plan = oracle.Plan(
        LAYERS,
        tau_exp=median,
        tau_drop=median - 0.02,
        schedule="cycle" if schedule == "cycle" else "threshold",
    )
    settings: dict[str, Any] = {"selector": selector, "schedule": schedule}
    with attached(pair.model, comparison.policy(plan, **settings), modules) as handle, torch.no_grad():
        logits = pair.model(**inputs).logits
        trace = handle.trace
    actions: Counter[str] = Counter()
    elsewhere = 0
    for row, sample in enumerate(samples(pair.twin, inputs)):
        replay = {event.layer: (event.action, event.region) for event in trace[row]}
        outcome = oracle.run(pair.twin, sample.ids_S, sample.picture, plan, modules, replay=replay)
        if comparison.undecided(outcome):
            continue
        comparison.check_events(trace[row], outcome)
        comparison.check_logits(logits[row][inputs["attention_mask"][row].bool()], outcome.logits_SW)
        for number, step in enumerate(outcome.steps):
            actions[step.action] += 1
            elsewhere += step.region != step.hottest
            if step.action != "expand" or selector == "saliency":
                assert step.region == step.hottest
            if schedule == "cycle":
                assert step.action == ("expand", "drop")[number % 2]
            elif schedule == "threshold":
                want = (
                    "expand"
                    if step.ratio > plan.tau_exp
                    else "drop"
                    if step.ratio < plan.tau_drop
                    else "keep"
                )
                assert step.action == want
    assert min(actions["expand"], actions["drop"]) >= 3
    assert (actions["keep"] > 0) == (schedule == "threshold")
    assert (elsewhere > 0) == (selector == "random")


def draws(model: Any, inputs: dict[str, torch.Tensor], **settings: Any) -> list[list[tuple[str, int]]]:
    """(action, region) of each row's events under random selector and schedule."""
    policy = blink.Policy(**{"layers": LAYERS, "selector": "random", "schedule": "random", **settings})
    with attached(model, policy) as handle, torch.no_grad():
        model(**inputs)
        return [[(event.action, event.region) for event in row] for row in handle.trace]


def test_draws_do_not_depend_on_batch_or_order() -> None:
    """Catches draws from one running generator, a key that holds the padding, and the global seed."""
    pair = rig(**SMALL)
    inputs = models.batch(pair.model, list(range(20, 28)))
    together = draws(pair.model, inputs)
    torch.manual_seed(123)
    turned = draws(pair.model, {name: tensor.flip(0) for name, tensor in inputs.items()})
    alone = [draws(pair.model, sample.inputs)[0] for sample in samples(pair.twin, inputs)]
    assert together == turned[::-1] == alone


def test_generate_draws_what_the_prompt_draws() -> None:
    """Catches a sample key that misses the picture once generate has encoded it, or draws per token."""
    pair = rig(**SMALL)
    inputs = models.batch(pair.model, [30, 31, 32])
    plain = draws(pair.model, inputs)
    policy = blink.Policy(layers=LAYERS, selector="random", schedule="random")
    with attached(pair.model, policy) as handle:
        pair.model.generate(**inputs, max_new_tokens=4, num_beams=2, do_sample=False)
        generated = [[(event.action, event.region) for event in row] for row in handle.trace]
    assert generated == plain


def test_draws_follow_seed_picture_prompt_and_layer() -> None:
    """Catches a key that leaves one of them out. Actions alone are compared, for they are all drawn: the region of a
    drop is where saliency is highest, and follows picture and prompt by itself."""
    model = rig(**SMALL).model

    def actions(inputs: dict[str, torch.Tensor], **settings: Any) -> list[list[str]]:
        return [[action for action, _ in row] for row in draws(model, inputs, patches=3, **settings)]

    inputs = models.batch(model, list(range(40, 48)), words=6)
    plain = actions(inputs)
    assert actions(inputs) == plain
    assert actions(inputs, seed=1) != plain
    assert len({tuple(row) for row in plain}) > 2
    others = {**inputs, "pixel_values": inputs["pixel_values"].roll(1, 0)}
    assert actions(others) != plain
    words = {**inputs, "input_ids": torch.where(inputs["input_ids"] == 30, 31, inputs["input_ids"])}
    changed = (words["input_ids"] != inputs["input_ids"]).any(1)
    assert changed.any()
    assert [row for row, differs in zip(actions(words), changed, strict=True) if differs] != [
        row for row, differs in zip(plain, changed, strict=True) if differs
    ]
    assert any(len(set(row)) > 1 for row in plain)


def test_draws_are_uniform() -> None:
    """Catches regions or actions that are left out or favoured: chi-square far below chance level 1e-4."""
    model = rig(**SMALL).model
    actions: Counter[str] = Counter()
    regions: Counter[int] = Counter()
    for start in range(100, 200, 25):
        for row in draws(model, models.batch(model, list(range(start, start + 25)), words=4), patches=3):
            actions.update(action for action, _ in row)
            regions.update(region for action, region in row if action == "expand")
    assert set(actions) == {"expand", "drop"}
    assert set(regions) == set(range(9))
    expected = actions.total() / 2
    assert sum((count - expected) ** 2 / expected for count in actions.values()) < 15.1
    expected = regions.total() / 9
    assert sum((count - expected) ** 2 / expected for count in regions.values()) < 31.8
