"""What an engine is asked: names of samples, and mistakes."""

import pytest
from torch import nn

import blink
from blink.inference.engine import Engine
from blink.inference.run import Run
from tests import models
from tests.inference.engine.against_attach import SMALL, compare, reference
from tests.inference.oracle.comparison import rig


def test_sample_keys() -> None:
    """Would catch names that do not reach the draws, or reach another prompt's."""
    model = rig(**SMALL).model
    run = Run(blink.Policy((0, 2, 3), selector="random", schedule="random"))
    prompts = [models.prompt(i, system="") for i in range(2)]
    engine, image = Engine(model, models.processor(model)), models.picture(9)
    [answers] = engine.answer(image, prompts, [run], max_new_tokens=3, sample_keys=["a", "b"])
    for prompt, key, got in zip(prompts, "ab", answers, strict=True):
        compare(got, reference(model, image, prompt, run, 3, key))
    [unnamed] = engine.answer(image, prompts, [run], max_new_tokens=3)
    assert [answer.events for answer in unnamed] != [answer.events for answer in answers]


@pytest.mark.parametrize(
    ("prompts", "runs", "message"),
    [
        (["is there a dog?"], [Run()], "prompt 0 has 0 image tokens; expected one"),
        (["<image> a?", "<image> <image> a?"], [Run()], "prompt 1 has 2 image tokens; expected one"),
        (["USER: <image>"], [Run()], "prompt 0 ends at its image"),
        ([], [Run()], "0 prompts, 1 runs"),
        (["<image> a?"], [], "1 prompts, 0 runs"),
        (["<image> a?"], [Run(blink.Policy([9]))], "decoder layers 0 to 4"),
        (["<image> a?"], [Run(blink.Policy([1], patches=7))], "patches=7 does not fit"),
        (["<image> a?"], [Run(blink.Policy([1]), {2: nn.Identity()})], "layers .1. are scanned too"),
    ],
)
def test_mistakes_are_refused(prompts: list[str], runs: list[Run], message: str) -> None:
    """Would catch a prompt without its picture that is answered all the same, and a run that cannot fit."""
    model = rig(**SMALL).model
    with pytest.raises(ValueError, match=message):
        Engine(model, models.processor(model)).answer(models.picture(0), prompts, runs, max_new_tokens=1)
