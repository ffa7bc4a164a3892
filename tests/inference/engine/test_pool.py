"""Rows that decode together: who enters when, and that the cache's places are kept apart."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

import blink
from blink.inference.engine import Ask, Engine
from blink.inference.run import Run
from blink.model.backbone import Backbone
from tests import models
from tests.inference.engine.test_many import SMALL, bare, one_by_one
from tests.inference.oracle.comparison import modules_of, rig


@contextmanager
def steps(model: Any) -> Iterator[list[tuple[int, int]]]:
    """Inside, (rows, columns) of every call of the last MLP but one with text; that of the last layer sees no prompts."""
    seen: list[tuple[int, int]] = []
    grid = Backbone(model).grid
    assert grid is not None

    def look(_: Any, inputs: tuple[Any, ...]) -> None:
        rows, columns, _ = inputs[0].shape
        if columns < grid[0] * grid[1]:
            seen.append((rows, columns))

    hook = model.model.language_model.layers[-2].mlp.register_forward_pre_hook(look)
    try:
        yield seen
    finally:
        hook.remove()


def closing_after(model: Any, engine: Engine, asks: list[Ask], tokens: int) -> int:
    """A token that ends some answers early and others not at all."""
    found = [answers[0][0].ids for answers in engine.answer_many(asks, max_new_tokens=tokens)]
    return next(
        token
        for ids in found
        for token in ids[1 : tokens // 3]
        if 0 < sum(token not in other for other in found) < len(found)
    )


def test_waiting_rows_enter_before_the_longest_answer_ends() -> None:
    """Would catch batches that wait for their longest answer, and rows that lose keys where others come and go."""
    model = rig(**SMALL).model
    engine = Engine(model, models.processor(model))
    runs = [Run(blink.Policy((1, 3), 0.3, 0.26), modules_of(model))]
    asks = [
        Ask(
            models.picture(i, [(60, 60), (90, 40)][i % 2]),
            [models.prompt(i, words=3 + i % 4, system="")],
            runs,
        )
        for i in range(24)
    ]
    config, before = model.generation_config, model.generation_config.eos_token_id
    config.eos_token_id = None
    try:
        config.eos_token_id = closing_after(model, engine, asks, 24)
        want = one_by_one(engine, asks, 24)
        with steps(model) as seen:
            got = [bare(answers) for answers in engine.answer_many(asks, max_new_tokens=24, pictures=4)]
    finally:
        config.eos_token_id = before
    assert got == want
    lengths = [len(answers[0][0][0]) for answers in want]
    assert max(lengths) == 24 > min(lengths)
    decoded = [rows for rows, columns in seen if columns == 1]
    assert sum(decoded) == sum(length - 1 for length in lengths)
    assert max(decoded) <= 4
    # In waves of 4 that wait for their longest answer there would be as many steps as the longest of each has.
    waves = sum(max(lengths[first : first + 4]) - 1 for first in range(0, 24, 4))
    assert len(decoded) < 0.9 * waves
    prompts = [number for number, (_, columns) in enumerate(seen) if columns > 1]
    assert any(seen[number + 1][1] == 1 and seen[number - 1][1] == 1 for number in prompts[1:-1])


def test_long_answers_of_many_questions() -> None:
    """Would catch columns that run over their end, where more tokens come than there was room made for."""
    model = rig(**SMALL).model
    engine = Engine(model, models.processor(model))
    runs = [Run(), Run(blink.Policy((0, 2, 3), schedule="cycle"))]
    asks = [
        Ask(
            models.picture(i),
            [models.prompt(10 * i + j, words=2 + j, system="") for j in range(1 + 2 * i)],
            runs,
        )
        for i in range(3)
    ]
    config, before = model.generation_config, model.generation_config.eos_token_id
    config.eos_token_id = None
    try:
        want = one_by_one(engine, asks, 150)
        got = [bare(answers) for answers in engine.answer_many(asks, max_new_tokens=150)]
    finally:
        config.eos_token_id = before
    assert got == want
    assert {len(answer[0]) for answers in got for of_run in answers for answer in of_run} == {150}


def test_memory_bounds_the_rows_in_flight() -> None:
    """Would catch pictures or rows that run together though they do not fit."""
    model = rig(**SMALL).model
    asks = [Ask(models.picture(i), [models.prompt(i), models.prompt(i + 50)], [Run()]) for i in range(5)]
    plenty = Engine(model, models.processor(model))
    want = [bare(answers) for answers in plenty.answer_many(asks, max_new_tokens=4, pictures=5)]
    scarce = Engine(model, models.processor(model), memory_gb=1e-6)
    with steps(model) as seen:
        got = [bare(answers) for answers in scarce.answer_many(asks, max_new_tokens=4)]
    assert got == want
    assert {rows for rows, _ in seen} == {1}


def test_out_of_memory_with_many_pictures() -> None:
    """Would catch answers lost or doubled where a step, a prompt or a whole wave runs out of memory."""
    model = rig(**SMALL).model
    asks = [Ask(models.picture(i), [models.prompt(i)], [Run(blink.Policy((1,), 0, 0))]) for i in range(8)]
    want = [bare(a) for a in Engine(model, models.processor(model)).answer_many(asks, max_new_tokens=5)]
    failed: list[int] = []

    def run_out(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        if len(inputs[0]) > 3:
            failed.append(len(inputs[0]))
            raise torch.OutOfMemoryError("no room")

    hooks = [layer.mlp.register_forward_pre_hook(run_out) for layer in model.model.language_model.layers]
    try:
        engine = Engine(model, models.processor(model))
        got = [bare(answers) for answers in engine.answer_many(asks, max_new_tokens=5, pictures=8)]
    finally:
        for hook in hooks:
            hook.remove()
    assert got == want
    assert failed
