"""The engine on every family: many prompts under many runs are what attach + generate gives each of them alone."""

from collections import Counter
from functools import cache
from typing import Any

import pytest

from blink.inference.run import Run
from tests import models
from tests.inference.engine.test_engine import check
from tests.inference.oracle import comparison
from tests.inference.oracle import literal as oracle
from tests.inference.oracle.cases import CASES, SCHEMES, SIZES
from tests.inference.oracle.comparison import modules_of, random_plan, rig

PROMPTS, RUNS = 3, 6


@cache
def compared(case: str, size: tuple[int, int]) -> Counter[str]:
    """Check three prompts under six runs on one picture, and count what they were."""
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


@pytest.mark.parametrize("size", [SIZES[0], SIZES[1]])
@pytest.mark.parametrize("case", CASES)
def test_equals_attach_and_generate(case: str, size: tuple[int, int]) -> None:
    """Catches a trunk, extension, position or grid of another prompt, run or picture, and text behind the wrong one."""
    counts = compared(case, size)
    assert counts["compared"] + counts["set aside"] == PROMPTS * RUNS
    assert counts["set aside"] <= 2
    assert counts["expand"] >= 2 * PROMPTS
