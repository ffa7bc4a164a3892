"""All parts on the GPU at full size, into a section of docs/performance.md: `python -m benchmarks.gpu`; `--small` on the CPU.

Each part has a time of its own, at whose end it is cut short and the next one begins. A part whose package is not
installed is left out by name. Nothing is fetched.
"""

import argparse
import gc
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import torch
from rich.console import Console

from benchmarks.common import Bench, Row
from benchmarks.gpu import engine, equal, page, prompts, training
from benchmarks.gpu.size import FULL, SMALL, Size, backbone, device
from benchmarks.report import machine, show

TARGET = Path("docs/performance.md")
SMALL_TARGET = Path("outputs/benchmarks/gpu_small.md")


class Part(NamedTuple):
    """A part, the seconds that it has, and why its rows may miss their bars."""

    name: str
    measure: Callable[[Bench, Size], Iterator[Row]]
    seconds: int
    why: str


PARTS = (
    Part("logits", equal.logits, 30, equal.WHY),
    Part("prompt", prompts.passes, 40, prompts.WHY),
    Part("waits", prompts.waits, 10, prompts.WHY),
    Part("decoding", prompts.decoding, 40, prompts.WHY),
    Part("questions", engine.questions, 90, engine.WHY),
    Part("memory", engine.out_of_memory, 15, engine.WHY),
    Part("training", training.steps, 35, training.WHY),
    Part("deepspeed", training.deepspeed, 30, training.WHY),
)


class OutOfTime(BaseException):
    """A part has used up its seconds; no part may take it for an error of its own."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [part.name for part in PARTS]
    parser.add_argument("--small", action="store_true", help="a small model, on the CPU if there is no GPU")
    parser.add_argument("--parts", nargs="+", choices=names, default=names, help="only these")
    parser.add_argument(
        "--target", type=Path, help=f"page to write into (default {TARGET}, with --small {SMALL_TARGET})"
    )
    read = parser.parse_args(arguments)
    if not read.small and device() == "cpu":
        sys.exit(
            "error: no GPU here, and the full size takes hours without; --small runs all parts on a small model"
        )
    size = SMALL if read.small else FULL
    target = read.target or (SMALL_TARGET if read.small else TARGET)
    console = Console()
    console.print(f"{size.name} on {machine()}")
    started = time.monotonic()
    bench = backbone(size)
    if device() == "cuda":
        torch.cuda.synchronize()
    console.print(f"backbone made in {time.monotonic() - started:.1f} s")
    found: list[page.Found] = []
    for part in PARTS:
        if part.name in read.parts:
            console.print(f"{part.name}, at most {part.seconds} s:")
            found.append(run(part, bench, size))
            ended = found[-1].ended and f"; {found[-1].ended}"
            console.print(f"  {found[-1].seconds:.1f} s{ended}", highlight=False)
            # after each part, so that a run that is killed leaves what it has
            page.put(target, page.section(found))
            gc.collect()
            if device() == "cuda":
                torch.cuda.empty_cache()
    console.print(f"{time.monotonic() - started:.0f} s in all; written to {target}")


def run(part: Part, bench: Bench, size: Size) -> page.Found:
    """Measure a part for as long as it has, and print its rows as they come."""
    rows: list[Row] = []

    def kept() -> Iterator[Row]:
        for row in part.measure(bench, size):
            rows.append(row)
            yield row

    started, ended = time.monotonic(), ""
    try:
        with at_most(part.seconds):
            show(kept(), part.why)
    except OutOfTime:
        ended = f"cut short after {part.seconds} s"
    except ImportError as error:
        ended = f"left out: the package {error.name or error} is not installed"
    except Exception as error:  # the other parts are worth as much without this one
        ended = f"failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return page.Found(part.name, rows, time.monotonic() - started, part.why, ended)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Inside, `OutOfTime` is raised once so many seconds are over."""

    def over(number: int, frame: FrameType | None) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


if __name__ == "__main__":
    main()
