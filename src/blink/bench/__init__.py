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
from blink.bench.mmbench import MMBench, MMBenchCN
from blink.bench.pope import Pope
from blink.bench.scienceqa import ScienceQA

BENCHMARKS: dict[str, Callable[..., Benchmark]] = {
    "mmbench": MMBench,
    "mmbench_cn": MMBenchCN,
    "pope": Pope,
    "scienceqa": ScienceQA,
}
"""Each takes the keys of its `conf/bench/*.yaml`, but for `name`, and `prompt`, one of PROMPTS."""

__all__ = [
    "BENCHMARKS",
    "PROMPTS",
    "Answer",
    "Benchmark",
    "Exportable",
    "Graded",
    "MMBench",
    "MMBenchCN",
    "Mark",
    "Pope",
    "Row",
    "Sample",
    "ScienceQA",
    "Score",
    "make_row",
    "score",
    "tallies",
]
