"""Benchmarks: one file each, with its samples, its prompt and its scorer; this is the registry."""

from collections.abc import Callable

from blink.bench.base import (
    PROMPTS,
    Answer,
    Benchmark,
    Exportable,
    Graded,
    Mark,
    Row,
    Sample,
    Score,
    make_row,
    score,
    tallies,
)
from blink.bench.pope import Pope

BENCHMARKS: dict[str, Callable[..., Benchmark]] = {"pope": Pope}
"""Each takes the keys of its `conf/bench/*.yaml`, but for `name`, and `prompt`, one of PROMPTS."""

__all__ = [
    "BENCHMARKS",
    "PROMPTS",
    "Answer",
    "Benchmark",
    "Exportable",
    "Graded",
    "Mark",
    "Pope",
    "Row",
    "Sample",
    "Score",
    "make_row",
    "score",
    "tallies",
]
