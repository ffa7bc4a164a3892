"""Answers in padded batches that share nothing: the engine's own, to the id."""

import copy
from typing import Any

import pytest
import torch

from blink import Ask, Policy, Run
from blink.inference.engine import Engine
from blink.model.backbone import Backbone
from blink.runs.values import NotFiniteError
from tests import models
from tests.inference.engine.against_attach import SMALL, same
from tests.inference.oracle.comparison import modules_of, rig


def asks_about(model: Any, count: int) -> list[Ask]:
    """Prompts of several lengths about pictures of several sizes, each under runs of which some are alike."""
    modules = modules_of(model)
    runs = [Run(), Run(Policy([1, 3], 0.3, 0.2), modules), Run(Policy([2], 0.0, 0.0, selector="random"))]
    return [
        Ask(
            models.picture(number, (40 + 8 * number, 48)),
            [models.prompt(10 * number + i) for i in range(1 + number % 3)],
            [Run(run.policy, run.token_sr) for run in runs[number % 2 :]],
            sample_keys=[f"{number}/{i}" for i in range(1 + number % 3)] if number % 3 == 2 else None,
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_batches_answer_as_the_engine_does(batch: int) -> None:
    """Catches answers or events of another row, run or picture, and draws that hang on the place in a batch."""
    model = rig(**SMALL).model
    engine, asks = Engine(model, models.processor(model)), asks_about(model, 6)
    want = list(engine.answer_many(asks, max_new_tokens=4))
    assert sum(bool(answer.events) for of_ask in want for of_run in of_ask for answer in of_run) > 10
    got = engine.answer_apart(asks, max_new_tokens=4, batch=batch)
    assert all(same(*pair) for pair in zip(got, want, strict=True))
    assert "generate" not in vars(model), "Blink is attached no longer"


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava_next", "smolvlm", "internvl"])
def test_batches_of_other_families(name: str) -> None:
    """Catches pictures of other sizes, whose tiles or grids differ, laid to another row of a batch."""
    model = models.family(name, layers=3)
    backbone = Backbone(model, models.processor(model))
    token = backbone.processor.image_token
    asks = [
        Ask(
            models.picture(i, size),
            [f"{token}\nWhat is {'very ' * i}red?"],
            [Run(), Run(Policy([1], 0.0, 0.0))],
        )
        for i, size in enumerate([(56, 56), (112, 56), (56, 84), (84, 84)])
    ]
    engine = Engine(backbone)
    want = list(engine.answer_many(asks, max_new_tokens=3))
    got = engine.answer_apart(asks, max_new_tokens=3, batch=3)
    assert all(same(*pair) for pair in zip(got, want, strict=True))


def test_batches_are_halved_where_memory_runs_out() -> None:
    """Catches questions lost or doubled behind a batch that was too large, and the same batch tried again for ever."""
    model = rig(**SMALL).model
    engine, asks = Engine(model, models.processor(model)), asks_about(model, 6)
    want = engine.answer_apart(asks, max_new_tokens=3)
    sizes: list[int] = []

    def run_out(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        sizes.append(len(inputs[0]))
        if len(inputs[0]) > 3:
            raise torch.OutOfMemoryError("no room")

    hook = model.model.language_model.layers[2].mlp.register_forward_pre_hook(run_out)
    try:
        got = engine.answer_apart(asks, max_new_tokens=3, batch=8)
    finally:
        hook.remove()
    assert all(same(*pair) for pair in zip(got, want, strict=True))
    assert [size for size in sizes if size > 3] == [6], "tried once"


def test_the_question_that_is_not_finite_is_named() -> None:
    """Catches an error laid to the first question of a batch, or to its place there."""
    model = copy.deepcopy(rig(**SMALL).model)
    engine, asks = Engine(model, models.processor(model)), asks_about(model, 4)
    damaged = asks[2].prompts[1]
    ids = engine._backbone.processor.tokenizer(damaged)["input_ids"]
    others = [prompt for ask in asks for prompt in ask.prompts if prompt != damaged]
    known = {
        token for prompt in others for token in engine._backbone.processor.tokenizer(prompt)["input_ids"]
    }
    [own, *_] = [token for token in ids if token not in known]
    model.get_input_embeddings().weight.data[own] = float("nan")
    with pytest.raises(NotFiniteError) as caught:
        engine.answer_apart(asks, max_new_tokens=2, batch=5)
    assert (caught.value.ask, caught.value.sample) == (2, 1)
