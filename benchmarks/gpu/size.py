"""How large the backbone is and how much is measured: LLaVA-1.5-7B on a GPU, or a small stand-in on the CPU."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from benchmarks.common import DTYPES, Bench, Row
from blink.model.backbone import Backbone
from blink.model.dimensions import Dimensions
from blink.model.prompts import template_named
from blink.runs.machine import peak_memory_mb
from tests import models


class Size(NamedTuple):
    """What is measured.

    Attributes:
        name: for the table.
        layers: decoder layers.
        dtype: of the weights.
        scanned: the paper's layers for MME, ascending; the last one is its layer for POPE.
        repeats: of each side of a comparison.
        answer: tokens of a long answer; a short one has four.
        pope, mme, mmvet: pictures of each kind of work, with 18, 2 and 1 questions.
        batches: sizes of stock `generate`'s batches that are tried.
    """

    name: str
    layers: int
    dtype: str
    scanned: tuple[int, ...]
    repeats: int
    answer: int
    pope: int
    mme: int
    mmvet: int
    batches: tuple[int, ...]


FULL = Size("LLaVA-1.5-7B, bfloat16", 32, "bfloat16", tuple(range(12, 19)), 20, 48, 4, 16, 16, (4, 16, 32))
SMALL = Size("small, float32", 5, "float32", (1, 2, 3), 2, 6, 1, 2, 2, (2,))


def backbone(size: Size, attention: str = "sdpa") -> Bench:
    """A backbone of that size with random weights, on the GPU if there is one."""
    if size is SMALL:
        model = models.llava(layers=size.layers, attention=attention).requires_grad_(False).to(device())
    else:
        model = models.true_width(
            layers=size.layers, dtype=DTYPES[size.dtype], attention=attention, device=device()
        )
    return Bench(
        size.name,
        wide=True,
        backbone=Backbone(model, models.processor(model)),
        template=template_named("vicuna_v1"),
        dims=Dimensions.of(model, size.dtype),
    )


def device() -> str:
    """Where everything runs."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def seconds(run: Callable[[], object], repeats: int, *, warm_up: bool = True) -> list[float]:
    """Seconds of each repetition on the wall, the device's work included, after an unmeasured one."""
    found = []
    for repeat in range(-1 if warm_up else 0, repeats):
        started = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if repeat >= 0:
            found.append(time.perf_counter() - started)
    return found


def peak_gb(run: Callable[[], object]) -> float | None:
    """Most GB of the GPU's memory while something runs, weights included; None without a GPU."""
    if not torch.cuda.is_available():
        run()
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    run()
    return peak_memory_mb() * 2**20 / 1e9


def told(what: str, where: str, value: float, unit: str, note: str = "") -> Row:
    """A number that no bar is set for."""
    return Row(f"{what}, {unit}", where, value, value, value, "", True, None, note)
