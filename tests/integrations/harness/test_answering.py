"""Questions about one picture share an engine call, in whatever order they come; the answers are those of each alone."""

from typing import Any

import pytest
import torch

from blink.inference.attach import attach
from blink.inference.engine import Engine
from blink.inference.policy import Policy
from blink.inference.run import Run
from blink.integrations.harness.answering import Answering, Reply
from blink.integrations.harness.requests import Generation, Question, read_generation
from blink.model.backbone import Backbone
from blink.model.image_inputs import prompt_inputs
from blink.model.prompts import prompt_about, template_of
from blink.runs.values import NotFiniteError
from blink.scenes.draw import scene

BLINK = Run(Policy([8, 9, 10], tau_exp=0.5, tau_drop=0.4), "tiny")
TEXTS = (
    "What shape is the purple object?",
    "Is there a red circle in the image?",
    "How many objects are there?",
)
SHORT = Generation(12, (), ())


def question(
    backbone: Backbone, pictures: tuple[int, ...], text: str = TEXTS[0], generation: Generation = SHORT
) -> Question:
    """A question about some scenes."""
    template = template_of(backbone.processor)
    return Question(
        f"scene {pictures}",
        prompt_about(template, backbone.processor, text, len(pictures)),
        len(pictures),
        "+".join(map(str, pictures)),
        lambda: [scene("test", seed).draw() for seed in pictures],
        generation,
    )


def answering(backbone: Backbone, run: Run = BLINK, pictures: int | None = None) -> Answering:
    """What answers as a run does."""
    return Answering(backbone, run, memory_gb=1, pictures=pictures)


def test_answers_are_those_of_each_alone_in_the_order_of_the_questions(
    tiny: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch answers of one picture told about another, a trunk for each question, and a question lost or told twice."""
    asked: list[tuple[int, list[int]]] = []
    real = Engine.answer_many

    def noted(engine: Engine, asks: Any, **settings: Any) -> Any:
        listed = list(asks)
        asked.append((settings["max_new_tokens"], [len(ask.prompts) for ask in listed]))
        return real(engine, listed, **settings)

    monkeypatch.setattr(Engine, "answer_many", noted)
    longer = SHORT._replace(max_new_tokens=5)
    questions = [
        question(tiny, (1,), TEXTS[0]),
        question(tiny, (2,), TEXTS[1]),
        question(tiny, (1,), TEXTS[2]),
        question(tiny, (2,), TEXTS[1], longer),
        question(tiny, (2,), TEXTS[0]),
        question(tiny, (1,), TEXTS[0]),  # a repeat
    ]
    ticks: list[int] = []
    found = answering(tiny, pictures=1).answer(questions, lambda: ticks.append(1))
    assert asked == [(12, [2, 2]), (5, [1])]
    assert len(ticks) == len(questions)
    engine = Engine(tiny)
    for each, reply in zip(questions, found, strict=True):
        [image] = each.load()
        alone = engine.answer_alone(image, each.prompt, BLINK, max_new_tokens=each.generation.max_new_tokens)
        columns = prompt_inputs(tiny, [image], [each.prompt])["input_ids"].shape[1]
        assert reply == Reply(alone.text, columns, len(alone.ids))
    assert found[0].text == "The purple object is a diamond."


def test_stop_texts_end_answers_and_their_counts(tiny: Backbone) -> None:
    """Would catch text behind a stop, and tokens behind it that are counted."""
    whole, cut, alone = answering(tiny).answer(
        [
            question(tiny, (1,)),
            question(tiny, (1,), generation=SHORT._replace(stops=("xyz", " object"))),
            question(tiny, (1,), generation=SHORT._replace(stops=(" object",), settings=(("num_beams", 1),))),
        ]
    )
    assert whole.text.startswith("The purple object is")
    assert cut.text == alone.text == "The purple"
    assert 0 < cut.new_tokens == alone.new_tokens < whole.new_tokens


def test_sampling_goes_through_attach_and_generate(tiny: Backbone) -> None:
    """Would catch samples of the backbone as it is, and a temperature that has no effect."""
    [image] = question(tiny, (1,)).load()
    generation = read_generation({"temperature": 3.0, "top_k": 20, "max_new_tokens": 6})
    asked = question(tiny, (1,), generation=generation)
    inputs = prompt_inputs(tiny, [image], [asked.prompt])
    drawn = set()
    for seed in range(4):
        torch.manual_seed(seed)
        [reply] = answering(tiny).answer([asked])
        torch.manual_seed(seed)
        handle = attach(tiny, BLINK.policy, BLINK.token_sr)  # type: ignore[arg-type]  # it has a policy
        ids = tiny.model.generate(
            **inputs, do_sample=True, temperature=3.0, top_k=20, top_p=None, max_new_tokens=6
        )
        handle.detach()
        text = tiny.processor.tokenizer.decode(
            ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        assert reply.text == text
        drawn.add(text)
    assert len(drawn) > 1


def test_no_picture_and_several_are_the_backbones_own_answers(tiny: Backbone) -> None:
    """Would catch Blink attached to a prompt that it refuses, and pictures that are left out."""
    both = question(tiny, (1, 2), "Is <image> red, or is <image>?")
    none = question(tiny, (), "Is it red?")
    found = answering(tiny).answer([both, none])
    inputs = tiny.processor(images=[both.load()], text=[both.prompt], return_tensors="pt")
    assert found[0].prompt_tokens == inputs["input_ids"].shape[1] > 2 * 144
    ids = tiny.model.generate(**inputs, do_sample=False, max_new_tokens=12)[0, inputs["input_ids"].shape[1] :]
    assert found[0].text == tiny.processor.tokenizer.decode(ids, skip_special_tokens=True)
    inputs = tiny.processor.tokenizer([none.prompt], return_tensors="pt")
    ids = tiny.model.generate(**inputs, do_sample=False, max_new_tokens=12)[0, inputs["input_ids"].shape[1] :]
    assert found[1].text == tiny.processor.tokenizer.decode(ids, skip_special_tokens=True)
    assert found[1].prompt_tokens == inputs["input_ids"].shape[1]


def test_numbers_that_are_not_finite_name_the_question(tiny: Backbone) -> None:
    """Would catch a run of hours that ends without a word about which picture it was."""
    weight = tiny.model.lm_head.weight
    kept = weight.data.clone()
    weight.data.fill_(float("nan"))
    try:
        for generation in (SHORT, SHORT._replace(settings=(("num_beams", 2),))):
            with pytest.raises(NotFiniteError, match=r"scene \(1,\)"):
                answering(tiny, Run()).answer([question(tiny, (1,), generation=generation)])
    finally:
        weight.data.copy_(kept)
