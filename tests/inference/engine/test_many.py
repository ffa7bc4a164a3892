"""Prompts about many pictures in one call against one picture at a time."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import blink
from blink.inference.engine import Answer, Ask, Engine
from blink.inference.run import Run
from blink.runs.values import NotFiniteError
from tests import models
from tests.inference.oracle.comparison import modules_of, rig

SMALL: dict[str, Any] = {"grid": 6, "kv_heads": 2}


def bare(answers: list[list[Answer]]) -> list[Any]:
    """Ids, text and events, ratios left out."""
    return [
        [
            (answer.ids, answer.text, [(e.layer, e.region, e.action) for e in answer.events])
            for answer in of_run
        ]
        for of_run in answers
    ]


def one_by_one(engine: Engine, asks: list[Ask], tokens: int) -> list[Any]:
    """What `answer` returns for each ask."""
    return [
        bare(
            engine.answer(
                ask.image,
                ask.prompts,
                ask.runs,
                max_new_tokens=tokens,
                sample_keys=ask.sample_keys,
                boxes=ask.boxes,
            )
        )
        for ask in asks
    ]


def mixed_asks(model: Any, modules: dict[int, nn.Module] | None = None) -> list[Ask]:
    """Pictures of several sizes, with one to five prompts each, systems that differ, and lists of runs that differ."""
    modules = modules or modules_of(model)
    policies = [
        blink.Policy((1, 3), 0.3, 0.26),
        blink.Policy((0, 2), schedule="cycle"),
        blink.Policy((2,), selector="random", schedule="random"),
    ]
    lists = [
        [Run()],
        [Run(), Run(policies[0], modules)],
        [Run(policies[1]), Run(policies[1], modules), Run(policies[2])],
    ]
    asks = []
    for number in range(9):
        count = (1, 5, 2)[number % 3]
        prompts = [
            models.prompt(10 * number + i, words=3 + i, system=("", "the red dog")[i % 2])
            for i in range(count)
        ]
        keys = [f"{number}/{i}" for i in range(count)] if number % 2 else None
        image = models.picture(number, [(60, 60), (90, 40), (40, 90), (60, 60)][number % 4])
        asks.append(Ask(image, prompts, lists[number % 3 if number != 4 else 2], keys))
    return asks


@pytest.mark.parametrize("pictures", [None, 1, 2, 4])
def test_equals_one_picture_at_a_time(pictures: int | None) -> None:
    """Would catch rows that attend to another picture, events or answers of another ask, and any other order."""
    model = rig(**SMALL).model
    engine = Engine(model, models.processor(model))
    asks = mixed_asks(model)
    want = one_by_one(engine, asks, 5)
    got = [bare(answers) for answers in engine.answer_many(iter(asks), max_new_tokens=5, pictures=pictures)]
    assert got == want


def test_asks_are_read_as_they_are_needed() -> None:
    """Would catch a list made of all pictures, which may not fit memory."""
    model = rig(**SMALL).model
    engine = Engine(model, models.processor(model))
    read = 0

    def asks() -> Iterator[Ask]:
        nonlocal read
        for number in range(40):
            read += 1
            yield Ask(models.picture(number), [models.prompt(number)], [Run()])

    answers = engine.answer_many(asks(), max_new_tokens=2, pictures=3)
    assert read == 0
    next(answers)
    assert read <= 7
    assert len(list(answers)) == 39


@pytest.mark.parametrize("broken", ["reading", "asking"])
def test_what_comes_before_an_error_is_answered(broken: str) -> None:
    """Would catch answers lost that share a wave with a picture that fails, and a caller's error under another name."""
    model = rig(**SMALL).model
    engine = Engine(model, models.processor(model))

    def asks() -> Iterator[Ask]:
        for number in range(3):
            yield Ask(models.picture(number), [models.prompt(number)], [Run()])
        if broken == "reading":
            raise OSError("no such picture")
        yield Ask(models.picture(3), ["what?"], [Run()])

    results = engine.answer_many(asks(), max_new_tokens=3, pictures=8)
    found = [bare(next(results)) for _ in range(3)]
    with pytest.raises((OSError, ValueError), match=r"^no such picture|^ask 3: prompt 0 has 0"):
        next(results)
    asked = [Ask(models.picture(i), [models.prompt(i)], [Run()]) for i in range(3)]
    assert found == one_by_one(engine, asked, 3)


def test_no_asks_no_answers() -> None:
    """Would catch a loop that needs a first picture."""
    model = rig(**SMALL).model
    assert list(Engine(model, models.processor(model)).answer_many([], max_new_tokens=2)) == []


class Bad(nn.Module):
    """Makes nan of every extension."""

    def forward(self, region_BdHW: torch.Tensor) -> torch.Tensor:
        """Return nan."""
        return region_BdHW * float("nan")


def test_errors_name_ask_and_prompt() -> None:
    """Would catch numbers of rows among all pictures, which say nothing to the caller."""
    model = rig(**SMALL).model
    engine = Engine(model, models.processor(model))
    good = [Ask(models.picture(i), [models.prompt(i)], [Run()]) for i in range(3)]
    boxes = [None, [10, 10, 30, 30], None]
    bad = Run(blink.Policy([1], 0, 0, selector="box"), {1: Bad()})
    asks = [*good, Ask(models.picture(5), [models.prompt(i) for i in range(3)], [Run(), bad], boxes=boxes)]
    with pytest.raises(NotFiniteError, match=r"ask 3 \(from 0\), sample 1") as raised:
        list(engine.answer_many(asks, max_new_tokens=3, pictures=4))
    assert (raised.value.ask, raised.value.sample) == (3, 1)
    with pytest.raises(ValueError, match="ask 2: prompt 0 has 0 image tokens"):
        list(engine.answer_many([*good[:2], good[0]._replace(prompts=["what?"])], max_new_tokens=3))
    with pytest.raises(ValueError, match=r"ask 1: .*decoder layers 0 to 4"):
        list(engine.answer_many([good[0], good[1]._replace(runs=[Run(blink.Policy([9]))])], max_new_tokens=3))
    with pytest.raises(ValueError, match="pictures=0"):
        engine.answer_many(good, max_new_tokens=3, pictures=0)
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        engine.answer_many(good, max_new_tokens=0)
