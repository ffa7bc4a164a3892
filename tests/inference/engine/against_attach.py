"""The engine's answers beside those of attach + generate, one prompt and one run at a time."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image

import blink
from blink.inference.engine import Answer, Engine
from blink.inference.run import Run
from tests import models
from tests.inference.oracle.comparison import MARGIN

SMALL: dict[str, Any] = {"grid": 6, "kv_heads": 2}


class Reference(NamedTuple):
    """What attach + generate gave; `lead` is the smallest distance of the two largest logits at any step."""

    ids: tuple[int, ...]
    events: list[blink.Event]
    lead: float


def reference(
    model: Any, image: Image.Image, prompt: str, run: Run, max_new_tokens: int, key: str | None = None
) -> Reference:
    """One prompt under one run through the stock model's generate."""
    inputs = models.processor(model)(images=[image], text=[prompt], return_tensors="pt")
    inputs = inputs.to(dtype=model.dtype)
    handle = None if run.policy is None else blink.attach(model, run.policy, run.token_sr)
    settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "do_sample": False}
    settings |= {"output_logits": True, "return_dict_in_generate": True}
    try:
        if handle is not None and key is not None:
            with handle.sample_keys([key]):
                out = model.generate(**inputs, **settings)
        else:
            out = model.generate(**inputs, **settings)
        events = [] if handle is None else handle.trace[0]
    finally:
        if handle is not None:
            handle.detach()
    two = torch.stack(out.logits, dim=1)[0].topk(2).values
    ids = tuple(out.sequences[0, inputs["input_ids"].shape[1] :].tolist())
    return Reference(ids, events, float((two[:, 0] - two[:, 1]).min()))


def undecided(run: Run, want: Reference) -> bool:
    """Whether an event or a token is too close to call in float32."""
    policy = run.policy
    close = want.lead < MARGIN
    if policy is not None and policy.schedule == "threshold":
        close |= any(abs(event.ratio - tau) < MARGIN for event in want.events for tau in policy.thresholds)
    return close


def check(
    model: Any, image: Image.Image, prompts: Sequence[str], runs: Sequence[Run], tokens: int
) -> Counter[str]:
    """Every answer of the engine is that of attach + generate, near-ties set aside: counts of both, and of actions."""
    counts: Counter[str] = Counter()
    answers = Engine(model, models.processor(model)).answer(image, prompts, runs, max_new_tokens=tokens)
    assert [len(of_run) for of_run in answers] == [len(prompts)] * len(runs)
    for run, of_run in zip(runs, answers, strict=True):
        for prompt, got in zip(prompts, of_run, strict=True):
            want = reference(model, image, prompt, run, tokens)
            if undecided(run, want):
                counts["set aside"] += 1
            else:
                compare(got, want)
                counts["compared"] += 1
                counts.update(event.action for event in got.events)
    return counts


def compare(got: Answer, want: Reference) -> None:
    """Ids and events equal, ratios to the margin."""
    assert got.ids == want.ids
    fields = [(event.layer, event.region, event.action) for event in got.events]
    assert fields == [(event.layer, event.region, event.action) for event in want.events]
    for mine, theirs in zip(got.events, want.events, strict=True):
        assert mine.ratio == pytest.approx(theirs.ratio, abs=MARGIN)


def everything(engine: Engine, max_new_tokens: int = 3) -> list[list[Answer]]:
    """Many rows: three prompts under twelve runs."""
    prompts = [models.prompt(i, system="") for i in range(3)]
    runs = [
        Run(blink.Policy(layers, tau, 0.2))
        for layers in ((0, 2), (1, 3, 4), (2,))
        for tau in (0.25, 0.35, 0.5, 1)
    ]
    return engine.answer(models.picture(8), prompts, runs, max_new_tokens=max_new_tokens)


def same(left: list[list[Answer]], right: list[list[Answer]]) -> bool:
    """Whether ids and events agree, ratios left out."""
    bare = [
        [
            [(answer.ids, [(e.layer, e.region, e.action) for e in answer.events]) for answer in of_run]
            for of_run in answers
        ]
        for answers in (left, right)
    ]
    return bare[0] == bare[1]
