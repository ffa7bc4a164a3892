"""Benchmarks: one file each, with its samples, its prompt and its scorer; this is the registry.

Read from top to bottom: a file imports only from files above it.

    statistics.py   bootstrap over pictures, paired differences, exact McNemar
    sources.py      where rows come from: the hub, parquet, JSON and JSONL files, picture folders
    tables.py       cells and tables as files: tab-separated text with base64 pictures, Excel
    base.py         samples, answers, scores
    choices.py      multiple choice: options, the letter that a response means, rotations of one question
    mmbench.py      MMBench, English and Chinese
    judges/         who grades free answers
    mmvet.py        MM-Vet
    gqa.py          GQA
    mme_release.py  MME's folders as its authors release them
    mme.py          MME
    pope.py         POPE
    scienceqa.py    ScienceQA-IMG
"""

from collections.abc import Callable

from blink.bench.base import (
    PROMPTS,
    Answer,
    Benchmark,
    Graded,
    Mark,
    Row,
    Sample,
    Score,
    make_row,
    score,
    tallies,
)
from blink.bench.gqa import GQA
from blink.bench.judges import Judge, make_judge
from blink.bench.mmbench import MMBench, MMBenchCN
from blink.bench.mme import MME
from blink.bench.mmvet import MMVet
from blink.bench.pope import Pope
from blink.bench.scienceqa import ScienceQA

BENCHMARKS: dict[str, Callable[..., Benchmark]] = {
    "gqa": GQA,
    "mmbench": MMBench,
    "mmbench_cn": MMBenchCN,
    "mme": MME,
    "mmvet": MMVet,
    "pope": Pope,
    "scienceqa": ScienceQA,
}
"""Each takes the keys of its `conf/bench/*.yaml`, but for `name`, and `prompt`, one of PROMPTS."""

JUDGED = frozenset({"mmvet"})
"""Those that also take a `judge`."""

__all__ = [
    "BENCHMARKS",
    "GQA",
    "JUDGED",
    "MME",
    "PROMPTS",
    "Answer",
    "Benchmark",
    "Graded",
    "Judge",
    "MMBench",
    "MMBenchCN",
    "MMVet",
    "Mark",
    "Pope",
    "Row",
    "Sample",
    "ScienceQA",
    "Score",
    "make_judge",
    "make_row",
    "score",
    "tallies",
]
