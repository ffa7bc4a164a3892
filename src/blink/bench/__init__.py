"""Benchmarks: one file each, with its samples, its prompt and its scorer; this is the registry."""

from collections.abc import Callable

from blink.bench.base import Answer, Benchmark, Mark, Row, Sample, Score, make_row, score, tallies
from blink.bench.pope import Pope

BENCHMARKS: dict[str, Callable[..., Benchmark]] = {"pope": Pope}
"""Each takes the keys of its `conf/bench/*.yaml`, but for `name`."""

__all__ = [
    "BENCHMARKS",
    "Answer",
    "Benchmark",
    "Mark",
    "Pope",
    "Row",
    "Sample",
    "Score",
    "make_row",
    "score",
    "tallies",
]
