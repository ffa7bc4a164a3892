"""Whatever the memory, the answers are the same; how much a picture takes is known."""

from typing import Any

import pytest
import torch

import blink
from blink.inference.engine import Engine, schedule, wave
from blink.inference.engine.sharing import extensions
from blink.inference.engine.sharing.trunk import Trunk, run_layer_once, run_trunks
from tests import models
from tests.inference.engine.against_attach import SMALL, everything, same
from tests.inference.oracle.comparison import rig


def test_any_memory_gives_the_same_answers() -> None:
    """Would catch rows lost or doubled where they wait for each other, extensions forgotten while in use, and rows
    that run together once they have parted, though they do not fit.
    """
    model = rig(**SMALL).model
    rows: list[int] = []
    hook = model.model.language_model.layers[4].mlp.register_forward_pre_hook(
        lambda _, inputs: rows.append(len(inputs[0]))
    )
    try:
        plenty = everything(Engine(model, models.processor(model)))
        wide = max(rows)
        rows.clear()
        scarce = everything(Engine(model, models.processor(model), memory_gb=1e-6))
    finally:
        hook.remove()
    assert same(plenty, scarce)
    assert wide > 3
    assert set(rows) == {1}


def test_out_of_memory_halves_the_rows() -> None:
    """Would catch a run that dies where smaller pieces would do, and answers lost or doubled on the way."""
    model = rig(**SMALL).model
    plenty = everything(Engine(model, models.processor(model)))
    seen: list[int] = []

    def run_out(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        rows, tokens = inputs[0].shape[:2]
        seen.append(rows if tokens < 30 else 0)
        if seen[-1] > 4:
            raise torch.OutOfMemoryError("no room")

    hooks = [layer.mlp.register_forward_pre_hook(run_out) for layer in model.model.language_model.layers]
    try:
        engine = Engine(model, models.processor(model))
        halved = everything(engine)
        assert max(seen) > 4
        seen.clear()
        again = everything(engine)
        assert max(seen) <= 4
    finally:
        for hook in hooks:
            hook.remove()
    assert same(plenty, halved)
    assert same(plenty, again)


@pytest.mark.parametrize(
    ("policy", "extended"),
    [
        (None, 0),
        (blink.Policy.never((1, 2)), 0),
        (blink.Policy((1,), 0.0), 3),
        (blink.Policy((3,), 0.0), 1),
    ],
)
def test_bytes_of_a_picture(
    policy: blink.Policy | None, extended: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch room kept for extensions in layers where none can live, and pictures that take more than is thought."""
    model = rig(**SMALL, layers=4).model
    told: list[int] = []
    kept: list[int] = []

    def running(*args: Any) -> list[Trunk]:
        [trunk] = run_trunks(*args)
        entering = sum(part.untyped_storage().nbytes() for part in trunk.visual.values())
        kept.append(entering + sum(part.nbytes for of_layer in trunk.layers for part in of_layer))
        return [trunk]

    def extending(*args: Any) -> Any:
        hidden, new = run_layer_once(*args)
        kept.append(sum(part.nbytes for part in new))
        return hidden, new

    monkeypatch.setattr(schedule.Pace, "seen", lambda _, picture_bytes: told.append(picture_bytes))
    monkeypatch.setattr(wave, "run_trunks", running)
    monkeypatch.setattr(extensions, "run_layer_once", extending)
    engine = Engine(model, models.processor(model))
    engine.answer(models.picture(0), [models.prompt(0)], [blink.Run(policy)], max_new_tokens=2)
    assert len(kept) == 1 + extended
    assert told == [sum(kept)]


def test_pictures_at_once_double_while_answers_become_cheaper() -> None:
    """Would catch a gain of a few percent that is left, a size that is kept though it costs more, and waves that say nothing."""
    pace = schedule.Pace(max_bytes=100)
    pace.seen(picture_bytes=1)
    pace.measured(8.0, answers=8, pictures=8)
    pace.measured(1.0, answers=8, pictures=5)  # the last ones, fewer than there is room for
    assert pace.pictures == 16
    pace.measured(15.6, answers=16, pictures=16)
    assert pace.pictures == 32
    pace.measured(32.0, answers=32, pictures=32)
    pace.measured(1.0, answers=16, pictures=16)
    assert pace.pictures == 16
    pace.seen(picture_bytes=10)
    assert pace.pictures == 10
