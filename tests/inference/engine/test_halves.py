"""Halves of the pictures side by side: the answers, errors and memory of one after the other."""

import gc
import threading
import time
import weakref
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import blink
from blink.inference.engine import Ask, Engine, schedule, wave
from blink.inference.engine.rows import Rotary
from blink.inference.engine.schedule import _cuts
from blink.inference.run import Run
from blink.model.backbone import Backbone
from blink.runs.values import NotFiniteError
from tests import models
from tests.inference.engine.halves import BOTH, MAIN, asks_of, token_sr
from tests.inference.engine.test_many import bare, mixed_asks, one_by_one

pytestmark = pytest.mark.usefixtures("two_threads")


@pytest.mark.parametrize("pictures", [None, 1, 2, 4])
def test_equals_one_picture_at_a_time(backbone: Backbone, seen: set[str], pictures: int | None) -> None:
    """Would catch halves that read what the other writes, answers of the other half, and lanes that never run."""
    modules = {layer: token_sr(backbone, layer) for layer in range(4)}
    engine, asks = Engine(backbone), mixed_asks(backbone.model, modules)
    want = one_by_one(engine, asks, 5)
    assert seen == MAIN  # one picture
    got = [bare(answers) for answers in engine.answer_many(iter(asks), max_new_tokens=5, pictures=pictures)]
    assert got == want
    assert seen == (MAIN if pictures == 1 else MAIN | BOTH)


@pytest.mark.parametrize("name", models.SMALL)
def test_every_family(name: str, seen: set[str]) -> None:
    """Would catch a family whose layers or positions keep something from call to call."""
    model: Any = models.family(name, layers=3)
    backbone = Backbone(model, models.processor(model))
    token = backbone.processor.image_token
    runs = [Run(), Run(blink.Policy((1,), 0.3, 0.26)), Run(blink.Policy((0, 2), 0, 0, positions="region"))]
    sizes = ((60, 60), (120, 44), (28, 90), (60, 60), (44, 60))
    asks = [
        Ask(
            models.picture(number, size),
            [f"{token} is there a {thing}?" for thing in ("dog", "red cat")],
            runs,
        )
        for number, size in enumerate(sizes)
    ]
    engine = Engine(backbone)
    want = one_by_one(engine, asks, 4)
    seen.clear()
    for _ in range(3):
        assert [bare(answers) for answers in engine.answer_many(asks, max_new_tokens=4)] == want
    assert seen == BOTH


def test_regions_encoded_anew(backbone: Backbone, seen: set[str]) -> None:
    """Would catch a vision tower called in two threads, whose forward may be patched while it records."""
    engine = Engine(backbone)
    asks = asks_of(4, [Run(), Run(blink.Policy((1,), 0, 0, source="encode"))])
    want = one_by_one(engine, asks, 3)
    assert [bare(answers) for answers in engine.answer_many(asks, max_new_tokens=3)] == want
    assert seen == MAIN


def test_what_is_not_finite_is_named(backbone: Backbone, seen: set[str]) -> None:
    """Would catch an error of one half that hides the answers of the other, or its own ask."""
    bad = Run(blink.Policy([1], 0, 0), {1: token_sr(backbone, float("nan"))})
    asks = [
        ask._replace(runs=[Run(), bad]) if number in (3, 5) else ask
        for number, ask in enumerate(asks_of(7, [Run()]))
    ]
    engine = Engine(backbone)
    want = one_by_one(engine, asks[:3], 3)
    seen.clear()
    answers = engine.answer_many(asks, max_new_tokens=3, pictures=7)
    assert [bare(next(answers)) for _ in range(3)] == want
    with pytest.raises(NotFiniteError) as raised:
        next(answers)
    assert (raised.value.ask, raised.value.sample) == (3, 0)
    assert seen >= BOTH


def test_errors_of_modules_arrive(backbone: Backbone) -> None:
    """Would catch an error that is lost in its thread, or comes in another's name."""
    runs = [Run(), Run(blink.Policy([1], 0, 0), {1: nn.Conv2d(7, 7, 1).eval()})]
    asks = [ask._replace(runs=runs) if number == 3 else ask for number, ask in enumerate(asks_of(4, [Run()]))]
    with pytest.raises(RuntimeError, match="to have 7 channels"):
        list(Engine(backbone).answer_many(asks, max_new_tokens=3))


@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("place", ["making", "prompts"])
def test_memory_runs_out_in_a_half(
    backbone: Backbone, seen: set[str], monkeypatch: pytest.MonkeyPatch, place: str, half: int
) -> None:
    """Would catch rows of the half that had room, lost or answered twice, and a half that is never tried again."""
    engine, asks = Engine(backbone), asks_of(8, [Run(), Run(blink.Policy((1,), 0, 0))])
    want = one_by_one(engine, asks, 3)
    failed: list[str] = []
    make, advance = wave.Wave, wave.Wave.advance

    def run_out(asked: Any) -> None:
        if asked[0].number == 4 * half and len(failed) < 3:
            failed.append(threading.current_thread().name)
            raise torch.OutOfMemoryError("no room")

    def making(backbone: Backbone, asked: Any, *args: Any, **kwargs: Any) -> wave.Wave:
        if len(asked) > 1:
            run_out(asked)
        return make(backbone, asked, *args, **kwargs)

    def advancing(self: wave.Wave, most: int) -> Any:
        run_out(self._asks)
        return advance(self, most)

    if place == "making":
        monkeypatch.setattr(schedule, "Wave", making)
    else:
        monkeypatch.setattr(wave.Wave, "advance", advancing)
    assert [bare(answers) for answers in engine.answer_many(asks, max_new_tokens=3, pictures=8)] == want
    assert failed[0] in BOTH
    assert seen >= BOTH


def rows_at_once(monkeypatch: pytest.MonkeyPatch, most: int, failing: int | None = None) -> None:
    """Memory for so many rows, of both halves together; and the prompts of a picture are not finite."""
    lock, under_way, advance = threading.Lock(), [0], wave.advance

    def advancing(shared: Any, rows: Any) -> Any:
        if any(question.ask == failing for question in rows.questions):
            raise NotFiniteError("the saliency ratio", ask=failing, sample=0)
        with lock:
            under_way[0] += len(rows)
            too_many = under_way[0] > most
        try:
            time.sleep(0.01)  # the other half begins
            if too_many:
                raise torch.OutOfMemoryError("no room")
            return advance(shared, rows)
        finally:
            with lock:
                under_way[0] -= len(rows)

    monkeypatch.setattr(wave, "advance", advancing)


@pytest.mark.parametrize("policies", [0, 2])
def test_memory_for_one_row_of_both_halves(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, policies: int
) -> None:
    """Would catch an error where a row of each half is too much, or what it splits into, and one row alone is not."""
    runs = [Run(), *(Run(blink.Policy((1 + number,), 0, 0)) for number in range(policies))]
    engine, asks = Engine(backbone), [ask._replace(prompts=ask.prompts[:1]) for ask in asks_of(2, runs)]
    want = one_by_one(engine, asks, 3)
    rows_at_once(monkeypatch, 1)
    assert [bare(answers) for answers in engine.answer_many(asks, max_new_tokens=3, pictures=2)] == want


def test_memory_runs_out_in_a_half_that_is_let_go(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch an error about rows that the other half's error has let go."""
    engine, asks = Engine(backbone), asks_of(6, [Run()])
    want = one_by_one(engine, asks[:1], 3)
    rows_at_once(monkeypatch, 4, failing=1)
    answers = engine.answer_many(asks, max_new_tokens=3, pictures=6)
    assert bare(next(answers)) == want[0]
    with pytest.raises(NotFiniteError) as raised:
        next(answers)
    assert raised.value.ask == 1


def test_a_half_is_let_go_before_its_turn(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch rows looked for that an error has let go, where halves have come to run one after the other."""
    monkeypatch.setattr(schedule, "side_by_side", lambda *given: list(given[-1]))
    rows_at_once(monkeypatch, 100, failing=1)
    answers = Engine(backbone).answer_many(asks_of(6, [Run()]), max_new_tokens=3, pictures=6)
    next(answers)
    with pytest.raises(NotFiniteError):
        next(answers)


def test_a_half_that_failed_is_let_go(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch keys and values that stay until Python looks for circles, of halves whose pictures are tried again."""
    made: list[weakref.ref[wave.Wave]] = []

    class Made(wave.Wave):
        def __init__(self, backbone: Backbone, asks: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(backbone, asks, *args, **kwargs)
            made.append(weakref.ref(self))
            if len(asks) > 1:
                raise ValueError("too many")

    monkeypatch.setattr(schedule, "Wave", Made)
    gc.collect()
    gc.disable()
    try:
        assert len(list(Engine(backbone).answer_many(asks_of(4, [Run()]), max_new_tokens=2, pictures=4))) == 4
        assert [one() for one in made if one() is not None] == []
    finally:
        gc.enable()


def test_rotary_embeddings_never_shrink() -> None:
    """Would catch positions that one thread needs and another, which asked for fewer and came last, has taken away."""
    entered = threading.Event()

    class Slow:
        device = torch.device("cpu")
        family = type("Family", (), {"axes": 1})

        def rotary(self, position_C1N: Tensor) -> tuple[Tensor, Tensor]:
            if position_C1N.shape[-1] < 10:
                entered.set()
                time.sleep(0.2)
            cos = position_C1N[..., None].float()
            return cos, cos

    rotary = Rotary(Slow())  # type: ignore[arg-type]
    few = threading.Thread(target=partial(rotary.reach, 5))
    few.start()
    entered.wait()
    rotary.reach(20)
    few.join()
    assert rotary.frame(torch.tensor([[19]])).rotary[0].item() == 19


@pytest.mark.parametrize(
    ("sizes", "count", "cuts"),
    [
        ([1, 1, 1, 1], 2, [0, 2, 4]),
        ([1, 1, 1, 1], 1, [0, 4]),
        ([9, 1, 1, 1], 2, [0, 1, 4]),
        ([1, 1, 1, 9], 2, [0, 3, 4]),
        ([0, 0, 5], 3, [0, 1, 2, 3]),
        ([3, 3, 3, 3, 3, 3], 3, [0, 2, 4, 6]),
        ([5, 1], 2, [0, 1, 2]),
    ],
)
def test_cuts(sizes: list[int], count: int, cuts: list[int]) -> None:
    """Would catch halves of which one is empty, and halves by pictures, whose prompts differ in number."""
    assert _cuts(sizes, count) == cuts
