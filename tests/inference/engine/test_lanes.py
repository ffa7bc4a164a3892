"""Calls side by side in threads of their own, and one after the other where they may not; nothing of a thread is lost."""

import cProfile
import multiprocessing
import os
import subprocess
import sys
import threading
import time
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
from blink.inference.engine import Engine, lanes
from blink.inference.run import Run
from blink.model.backbone import Backbone
from tests import models
from tests.inference.engine.halves import BOTH, MAIN, asks_of, token_sr
from tests.inference.engine.test_many import bare, one_by_one

pytestmark = pytest.mark.usefixtures("two_threads")

MANY = 10**6
"""Tokens."""


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
