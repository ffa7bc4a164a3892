"""Benchmarks: one file each, with its samples, its prompt and its scorer; this is the registry.

Read from top to bottom: a file imports only from files above it.

    statistics.py  score intervals over pictures, paired differences, exact McNemar
    readers/       rows from files and from the hub
    base.py        the class `Benchmark`: facts, loading, what a scorer is; samples and answers
    choices.py     yes or no; multiple choice: options, the letter that a response means, rotations of one question
    results/       rows of answers: made, or taken from anybody's file; scored, and written for VLMEvalKit
    mme.py         MME
    pope.py        POPE
    gqa.py         GQA
    mmbench.py     MMBench, English and Chinese
    scienceqa.py   ScienceQA-IMG
    judges/        graders of free answers
    mmvet.py       MM-Vet
    questions.py   the user's own, and one of each kind about scenes
"""

from blink.bench.base import PROMPTS, Benchmark, Graded, Mark, Row, Sample
from blink.bench.gqa import GQA
from blink.bench.judges import Judge, make_judge
from blink.bench.mmbench import MMBench, MMBenchCN
from blink.bench.mme import MME
from blink.bench.mmvet import MMVet
from blink.bench.pope import Pope
from blink.bench.questions import OwnQuestions
from blink.bench.results.scoring import Score, make_row, score, tallies
from blink.bench.scienceqa import ScienceQA

BENCHMARKS: dict[str, type[Benchmark]] = {
    benchmark.name: benchmark
    for benchmark in (MME, GQA, MMBench, MMBenchCN, Pope, ScienceQA, MMVet, OwnQuestions)
}
"""By name, in the order of the paper's tables, and the user's own questions. Each takes the keys of its `conf/bench/*.yaml`, but for `name`, and
`prompt`, one of PROMPTS."""

JUDGED = frozenset(name for name, benchmark in BENCHMARKS.items() if benchmark.judged)
"""Those that also take a `judge`."""

__all__ = [
    "BENCHMARKS",
    "GQA",
    "JUDGED",
    "MME",
    "PROMPTS",
    "Benchmark",
    "Graded",
    "Judge",
    "MMBench",
    "MMBenchCN",
    "MMVet",
    "Mark",
    "OwnQuestions",
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
