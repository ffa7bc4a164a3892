"""LLaVA-NeXT against the literal Algorithm 1: base grid, tiles, newline tokens, several aspect ratios."""

from typing import Any

import pytest
import torch

from tests import models
from tests.inference.oracle import comparison
from tests.inference.oracle import literal as oracle
from tests.inference.oracle.comparison import (
    attached,
    check_generation,
    check_prompt,
    modules_of,
    random_plan,
    rig,
    samples,
)

SHAPES: list[dict[str, Any]] = [
    {"attention": "sdpa", "kv_heads": 2},
    {"attention": "eager"},
    {"attention": "sdpa", "text": "mistral", "kv_heads": 2},
]
SIZES = [(60, 60), (120, 30), (30, 130), (50, 60), (200, 90), (24, 24)]
"""Width and height: square, wide, tall, nearly square, wide and large, and one of the size of a tile."""


def drawn(seed: int) -> tuple[dict[str, Any], oracle.Plan, dict[str, torch.Tensor]]:
    """The seed's model shape, plan, and a batch of one to four pictures of different shapes."""
    settings = SHAPES[seed % len(SHAPES)]
    rows = 1 + seed % 4
    sizes = [SIZES[(seed + row) % len(SIZES)] for row in range(rows)]
    model = rig("llava_next", **settings).twin
    plan = random_plan(700 + seed, "llava_next", (2, 3), **settings)
    return settings, plan, models.batch(model, [10 * seed + row for row in range(rows)], sizes)


@pytest.mark.parametrize("seed", range(16))
def test_random_policies(seed: int) -> None:
    """Catches a grid that is not the base image's, or an extension put before the tiles."""
    settings, plan, inputs = drawn(seed)
    pair = rig("llava_next", **settings)
    check_prompt(pair, inputs, plan, modules_of(pair.twin) if seed % 3 else None)


def test_random_policies_cover_every_transition() -> None:
    """The cases above expand, replace, keep and drop, and rows of a batch differ."""
    seen: set[str] = set()
    differing = 0
    for seed in range(16):
        settings, plan, inputs = drawn(seed)
        twin = rig("llava_next", **settings).twin
        modules = modules_of(twin) if seed % 3 else None
        outcomes = [
            oracle.run(twin, sample.ids_S, sample.picture, plan, modules) for sample in samples(twin, inputs)
        ]
        for outcome in outcomes:
            seen |= comparison.transitions(outcome)
        differing += len({tuple(step.action for step in outcome.steps) for outcome in outcomes}) > 1
    assert seen == comparison.EVERY_TRANSITION
    assert differing >= 3


@pytest.mark.parametrize("size", SIZES)
def test_each_aspect_ratio(size: tuple[int, int]) -> None:
    """Catches one shape of picture whose visual span is found wrongly, at the prompt or while decoding."""
    pair = rig("llava_next", kv_heads=2)
    plan = oracle.Plan((0, 2, 4), schedule="cycle", patches=3)
    inputs = models.batch(pair.model, [3], [size])
    assert check_prompt(pair, inputs, plan, modules_of(pair.twin))
    assert check_generation(pair, inputs, plan, modules_of(pair.twin), max_new_tokens=6, do_sample=False)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_generate_on_mixed_pictures(attention: str) -> None:
    """Catches visual spans of the batch's first row used for all rows."""
    pair = rig("llava_next", attention=attention)
    inputs = models.batch(pair.model, [1, 2, 3, 4], SIZES[:4])
    plan = oracle.Plan((1, 2, 3), schedule="cycle")
    settings: dict[str, Any] = {"max_new_tokens": 10, "do_sample": False}
    assert check_generation(pair, inputs, plan, modules_of(pair.twin), **settings)


def test_beams() -> None:
    """Catches beams whose visual spans are not those of their prompt."""
    pair = rig("llava_next")
    inputs = models.batch(pair.model, [5, 6], SIZES[1:3])
    plan = oracle.Plan((1, 2, 3), schedule="cycle")
    modules = modules_of(pair.twin)
    settings: dict[str, Any] = {"max_new_tokens": 4, "num_beams": 2, "do_sample": False, "eos_token_id": None}
    with attached(pair.model, plan, modules):
        ids = pair.model.generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :].tolist()
    for row, sample in enumerate(samples(pair.twin, inputs)):
        want = oracle.beam_search(pair.twin, sample.ids_S, sample.picture, plan, modules, 4, 2)
        assert ids[row] == want[0][0]


def test_off_is_off() -> None:
    """Catches any change of the stock logits by a policy that scans every layer and never fires."""
    model = rig("llava_next", kv_heads=2).model
    inputs = models.batch(model, [1, 2, 3, 4], SIZES[:4])
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        stock = model(**inputs).logits
        with attached(model, oracle.Plan((0, 1, 2, 3, 4), tau_exp=1.0, tau_drop=0.0)):
            ours = model(**inputs).logits
    assert (ours - stock)[real].abs().max() <= 1e-5 * stock[real].abs().max()
