"""Which token follows, and where an answer ends."""

import pytest

import blink
from blink.inference.engine import Engine
from blink.inference.run import Run
from tests import models
from tests.inference.engine.against_attach import SMALL, check, everything
from tests.inference.oracle.comparison import modules_of, rig


@pytest.mark.parametrize("kind", ["int", "list", "none"])
def test_closing_tokens(kind: str) -> None:
    """Would catch a row that goes on behind its end, ends with its neighbours, or a list of ids not looked into."""
    model = rig(**SMALL).model
    prompts = [models.prompt(i, system="") for i in range(4)]
    runs, image = [Run(), Run(blink.Policy([1, 3], 0, 0))], models.picture(4)
    engine = Engine(model, models.processor(model))
    free = engine.answer(image, prompts, runs, max_new_tokens=6)
    end = free[0][1].ids[2]
    config, before = model.generation_config, model.generation_config.eos_token_id
    config.eos_token_id = {"int": end, "list": [2, end], "none": None}[kind]
    try:
        stopped = engine.answer(image, prompts, runs, max_new_tokens=6)
        check(model, image, prompts, runs, tokens=6)
    finally:
        config.eos_token_id = before
    if kind == "none":
        assert {len(answer.ids) for of_run in stopped for answer in of_run} == {6}
    else:
        assert stopped[0][1].ids == free[0][1].ids[: free[0][1].ids.index(end) + 1]
        assert len({len(answer.ids) for of_run in stopped for answer in of_run}) > 1


def test_one_token_and_long_answers() -> None:
    """Would catch an off-by-one at the shortest answer, and positions that drift in a long one."""
    model = rig(**SMALL).model
    runs = [Run(), Run(blink.Policy((0, 2, 3), schedule="cycle"), modules_of(model))]
    prompts = [models.prompt(i, system="") for i in (1, 2)]
    check(model, models.picture(6), prompts, runs, tokens=1)
    check(model, models.picture(6), prompts, runs, tokens=60)


def test_text_is_decoded_without_special_tokens() -> None:
    """Would catch ids and text that do not belong together."""
    model = rig(**SMALL).model
    processor = models.processor(model)
    [[answer]] = Engine(model, processor).answer(
        models.picture(1), [models.prompt(1)], [Run()], max_new_tokens=5
    )
    assert answer.text == processor.tokenizer.decode(answer.ids, skip_special_tokens=True)


def test_changed_logits_are_refused() -> None:
    """Would catch a checkpoint whose generation config asks for what the engine does not do."""
    model = rig(**SMALL).model
    model.generation_config.repetition_penalty = 1.2
    try:
        with pytest.raises(ValueError, match="asks for RepetitionPenaltyLogitsProcessor"):
            everything(Engine(model, models.processor(model)))
    finally:
        model.generation_config.repetition_penalty = 1.0
    with pytest.raises(ValueError, match="memory_gb=0: expected a number above 0"):
        Engine(model, models.processor(model), memory_gb=0)
