"""The engine with encoded regions and boxes, for every family: what attach + generate gives each prompt and run alone."""

from collections import Counter
from contextlib import ExitStack
from typing import Any

import pytest
import torch

import blink
from blink.inference.engine import Engine
from blink.inference.run import Run
from blink.model.backbone import Backbone
from tests import models
from tests.inference.oracle import comparison
from tests.inference.oracle.cases import CASES, named, size_of
from tests.inference.oracle.test_oracle_encode import Conditioned

TOKENS = 3


def policies() -> list[blink.Policy]:
    """Encoded and coarse, hottest and boxed, in both schemes; a layer that fires lower than those before it."""
    return [
        blink.Policy((1, 3), schedule="cycle", source="encode", positions="append"),
        blink.Policy((0, 2, 4), schedule="cycle", source="encode", positions="region", patches=3),
        blink.Policy((3,), 0.0, 0.0, source="encode", selector="box", positions="region"),
        blink.Policy((1, 3), 0.0, 0.0, selector="box"),
        blink.Policy((1,), 0.0, 0.0, source="encode", selector="box", positions="append", patches=3),
        blink.Policy((1, 2, 3), 0.0, 0.0, source="encode", selector="random", seed=3),
        blink.Policy((1, 3), 0.0, 0.0, positions="region"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_equals_attach_and_generate(case: str) -> None:
    """Catches a crop shared between prefixes, layers, sources or regions that differ, and another prompt's box."""
    model, size = named(case).model, size_of(case)
    processor, image = models.processor(model), models.picture(401, size)
    prompts = [
        models.prompt(410 + i, system=("", "the red dog")[i % 2], processor=processor) for i in range(3)
    ]
    boxes = [[0, 0, 9, 9], [size[0] - 12, 3, size[0], 20], [3, size[1] - 10, 15, size[1]]]
    modules = {layer: Conditioned() for layer in (1, 3)}
    runs = [Run(), *map(Run, policies()), Run(policies()[3], modules)]
    backbone = Backbone(model, processor)
    engine = Engine(backbone)
    answers = engine.answer(image, prompts, runs, max_new_tokens=TOKENS, boxes=boxes)
    expanded = 0
    for run, of_run in zip(runs, answers, strict=True):
        for prompt, box, got in zip(prompts, boxes, of_run, strict=True):
            inputs = processor(images=[[image]], text=[prompt], return_tensors="pt")
            handle = None if run.policy is None else blink.attach(backbone, run.policy, run.token_sr)
            with ExitStack() as stack:
                if handle is not None:
                    stack.callback(handle.detach)
                    stack.enter_context(handle.pictures([image]))
                    stack.enter_context(handle.boxes([box]))
                out = model.generate(
                    **inputs,
                    max_new_tokens=TOKENS,
                    do_sample=False,
                    output_logits=True,
                    return_dict_in_generate=True,
                )
                events = [] if handle is None else handle.trace[0]
            two = torch.stack(out.logits, dim=1)[0].topk(2).values
            if float((two[:, 0] - two[:, 1]).min()) < comparison.MARGIN:
                continue
            assert got.ids == tuple(out.sequences[0, inputs["input_ids"].shape[1] :].tolist())
            assert [(e.layer, e.region, e.action) for e in got.events] == [
                (e.layer, e.region, e.action) for e in events
            ]
            for mine, theirs in zip(got.events, events, strict=True):
                assert mine.ratio == pytest.approx(theirs.ratio, abs=comparison.MARGIN)
            expanded += sum(event.action == "expand" for event in got.events)
    assert expanded >= 25
    alone = engine.answer_alone(image, prompts[1], runs[5], max_new_tokens=TOKENS, box=boxes[1])
    assert (alone.ids, alone.events) == (answers[5][1].ids, tuple(alone.events))
    assert [event.region for event in alone.events] == [event.region for event in answers[5][1].events]


def test_crops_are_shared_and_made_only_where_something_fires() -> None:
    """Catches an encoding per question, per policy or per layer, and one that nobody asks for."""
    model = named("llava_siglip").model
    processor, image = models.processor(model), models.picture(402)
    prompts = [models.prompt(420 + i, system="", processor=processor) for i in range(4)]
    engine, encoded = Engine(model, processor), Counter[str]()
    hook = model.model.vision_tower.register_forward_hook(
        lambda _, args, kwargs, out: encoded.update({"views": len((args or list(kwargs.values()))[0])}),
        with_kwargs=True,
    )

    def views(*runs: Run, **settings: Any) -> int:
        encoded.clear()
        engine.answer(image, prompts, runs, max_new_tokens=2, **settings)
        return encoded["views"] - 1

    fire: dict[str, Any] = {"tau_exp": 0.0, "tau_drop": 0.0, "source": "encode", "selector": "box"}
    corner = [[0, 0, 9, 9]] * 4
    try:
        assert views(Run(), Run(blink.Policy.never((1, 3), source="encode"))) == 0
        assert views(Run(blink.Policy((1,), **fire)), boxes=corner) == 1
        several = [
            Run(blink.Policy((3,), **fire)),
            Run(blink.Policy((1, 2), **fire)),
            Run(blink.Policy((1, 4), **fire, positions="region")),
        ]
        assert views(*several, boxes=corner) == 1
        corners = [[0, 0, 9, 9], [50, 0, 59, 9], [0, 50, 9, 59], [50, 50, 59, 59]]
        assert views(*several, boxes=corners) == 4
    finally:
        hook.remove()


def test_boxes_are_asked_for() -> None:
    """Catches a box policy that goes without, and entries that do not fit the prompts."""
    model = named("llava_siglip").model
    processor, image = models.processor(model), models.picture(403)
    engine = Engine(model, processor)
    run, prompts = Run(blink.Policy((1,), 0, 0, selector="box")), [models.prompt(1, processor=processor)]
    for boxes, said in ((None, "boxes="), ([[0, 0, 9, 9]] * 2, "2 boxes"), ([[90, 90, 99, 99]], "outside")):
        with pytest.raises(ValueError, match=said):
            engine.answer(image, prompts, [run], max_new_tokens=1, boxes=boxes)
    alone = engine.answer_alone(image, prompts[0], run, max_new_tokens=1)
    assert [event.action for event in alone.events] == ["keep"]
