"""Memory that runs out, once at any place or beyond some rows: the answers are the same, and none is lost."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import blink
from blink.inference.engine import Ask, Engine, pool, schedule, wave
from blink.inference.engine.decoding import next_ids
from blink.inference.engine.pool import Pool
from blink.inference.engine.slots import Slots
from blink.inference.engine.wave import Wave
from blink.inference.run import Run
from blink.model.backbone import Backbone
from tests import models
from tests.inference.engine.test_many import SMALL, bare, one_by_one
from tests.inference.oracle.comparison import modules_of, rig

Answering = Callable[[], list[Any]]


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Answering:
    """Answers questions of which half end early, with several rows at any time, whose slots grow every few tokens."""
    model = rig(**SMALL, layers=2).model
    runs = [Run(), Run(blink.Policy((1,), 0.3, 0.26), modules_of(model))]
    asks = [
        Ask(
            models.picture(i, [(60, 60), (90, 40)][i % 2]),
            [models.prompt(10 * i + j, words=2 + j, system="") for j in range(1 + i % 2)],
            runs,
        )
        for i in range(8)
    ]
    processor, config = models.processor(model), model.generation_config

    def answer() -> list[Any]:
        engine = Engine(model, processor)
        return [bare(answers) for answers in engine.answer_many(asks, max_new_tokens=12, pictures=5)]

    monkeypatch.setattr(pool, "_GROWTH", 1)
    monkeypatch.setattr(config, "eos_token_id", None)
    found = [set(ids) for of_ask in answer() for of_run in of_ask for ids, _, _ in of_run]
    half = min(set.union(*found), key=lambda token: abs(sum(token in ids for ids in found) - len(found) / 2))
    monkeypatch.setattr(config, "eos_token_id", half)
    return answer


class RunsOut(TorchDispatchMode):
    """Counts tensors that are made while it is entered, and calls of some functions; the n-th finds no memory."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.left = n

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, unless it is the n-th that makes a tensor."""
        if not (func.is_view or func._schema.is_mutable):
            self._count()
        return func(*args, **(kwargs or {}))

    def entered(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function whose tensors are counted."""

        def inside(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return inside

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function whose calls are counted."""

        def inside(*args: Any, **kwargs: Any) -> Any:
            self._count()
            return function(*args, **kwargs)

        return inside

    def _count(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise torch.OutOfMemoryError("no room")


def test_memory_runs_out_once(answer: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch state that is half changed wherever memory is taken, from a picture to the last token of an answer."""
    beside: list[int] = []
    enter = Pool.enter

    def entering(self: Pool, waiting: Any) -> int:
        live = len(self.rows)
        beside.append(live if (entered := enter(self, waiting)) else 0)
        return entered

    with monkeypatch.context() as patch:
        patch.setattr(Pool, "enter", entering)
        want = answer()
    assert max(beside) > 0
    failures = 0
    while True:
        runs_out = RunsOut(failures + 1)
        with monkeypatch.context() as patch:
            for name in ("enter", "_arrange", "leave"):
                patch.setattr(Pool, name, runs_out.entered(getattr(Pool, name)))
            patch.setattr(Slots, "reach", runs_out.entered(Slots.reach))
            for room in (pool, wave):
                patch.setattr(room, "next_ids", runs_out.counted(next_ids))
            patch.setattr(Backbone, "run_layer", runs_out.counted(Backbone.run_layer))
            assert answer() == want, failures
        if runs_out.left > 0:
            break
        failures += 1
    assert failures > 100


@pytest.mark.parametrize("place", ["enter", "reach", "arrange", "step", "prompt"])
def test_memory_for_three_rows(answer: Answering, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """Would catch rows that are tried again as many as before, and rows that go on without their keys."""
    want, tried, allowed = answer(), [], []

    def at_most_three(function: Callable[..., Any], rows: Callable[..., int]) -> Callable[..., Any]:
        def limited(*args: Any) -> Any:
            tried.append(rows(*args))
            if tried[-1] > 3:
                raise torch.OutOfMemoryError("no room")
            allowed.append(tried[-1])
            return function(*args)

        return limited

    places: dict[str, tuple[Any, str, Callable[..., int]]] = {
        "enter": (Slots, "fill", lambda slots, taken, _: max(taken) + 1),
        "reach": (Slots, "reach", lambda slots, S, *_: max(S, slots.S)),
        "arrange": (Pool, "_arrange", lambda of_rows: len(of_rows.rows)),
        "step": (pool, "next_ids", lambda _, hidden_rd: len(hidden_rd)),
        "prompt": (wave, "next_ids", lambda _, hidden_rd: len(hidden_rd)),
    }
    room, name, rows = places[place]
    monkeypatch.setattr(room, name, at_most_three(getattr(room, name), rows))
    assert answer() == want
    assert max(tried) > 3 >= max(allowed) > 1


def test_a_picture_waits_for_room_beside_others(answer: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a run that ends, or tries again for ever, where the others' end would make room for one picture."""
    want, failed = answer(), []
    begin = schedule.Schedule._begin

    def beginning(self: schedule.Schedule, asks: Any) -> None:
        def full(*args: Any, **kwargs: Any) -> Wave:
            if len(self._open) + len(args[1]) > 2:
                failed.append(len(args[1]))
                raise torch.OutOfMemoryError("no room")
            return Wave(*args, **kwargs)

        monkeypatch.setattr(schedule, "Wave", full)
        begin(self, asks)

    monkeypatch.setattr(schedule.Schedule, "_begin", beginning)
    assert answer() == want
    assert failed


def test_modules_wait_for_room(answer: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a run that ends where an ask's modules are placed beside rows whose end would make room for them."""
    want = answer()
    pools: list[Pool] = []
    refused: list[int] = []
    enter, check = Pool.enter, Engine._check

    def entering(self: Pool, waiting: Any) -> int:
        pools[:] = [self]
        return enter(self, waiting)

    def checking(self: Engine, number: int, ask: Ask) -> Any:
        if pools and pools[0].rows:
            refused.append(number)
            raise torch.OutOfMemoryError("no room")
        return check(self, number, ask)

    monkeypatch.setattr(Pool, "enter", entering)
    monkeypatch.setattr(Engine, "_check", checking)
    assert answer() == want
    assert refused


@pytest.mark.parametrize("broken", ["reading", "asking"])
def test_what_comes_before_an_error_is_answered(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    """Would catch pictures that wait for memory and are forgotten once nothing more is read, and with them the error."""
    model = rig(**SMALL, layers=2).model
    engine = Engine(model, models.processor(model))
    asked = [Ask(models.picture(i), [models.prompt(i)], [Run()]) for i in range(4)]
    want = one_by_one(engine, asked, 3)

    def asks() -> Iterator[Ask]:
        yield from asked
        if broken == "reading":
            raise OSError("no such picture")
        yield Ask(models.picture(3), ["what?"], [Run()])

    def full(*args: Any, **kwargs: Any) -> Wave:
        if len(args[1]) > 1:
            raise torch.OutOfMemoryError("no room")
        return Wave(*args, **kwargs)

    monkeypatch.setattr(schedule, "Wave", full)
    results = engine.answer_many(asks(), max_new_tokens=3, pictures=8)
    assert [bare(next(results)) for _ in range(4)] == want
    with pytest.raises((OSError, ValueError), match=r"^no such picture|^ask 4: prompt 0 has 0"):
        next(results)
