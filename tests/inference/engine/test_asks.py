"""What an engine is asked: names of samples, pictures, and mistakes."""

from typing import Any

import pytest
import torch
from torch import nn

import blink
from blink.inference.engine import Ask, Engine, asks
from blink.inference.engine.asks import prepare, split_prompts
from blink.inference.run import Run
from blink.model.backbone import Backbone
from blink.model.image_inputs import encode_image, processed
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


@pytest.mark.parametrize("name", ["llava", "qwen3_vl"])
def test_pictures_are_encoded_some_at_a_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a vision tower that gets any number of pictures at once, and visual tokens of another picture."""
    model = models.family(name)
    backbone = Backbone(model, models.processor(model))
    prompt = f"{backbone.processor.image_token} is there a dog?"
    pictures = [Ask(models.picture(number), [prompt], [Run()]) for number in range(5)]
    splits = [split_prompts(backbone, [prompt])] * 5
    calls: list[int] = []

    def encoding(of: Backbone, inputs: Any) -> Any:
        calls.append(len(inputs["input_ids"]))
        return encode_image(of, inputs)

    monkeypatch.setattr(asks, "encode_image", encoding)
    with torch.inference_mode():
        together = prepare(backbone, pictures, splits)
        monkeypatch.setattr(asks, "_TOKENS_AT_ONCE", 2 * len(together[0].encoded.features_Td) + 1)
        apart = prepare(backbone, pictures, splits)
    assert calls == [5, 2, 2, 1]
    for one, other in zip(together, apart, strict=True):
        assert len(one.encoded.added) == len(other.encoded.added)
        for part, of_other in zip(
            (one.encoded.features_Td, *one.encoded.added),
            (other.encoded.features_Td, *other.encoded.added),
            strict=True,
        ):
            torch.testing.assert_close(part, of_other)
    assert not torch.allclose(apart[1].encoded.features_Td, apart[3].encoded.features_Td, atol=1e-3)


def test_a_picture_without_visual_tokens_in_its_prompt() -> None:
    """Would catch a picture whose processor's output is another prompt's, told as a division by zero."""
    model = models.family("llava")
    engine = Engine(model, models.processor(model))
    prompt = models.prompt(0)
    of_other = processed(models.processor(model), [models.picture(0)], [prompt])
    ids = of_other["input_ids"]
    of_other["input_ids"] = ids.masked_fill(ids == model.config.image_token_id, 1)
    ask = Ask(models.picture(0), [prompt], [Run()], processed=of_other)
    with pytest.raises(ValueError, match=r"^ask 0: row 0 of the prompt has 0 image tokens"):
        list(engine.answer_many([ask], max_new_tokens=1))


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
