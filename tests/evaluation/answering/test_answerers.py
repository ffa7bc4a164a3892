"""A backbone's answers: the same shared or one by one, and the same as stock generate gives."""

import gc
import time
import weakref
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

from blink import Policy, Run, TokenSR
from blink.bench import Sample
from blink.evaluation.answering.answerers import BackboneAnswerer
from blink.evaluation.answering.predict import Asked, Reply
from blink.inference.engine import Answer
from blink.model.backbone import Backbone
from blink.model.checkpoints import load_backbone
from blink.model.prompts import TEMPLATES, conversation
from blink.runs.values import NotFiniteError, UserError
from tests import models

TEMPLATE = TEMPLATES["vicuna_v1"]
QUESTIONS = ("Is there a red circle?", "What colour is the small star left of the large dog?", "dog?")


@pytest.fixture
def backbone(llava_folder: Path) -> Backbone:
    return load_backbone(llava_folder)


def sample(number: int) -> Sample:
    """A sample about the one picture, with a question of its own length."""
    return Sample(
        id=str(number),
        image="picture",
        question=QUESTIONS[number],
        label="yes",
        split="random",
        open_image=lambda: models.picture(1),
    )


def runs() -> list[Run]:
    """The backbone as it is, Blink, Blink-interp, and Blink with random regions."""
    torch.manual_seed(0)
    modules = {layer: TokenSR(32).requires_grad_(False) for layer in (1, 2)}
    return [
        Run(),
        Run(Policy([1, 2], 0.3, 0.3), modules),
        Run(Policy([2], 0.2, 0)),
        Run(Policy([1, 2], 0, 0, selector="random"), modules),
    ]


def asked(answerer: BackboneAnswerer, samples: list[Sample], runs: list[int]) -> list[list[Answer]]:
    """Answers to samples about the one picture."""
    found = about(answerer, models.picture(1), samples, runs)
    return [[reply.answer for reply in of_run] for of_run in found]


def about(
    answerer: BackboneAnswerer, picture: Image.Image, samples: list[Sample], runs: list[int]
) -> list[list[Reply]]:
    """Replies to samples about a picture."""
    given = [replace(sample, open_image=lambda: picture) for sample in samples]
    [replies] = answerer.answer_many([Asked(given, runs)])
    return replies


def bare(
    answerer: BackboneAnswerer, samples: list[Sample], runs: list[int]
) -> list[list[tuple[object, ...]]]:
    """Answers and their costs without ratios, which differ in their last digits."""
    return [
        [
            (
                answer.text,
                answer.ids,
                flops,
                [(event.layer, event.region, event.action) for event in answer.events],
            )
            for answer, flops, _ in of_run
        ]
        for of_run in about(answerer, models.picture(1), samples, runs)
    ]


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_shared_and_apart_are_the_same(batch: int, backbone: Backbone) -> None:
    """Catches runs that are mixed up, answers in another order, and events of another run or sample."""
    samples = [sample(number) for number in range(3)]
    shared = BackboneAnswerer(backbone, TEMPLATE, runs(), max_new_tokens=6)
    apart = BackboneAnswerer(backbone, TEMPLATE, runs(), max_new_tokens=6, apart=batch)
    together = bare(shared, samples, [0, 1, 2, 3])
    assert together == bare(apart, samples, [0, 1, 2, 3])
    assert [[len(answer.events) for answer in of_run] for of_run in asked(shared, samples, [0, 1, 2, 3])] == [
        [events] * 3 for events in (0, 2, 1, 2)
    ]
    assert bare(shared, samples[1:], [3, 1]) == [together[3][1:], together[1][1:]]
    assert bare(apart, samples[1:], [3, 1]) == [together[3][1:], together[1][1:]]


@pytest.mark.parametrize("apart", [None, 1, 4])
def test_a_picture_too_narrow_is_answered_without_blink(apart: int | None) -> None:
    """Catches a sweep that one picture ends, runs of other splits that are spared with it, and costs of what was not done.

    A picture of 24 x 96 pixels gives 12 x 3 visual tokens, which 3 x 3 regions split and 4 x 4 do not.
    """
    model = models.family("qwen2_vl", layers=3)
    backbone = Backbone(model, models.processor(model))
    policies = [None, Policy([1], 0, 0, patches=3), Policy([1], 0, 0, patches=4)]
    runs = [Run(policy) for policy in policies]
    answerer = BackboneAnswerer(
        backbone, conversation(backbone.processor), runs, max_new_tokens=4, apart=apart
    )
    narrow, asked_two = models.picture(1, (24, 96)), [sample(0), sample(1)]
    stock, three, four = about(answerer, narrow, asked_two, [0, 1, 2])
    why = "the 12 x 3 grid of visual tokens cannot be split into 4 x 4 regions"
    assert [reply.without_blink for reply in (*stock, *three, *four)] == [None] * 4 + [why] * 2
    assert [(reply.answer, reply.flops) for reply in four] == [(reply.answer, reply.flops) for reply in stock]
    assert [len(reply.answer.events) for reply in (*three, *four)] == [1, 1, 0, 0]
    [wide] = about(answerer, models.picture(1), asked_two, [2])
    assert [(len(reply.answer.events), reply.without_blink) for reply in wide] == [(1, None)] * 2


@pytest.mark.parametrize("apart", [None, 1, 4])
def test_without_policy_it_is_stock_generate(apart: int | None, backbone: Backbone) -> None:
    """Catches a prompt, a decoding or a cut of the answer that differs from the plain library calls."""
    inputs = backbone.processor(
        images=models.picture(1), text=TEMPLATE.prompt(QUESTIONS[1]), return_tensors="pt"
    )
    ids = backbone.model.generate(**inputs, do_sample=False, max_new_tokens=6)[
        0, inputs["input_ids"].shape[1] :
    ]
    expected = backbone.processor.tokenizer.decode(ids, skip_special_tokens=True)
    answerer = BackboneAnswerer(backbone, TEMPLATE, runs(), max_new_tokens=6, apart=apart)
    [[answer]] = asked(answerer, [sample(1)], [0])
    assert answer == (tuple(ids.tolist()), expected, ())


@pytest.mark.parametrize("apart", [None, 1, 4])
def test_closing_token_ends_the_count(apart: int | None, backbone: Backbone) -> None:
    """Catches an answer that goes on behind its closing token, or ends with its neighbour's.

    The closing token is set to the one that the first sample generates first: its answer then has one token.
    """
    three = [sample(i) for i in range(3)]
    answerer = BackboneAnswerer(backbone, TEMPLATE, runs(), max_new_tokens=6, apart=apart)
    [[first, *_]] = asked(answerer, three, [0])
    backbone.model.generation_config.eos_token_id = [first.ids[0], 2]
    answerer = BackboneAnswerer(backbone, TEMPLATE, runs(), max_new_tokens=6, apart=apart)
    [[stopped, *others]] = asked(answerer, three, [0])
    assert stopped.ids == first.ids[:1]
    assert stopped.text.strip() == first.text.split()[0]
    assert max(len(answer.ids) for answer in others) > 1


def test_one_by_one_leaves_the_model_as_it_was(backbone: Backbone) -> None:
    """Catches Blink left in a model that the next run takes for vanilla, also when an answer fails."""
    answerer = BackboneAnswerer(backbone, TEMPLATE, runs(), max_new_tokens=2, apart=1)
    before = asked(answerer, [sample(0)], [0])
    asked(answerer, [sample(0)], [1])
    broken = {1: torch.nn.Flatten(), 2: torch.nn.Flatten()}
    failing = BackboneAnswerer(
        backbone, TEMPLATE, [Run(Policy([1], 0, 0), broken)], max_new_tokens=2, apart=1
    )
    with pytest.raises(ValueError, match="it must keep the shape"):
        asked(failing, [sample(0)], [0])
    assert asked(answerer, [sample(0)], [0]) == before


def _damaged(backbone: Backbone, part: str) -> None:
    """Write nan into a row of a part's weights, as a torn or badly converted checkpoint has it."""
    model, decoder = backbone.model, backbone.decoder
    weight = {
        "vision tower": model.model.vision_tower.encoder.layers[0].mlp.fc1.weight,
        "projector": model.model.multi_modal_projector.linear_1.weight,
        "layer 2": decoder.layers[2].mlp.down_proj.weight,
        "final norm": decoder.norm.weight,
        "language modelling head": model.lm_head.weight,
    }[part]
    weight.data.view(-1)[:32] = float("nan")


@pytest.mark.parametrize("apart", [None, 1, 4])
@pytest.mark.parametrize(
    "part", ["vision tower", "projector", "layer 2", "final norm", "language modelling head"]
)
def test_the_part_that_is_not_finite_is_named(part: str, apart: int | None, backbone: Backbone) -> None:
    """Catches empty answers of a damaged backbone, which some scorers count as right."""
    _damaged(backbone, part)
    answerer = BackboneAnswerer(backbone, TEMPLATE, runs(), max_new_tokens=2, apart=apart)
    with pytest.raises(NotFiniteError, match=f"^{part}, question 2: "):
        asked(answerer, [sample(2), sample(1)], [0])
    hooks = [hook for module in backbone.model.modules() for hook in module._forward_hooks.values()]
    assert not any("first_not_finite" in hook.__qualname__ for hook in hooks)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "smolvlm", "internvl"])
def test_parts_of_other_families_are_named(name: str) -> None:
    """Catches a search for the damaged part that knows the names of LLaVA's alone."""
    model = models.family(name, layers=2)
    backbone = Backbone(model, models.processor(model))
    part, words = {
        "qwen2_5_vl": ("visual", "visual"),
        "smolvlm": ("connector", "connector"),
        "internvl": ("multi_modal_projector", "projector"),
    }[name]
    for weight in getattr(model.model, part).parameters():
        weight.data.view(-1)[:8] = float("nan")
    answerer = BackboneAnswerer(backbone, conversation(backbone.processor), [Run()], max_new_tokens=2)
    with pytest.raises(NotFiniteError, match=f"^{words}, question 0: "):
        asked(answerer, [sample(0)], [0])


@pytest.mark.parametrize("apart", [None, 1, 4])
def test_modules_that_are_not_finite_are_named(apart: int | None, backbone: Backbone) -> None:
    """Catches nan of a TokenSR module above the last scan, laid to the backbone."""
    module = TokenSR(32)
    next(module.parameters()).data.view(-1)[0] = float("nan")
    answerer = BackboneAnswerer(
        backbone, TEMPLATE, [Run(), Run(Policy([3], 0, 0), {3: module})], max_new_tokens=2, apart=apart
    )
    with pytest.raises(NotFiniteError, match=r"^TokenSR modules.*, question 1: "):
        asked(answerer, [sample(1)], [0, 1])


def test_a_scan_names_its_layer(backbone: Backbone) -> None:
    """Catches a scan's own layer, which comes before the damaged one is found, lost on the way."""
    _damaged(backbone, "layer 2")
    answerer = BackboneAnswerer(backbone, TEMPLATE, [Run(Policy([3], 0, 0))], max_new_tokens=2)
    with pytest.raises(NotFiniteError, match=r"^layer 3, question 0: "):
        asked(answerer, [sample(0)], [0])


def several(broken: int | None = None) -> list[Asked]:
    """One to three samples about each of four pictures, of which one may have lost its file."""

    def opened(number: int) -> Image.Image:
        if number == broken:
            raise UserError(f"cannot read picture{number}")
        return models.picture(number)

    return [
        Asked(
            [
                replace(sample(i), id=f"{number}/{i}", open_image=partial(opened, number))
                for i in range(1 + number % 3)
            ],
            [1, 0] if number % 2 else [0],
        )
        for number in range(4)
    ]


def ids_of(answerer: BackboneAnswerer, asked: Sequence[Asked]) -> list[list[list[tuple[int, ...]]]]:
    return [
        [[reply.answer.ids for reply in of_run] for of_run in replies]
        for replies in answerer.answer_many(asked)
    ]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("zooms", [(), (1,)])
def test_many_pictures_are_each_alone(workers: int, zooms: Sequence[int], backbone: Backbone) -> None:
    """Catches answers given to another picture or run, inputs of another picture's, and a second pass that moves them."""
    which = [Run(), Run(Policy([2], 0.2, 0))]
    answerer = BackboneAnswerer(
        backbone, TEMPLATE, which, max_new_tokens=4, zooms=zooms, pictures=3, workers=workers
    )
    single = BackboneAnswerer(backbone, TEMPLATE, which, max_new_tokens=4, apart=1, zooms=zooms)
    together = ids_of(answerer, several())
    assert together == [ids_of(single, [one])[0] for one in several()]
    assert len({str(answers) for answers in together}) == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_a_picture_that_cannot_be_read_is_named(workers: int, backbone: Backbone) -> None:
    """Catches a worker's traceback in place of the line that says which picture."""
    answerer = BackboneAnswerer(backbone, TEMPLATE, [Run(), Run()], max_new_tokens=1, workers=workers)
    with pytest.raises(UserError, match=r"^cannot read picture2$"):
        ids_of(answerer, several(broken=2))


def test_the_right_one_of_many_is_named(backbone: Backbone) -> None:
    """Catches an error laid to another picture's question: a scan fails in the last picture alone, whose run is broken."""
    module = TokenSR(32)
    next(module.parameters()).data.view(-1)[0] = float("nan")
    answerer = BackboneAnswerer(
        backbone, TEMPLATE, [Run(), Run(Policy([3], 0, 0), {3: module})], max_new_tokens=2, pictures=4
    )
    with pytest.raises(NotFiniteError, match=r"^TokenSR modules.*, question 1/0: ") as caught:
        ids_of(answerer, several())
    assert "1/0" in str(caught.value.__notes__)


@pytest.mark.parametrize("zooms", [(), (1,)])
def test_pictures_are_let_go(zooms: Sequence[int], backbone: Backbone) -> None:
    """Would catch a run that holds every picture of a benchmark until its end."""
    opened: list[weakref.ref[Image.Image]] = []

    def picture(number: int) -> Image.Image:
        made = models.picture(number)
        opened.append(weakref.ref(made))
        return made

    runs = [Run(), Run(Policy([2], 0.2, 0))]
    answerer = BackboneAnswerer(backbone, TEMPLATE, runs, max_new_tokens=1, zooms=zooms, pictures=2)
    asked = [Asked([replace(sample(0), open_image=partial(picture, n))], [0, 1]) for n in range(8)]
    alive = []
    for _ in answerer.answer_many(asked):
        gc.collect()
        alive.append(sum(one() is not None for one in opened))
    assert len(opened) == 8
    assert max(alive) <= 4


def test_no_picture_is_begun_after_a_stop(backbone: Backbone) -> None:
    """Catches pictures that were under way and are lost, and more that are begun."""
    answerer = BackboneAnswerer(backbone, TEMPLATE, [Run(), Run()], max_new_tokens=1, pictures=1)
    asked: list[bool] = []

    def stop() -> bool:
        asked.append(len(asked) == 2)
        return asked[-1]

    assert len(list(answerer.answer_many(several(), stop))) == 2
    assert asked == [False, False, True]


@pytest.mark.parametrize("workers", [0, 1])
def test_time_in_which_the_model_waits_for_pictures_is_counted(workers: int, backbone: Backbone) -> None:
    """Catches time that slow pictures take and nobody would see."""
    answerer = BackboneAnswerer(backbone, TEMPLATE, [Run(), Run()], max_new_tokens=1, workers=workers)
    assert answerer.waited == 0
    slow = [Asked([replace(one.samples[0], open_image=_slowly)], one.runs) for one in several()[:2]]
    ids_of(answerer, slow)
    assert answerer.waited > 0.2 * (1 if workers else 2)


def _slowly() -> Image.Image:
    time.sleep(0.2)
    return Image.new("RGB", (40, 40))
