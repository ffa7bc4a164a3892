"""The engine on every family: many prompts under many runs are what attach + generate gives each of them alone."""

from collections import Counter
from typing import Any

import pytest
import torch

import blink
from blink.inference.engine import Engine
from blink.inference.run import Run
from tests import models
from tests.inference.engine.against_attach import check, reference
from tests.inference.oracle import comparison
from tests.inference.oracle import literal as oracle
from tests.inference.oracle.cases import CASES, CYCLE, SCHEMES, SIZES, named, scheme_of, size_of
from tests.inference.oracle.comparison import modules_of, random_plan, rig

PROMPTS, RUNS = 3, 6


def compared(case: str) -> Counter[str]:
    """Check three prompts under six runs on one picture, and count what they were."""
    size = size_of(case)
    family, settings = CASES[case]
    pair = rig(family, **settings)
    modules = modules_of(pair.twin)
    key = 100 * list(CASES).index(case) + SIZES.index(size)
    random = [
        random_plan(9000 + 10 * key + i, family, (2, 3, 4), sizes=SIZES, schemes=SCHEMES, **settings)
        for i in range(3)
    ]
    cycle: dict[str, Any] = {"layers": (0, 2, 3), "schedule": "cycle", "patches": 4}
    uneven = [oracle.Plan(**cycle, interpolate=False, positions=scheme) for scheme in SCHEMES]
    runs = [
        Run(),
        *(Run(comparison.policy(plan), modules) for plan in uneven),
        *(Run(comparison.policy(plan), modules if i else None) for i, plan in enumerate(random)),
    ]
    systems = ("", "the red dog")
    prompts = [
        models.prompt(key + i, system=systems[i % 2], processor=models.processor(pair.model))
        for i in range(PROMPTS)
    ]
    return check(pair.model, models.picture(key, size), prompts, runs, tokens=3)


@pytest.mark.parametrize("case", CASES)
def test_equals_attach_and_generate(case: str) -> None:
    """Catches a trunk, extension, position or grid of another prompt, run or picture, and text behind the wrong one."""
    counts = compared(case)
    assert counts["compared"] + counts["set aside"] == PROMPTS * RUNS
    assert counts["set aside"] <= 2
    assert counts["expand"] >= 2 * PROMPTS


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_bfloat16_strays_no_further_than_a_batch(case: str) -> None:
    """Catches scores or masks rounded otherwise in the engine: answers may differ where a batch could decide otherwise, too.

    Twice what a batch changes of the stock model's logits is the margin; ratios are compared where nothing acts, for an
    extension that differs changes those behind it.
    """
    pair = named(case, dtype=torch.bfloat16)
    processor, picture = models.processor(pair.model), models.picture(7, SIZES[1])
    prompts = [models.prompt(70 + i, processor=processor) for i in range(4)]
    cycle = Run(comparison.policy(oracle.Plan(**CYCLE, positions=scheme_of(case))), modules_of(pair.model))
    runs = [Run(), Run(blink.Policy.never((0, 1, 2, 3))), cycle]

    def stock(texts: list[str]) -> torch.Tensor:
        inputs = processor(images=[[picture]] * len(texts), text=texts, padding=True, return_tensors="pt")
        with torch.no_grad():
            logits_BV: torch.Tensor = pair.model(**inputs.to(dtype=pair.model.dtype)).logits[:, -1].float()
        return logits_BV

    margin = 2 * float((stock(prompts) - torch.cat([stock([text]) for text in prompts])).abs().max())
    decided = 0
    for run, of_run in zip(
        runs, Engine(pair.model, processor).answer(picture, prompts, runs, max_new_tokens=2), strict=True
    ):
        for prompt, got in zip(prompts, of_run, strict=True):
            want = reference(pair.model, picture, prompt, run, 2)
            if want.lead > margin:
                assert got.ids == want.ids
                decided += 1
            for mine, theirs in zip(got.events, want.events, strict=True):
                assert (mine.layer, mine.action) == (theirs.layer, theirs.action)
                assert run is cycle or mine.ratio == pytest.approx(theirs.ratio, abs=0.02)
    assert decided >= 2
