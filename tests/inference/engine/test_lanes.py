"""Halves of the pictures side by side, in threads of their own: the same answers, and one after the other where they may not."""

import cProfile
import gc
import multiprocessing
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.flop_counter import FlopCounterMode

import blink
from blink.inference.engine import Ask, Engine, lanes, schedule, wave
from blink.inference.engine.rows import Rotary
from blink.inference.engine.schedule import _cuts
from blink.inference.run import Run
from blink.model.backbone import Backbone
from blink.runs.values import NotFiniteError
from tests import models
from tests.inference.engine.test_many import SMALL, bare, mixed_asks, one_by_one
from tests.inference.oracle.comparison import rig


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As many as there are lanes, which models as small as these do not gain by."""
    monkeypatch.setattr(lanes, "_FEWEST_PRODUCTS", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(lanes.LANES)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def backbone() -> Backbone:
    """A small LLaVA."""
    model = rig(**SMALL).model
    return Backbone.of(model, models.processor(model))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the threads in which layers run that make keys of more than one token."""
    names: set[str] = set()
    run_layer = Backbone.run_layer

    def running(self: Backbone, layer: int, hidden_BNd: Tensor, *args: Any) -> Tensor:
        if hidden_BNd.shape[1] > 1:
            names.add(threading.current_thread().name)
        return run_layer(self, layer, hidden_BNd, *args)

    monkeypatch.setattr(Backbone, "run_layer", running)
    return names


BOTH = {"blink-lane_0", "blink-lane_1"}
MAIN = {"MainThread"}
MANY = 10**6
"""Tokens."""


def asks_of(count: int, runs: list[Run], processor: Any = None) -> list[Ask]:
    """Pictures with two prompts each."""
    prompts = [models.prompt(i, processor=processor) for i in range(2)]
    return [Ask(models.picture(number), prompts, runs) for number in range(count)]


def token_sr(backbone: Backbone, bias: float = 0.0) -> nn.Module:
    """A module of ours, whose output a bias is added to."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        module = blink.TokenSR(backbone.hidden_size)
        module.convolutions[-1].bias.add_(bias)  # type: ignore[operator]
    return module.eval()


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


def test_a_call_has_its_share_of_threads(backbone: Backbone) -> None:
    """Would catch two calls that share all threads, gradients, and threads of torch's that stay one where a call has ended."""

    def call() -> tuple[str, int, bool]:
        time.sleep(0.05)
        return threading.current_thread().name, torch.get_num_threads(), torch.is_inference_mode_enabled()

    torch.set_num_threads(6)
    found = [result() for result in lanes.side_by_side(backbone, [], [call, call])]
    assert {name for name, *_ in found} == BOTH
    assert [state for _, *state in found] == [[3, True]] * 2
    assert torch.get_num_threads() == 6
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [6]
    assert [result() for result in lanes.side_by_side(backbone, [], [call])] == [("MainThread", 6, False)]


@contextmanager
def _profiled() -> Iterator[None]:
    profile = cProfile.Profile()
    profile.enable()
    try:
        yield
    finally:
        profile.disable()


@contextmanager
def _patched(part: nn.Module) -> Iterator[None]:
    part.forward = part.forward
    try:
        yield
    finally:
        del part.forward


@contextmanager
def _compiled(part: nn.Module) -> Iterator[None]:
    part.compile(backend="eager")
    try:
        yield
    finally:
        part._compiled_call_impl = None


@contextmanager
def _threads(count: int) -> Iterator[None]:
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(lanes.LANES)


@contextmanager
def _held(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


def _nothing(*_: Any) -> None: ...


@contextmanager
def _limit(name: str, value: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes, name, value)
        yield


ALONE: dict[str, Callable[[Any], AbstractContextManager[Any]]] = {
    "autocast": lambda _: torch.autocast("cpu", torch.bfloat16),
    "default device": lambda _: torch.device("cpu"),
    "counter of FLOPs": lambda _: FlopCounterMode(display=False),
    "profiler": lambda _: torch.profiler.profile(),
    "Python's profiler": lambda _: _profiled(),
    "hook": lambda layer: _held(layer.mlp.register_forward_hook(_nothing)),
    "hook before": lambda layer: _held(layer.self_attn.q_proj.register_forward_pre_hook(_nothing)),
    "hook of all modules": lambda _: _held(register_module_forward_hook(_nothing)),
    "patch": lambda layer: _patched(layer.mlp.up_proj),
    "compiler": lambda layer: _compiled(layer),
    "one thread": lambda _: _threads(1),
    "three threads": lambda _: _threads(3),
    "large layers": lambda _: _limit("_MOST_BYTES", 1000),
    "little work": lambda _: _limit("_FEWEST_PRODUCTS", 10**12),
}
"""What a call in another thread would lack or disturb, or would not gain by."""


@pytest.mark.parametrize("name", ALONE)
def test_one_after_the_other(backbone: Backbone, seen: set[str], name: str) -> None:
    """Would catch operations that somebody counts, hooks or converts in this thread, and that run in another."""
    engine, asks = Engine(backbone), asks_of(4, [Run(), Run(blink.Policy((1,), 0, 0))])
    with ALONE[name](backbone.decoder.layers[1]):
        assert lanes.lanes(backbone, [], MANY) == 1
        if name != "compiler":
            list(engine.answer_many(asks, max_new_tokens=2))
            assert seen == MAIN
    assert lanes.lanes(backbone, [], MANY) == lanes.LANES
    list(engine.answer_many(asks, max_new_tokens=2))
    assert seen >= BOTH


def test_state_that_comes_between_two_answers(backbone: Backbone, seen: set[str]) -> None:
    """Would catch a choice made once, of waves that are on their way when a caller begins to count."""
    engine, asks = Engine(backbone, memory_gb=1e-6), asks_of(6, [Run(), Run(blink.Policy((1,), 0, 0))])
    want = one_by_one(engine, asks, 2)
    answers = engine.answer_many(asks, max_new_tokens=2, pictures=6)
    got = [bare(next(answers))]
    assert seen >= BOTH
    seen.clear()
    with FlopCounterMode(display=False) as counter:
        got += [bare(answer) for answer in answers]
    assert got == want
    assert seen == MAIN
    assert counter.get_total_flops() > 0


def test_recorded_states_are_no_hindrance(backbone: Backbone) -> None:
    """Would catch a model that has once given its hidden states, whose recorders stay, and is slow from then on."""
    inputs = models.processor(backbone.model)(
        images=[models.picture(0)], text=[models.prompt(0)], return_tensors="pt"
    )
    backbone.model(**inputs, output_hidden_states=True, output_attentions=False)
    assert lanes.lanes(backbone, [], MANY) == lanes.LANES


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


class Others(nn.Module):
    """A module of the caller's, which keeps what it is given."""

    def forward(self, region_BdHW: Tensor) -> Tensor:
        """Return what was kept."""
        self.region_BdHW = region_BdHW
        return self.region_BdHW


@pytest.mark.parametrize("kind", ["class", "training", "hook", "head"])
def test_code_of_others(backbone: Backbone, seen: set[str], kind: str) -> None:
    """Would catch what a module keeps for its next line overwritten by the other half, draws in an order of chance, and hooks
    of what a call runs beside the layers."""
    module = Others().eval() if kind == "class" else token_sr(backbone).train(kind == "training")
    asks = asks_of(4, [Run(), Run(blink.Policy((1,), 0, 0), {1: module})])
    with (
        nullcontext()
        if kind in ("class", "training")
        else _held((module if kind == "hook" else backbone.model.lm_head).register_forward_hook(_nothing))
    ):
        list(Engine(backbone).answer_many(asks, max_new_tokens=2))
    assert seen == MAIN


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


def test_calls_within_calls(backbone: Backbone) -> None:
    """Would catch an engine within a module, whose calls wait for the threads in which they were made."""
    torch.set_num_threads(2 * lanes.LANES)
    within = partial(lanes.lanes, backbone, [], MANY)
    assert [result() for result in lanes.side_by_side(backbone, [], [within, within])] == [1, 1]


def test_python_that_ends_begins_no_threads() -> None:
    """Would catch an error in a thread that goes on when the main thread has come to its end."""
    script = """
import threading, time
import torch
from blink.inference.engine import lanes
from blink.model.backbone import Backbone
from tests import models
torch.set_num_threads(lanes.LANES)
backbone = Backbone.of(models.llava(grid=6, kv_heads=2))
assert lanes._may(backbone, [])
def late():
    threading.main_thread().join()
    time.sleep(0.1)
    print([result() for result in lanes.side_by_side(backbone, [], [lambda: 1, lambda: 2])])
threading.Thread(target=late).start()
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert ended.stdout.strip() == "[1, 2]", ended.stderr


def test_nothing_goes_on_after_an_interrupt(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch layers that run on beside what the caller does next."""
    ended: list[int] = []
    wait = lanes.wait

    def interrupted(futures: Any) -> Any:
        monkeypatch.setattr(lanes, "wait", wait)
        raise KeyboardInterrupt

    def call() -> None:
        time.sleep(0.1)
        ended.append(1)

    monkeypatch.setattr(lanes, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lanes.side_by_side(backbone, [], [call, call])
    assert len(ended) == 2
    assert torch.get_num_threads() == lanes.LANES


@pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="this system has no fork")
def test_a_fork_has_threads_of_its_own(backbone: Backbone) -> None:
    """Would catch a worker process that waits for ever for threads which its parent has."""
    assert [result() for result in lanes.side_by_side(backbone, [], [lambda: 1, lambda: 2])] == [1, 2]
    process = multiprocessing.get_context("fork").Process(target=_runs_in_fork)
    process.start()
    process.join(30)
    hung = process.is_alive()
    process.kill()
    assert not hung
    assert process.exitcode == 0


def _runs_in_fork() -> None:
    assert lanes._threads().submit(sum, (1, 2)).result(10) == 3


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
