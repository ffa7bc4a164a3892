"""Tests of many questions and policies about one picture, and about many.

Files of the room that are tested where they are used:

    asks.py        test_asks.py, test_many.py
    rows.py        test_engine.py, test_many.py
    branching.py   test_engine.py
    decoding.py    test_decoding.py, inference/test_numbers.py
    slots.py       test_pool.py, test_many.py
    wave.py        test_many.py, test_halves.py
    schedule.py    test_schedule.py, test_many.py, test_halves.py
"""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from blink.inference.engine import lanes
from blink.model.backbone import Backbone
from tests import models
from tests.inference.engine.against_attach import SMALL
from tests.inference.oracle.comparison import rig


@pytest.fixture
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
