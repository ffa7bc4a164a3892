"""Zooming in after the fact, held against the stock model on a sequence that is put together by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from blink import Policy, Run
from blink.bench import Sample
from blink.evaluation.answering.answerers import BackboneAnswerer
from blink.evaluation.answering.predict import Asked
from blink.evaluation.planning.method import check_zoom
from blink.inference.engine import Answer
from blink.model.backbone import Backbone
from blink.model.checkpoints import load_backbone
from blink.model.prompts import TEMPLATES
from tests import models
from tests.flops import counted_forward

TEMPLATE = TEMPLATES["vicuna_v1"]
QUESTIONS = ("Is there a red circle?", "What colour is the small star left of the large dog?", "dog?")
LOOK = Policy([1, 2], 0, 0)
SIDE = 60
HALF = SIDE // 2


@pytest.fixture
def backbone(llava_folder: Path) -> Backbone:
    return load_backbone(llava_folder)


def image() -> Image.Image:
    return models.picture(1, (SIDE, SIDE))


def samples(box: list[int] | None = None) -> list[Sample]:
    return [
        Sample(str(i), "picture", question, "yes", "random", image, {"box": box})
        for i, question in enumerate(QUESTIONS)
    ]


def answers(
    backbone: Backbone, policies: list[Policy | None], asked: list[Sample], apart: int | None = None
) -> list[list[Answer]]:
    """What each policy answers; those there are, in two passes."""
    zooms = [number for number, policy in enumerate(policies) if policy is not None]
    runs = [Run(policy) for policy in policies]
    answerer = BackboneAnswerer(backbone, TEMPLATE, runs, max_new_tokens=6, apart=apart, zooms=zooms)
    [replies] = answerer.answer_many([Asked(asked, range(len(runs)))])
    return [[reply.answer for reply in of_run] for of_run in replies]


def by_hand(backbone: Backbone, question: str, region: int) -> tuple[Tensor, dict[str, Any]]:
    """Greedy ids of the stock model on [text; picture; crop; text], and that sequence."""
    model, processor = backbone.model, backbone.processor
    inputs = processor(images=[image()], text=[TEMPLATE.prompt(question)], return_tensors="pt")
    left, top = (region % 2) * HALF, (region // 2) * HALF
    crop = image().crop((left, top, left + HALF, top + HALF))
    pixels = processor.image_processor([crop], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        embeds_1Sd = model.get_input_embeddings()(inputs["input_ids"])
        at = (inputs["input_ids"][0] == model.config.image_token_id).nonzero()[:, 0]
        whole, zoomed = (
            model.get_image_features(pixel_values=p).pooler_output[0]
            for p in (inputs["pixel_values"], pixels)
        )
        first, last = int(at[0]), int(at[-1]) + 1
        parts = (embeds_1Sd[0, :first], whole, zoomed, embeds_1Sd[0, last:])
        sequence = {"inputs_embeds": torch.cat(parts)[None]}
        ids = model.generate(**sequence, do_sample=False, max_new_tokens=6)
    return ids[0], sequence


def test_the_second_pass_is_the_stock_model_with_the_crop_behind_the_picture(backbone: Backbone) -> None:
    """Would catch a crop of another region, tokens before the picture, and an event of a layer that was not looked at."""
    stock, looked, boxed = answers(
        backbone, [None, LOOK, Policy([1], 0, 0, selector="box")], samples([HALF, 0, SIDE, HALF])
    )
    assert all(answer.events == () for answer in stock)
    for chosen in (looked, boxed):
        for question, answer in zip(QUESTIONS, chosen, strict=True):
            [event] = answer.events
            assert (event.layer, event.action) == (1, "expand")
            ids, _ = by_hand(backbone, question, event.region)
            assert list(answer.ids) == ids[: len(answer.ids)].tolist()
    assert {answer.events[0].region for answer in boxed} == {1}
    assert [a.events[0].ratio for a in boxed] == [a.events[0].ratio for a in looked]


def test_what_is_not_looked_at_closer_keeps_its_first_answer(backbone: Backbone) -> None:
    """Would catch a second pass below the threshold, or about a question that has no box."""
    ratios = [answer.events[0].ratio for answer in answers(backbone, [LOOK], samples())[0]]
    above = (sorted(ratios)[1] + sorted(ratios)[2]) / 2
    stock, some, boxless = answers(
        backbone, [None, Policy([1], above, 0), Policy([1], 0, 0, selector="box")], samples()
    )
    zoomed = [answer.events[0].action == "expand" for answer in some]
    assert zoomed == [ratio > above for ratio in ratios]
    for first, answer, other in zip(stock, some, boxless, strict=True):
        assert answer.events[0].action == "expand" or answer.ids == first.ids
        assert (other.ids, other.events[0].action) == (first.ids, "keep")


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (1, 5)])
def test_pictures_of_a_few_pixels(backbone: Backbone, size: tuple[int, int]) -> None:
    """Would catch a region that is handed on in pixels: of a picture with fewer pixels than cells it is another, or none."""
    answerer = BackboneAnswerer(
        backbone, TEMPLATE, [Run(LOOK), Run(LOOK)], max_new_tokens=2, apart=1, zooms=[0]
    )
    for picture in (models.noise(seed, size) for seed in range(4)):
        asked = [replace(sample, open_image=picture.copy) for sample in samples()]
        [replies] = answerer.answer_many([Asked(asked, range(2))])
        for twice, once in zip(*replies, strict=True):
            [event] = twice.answer.events
            assert (event.action, event.region) == ("expand", once.answer.events[0].region)


def test_shared_and_one_by_one_are_the_same(backbone: Backbone) -> None:
    """Catches answers of one question given to another where only some are zoomed."""
    ratios = sorted(answer.events[0].ratio for answer in answers(backbone, [LOOK], samples())[0])
    policies: list[Policy | None] = [Policy([1], sum(ratios[:2]) / 2, 0), None]
    shared, *apart = (answers(backbone, policies, samples(), batch) for batch in (None, 1, 4))
    for found in apart:
        assert [[a.ids for a in of_run] for of_run in shared] == [[a.ids for a in of_run] for of_run in found]
    assert len({answer.events[0].action for answer in shared[0]}) == 2


def test_both_passes_are_counted(backbone: Backbone) -> None:
    """Would catch a pass, the crop's encoding or the longer sequence left out of the cost."""
    answerer = BackboneAnswerer(
        backbone, TEMPLATE, [Run(Policy([1], 0, 0)), Run()], max_new_tokens=1, zooms=[0]
    )
    [sample] = samples()[:1]
    [[[zoomed], [stock]]] = answerer.answer_many([Asked([sample], [0, 1])])
    model, processor = backbone.model, backbone.processor
    inputs = processor(images=[image()], text=[TEMPLATE.prompt(sample.question)], return_tensors="pt")
    _, sequence = by_hand(backbone, sample.question, zoomed.answer.events[0].region)
    settings: dict[str, Any] = {"do_sample": False, "max_new_tokens": 1, "min_new_tokens": 1}
    first = counted_forward(lambda: model.generate(**inputs, **settings))
    second = counted_forward(lambda: model.generate(**sequence, **settings))
    tower = counted_forward(lambda: model.get_image_features(pixel_values=inputs["pixel_values"]))
    scan = 2 * inputs["input_ids"].shape[1] * model.config.text_config.hidden_size
    assert stock.flops == first
    assert zoomed.flops == first + second + tower + scan


def test_settings_without_a_meaning_are_refused() -> None:
    """Catches a random region that the first pass never looked at."""
    check_zoom(LOOK)
    for policy in (Policy([1], selector="random"), Policy([1], schedule="cycle")):
        with pytest.raises(ValueError, match="method=zoom with"):
            check_zoom(policy)
