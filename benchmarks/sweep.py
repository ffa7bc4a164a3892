"""A 10 x 10 grid of thresholds in one pass of the engine, over one point: `python -m benchmarks.sweep`."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.common import (
    Bench,
    Options,
    Picture,
    Row,
    interleave,
    pope_pictures,
    shared_flops,
    tiny,
    token_sr,
    wide,
)
from benchmarks.report import main
from blink import Engine, Policy, Run
from blink.inference.engine import Answer
from blink.inference.policy import living
from blink.model.fingerprint import TINY
from tests import models

BAR = 10.0
FLOP_BAR = 1.2
ANSWER = 2

WHY = (
    "The grid costs as many texts as it has different histories of extensions; where thresholds lie among the ratios "
    "that occur, most points differ somewhere. What is above the FLOPs is Python's share of each decision, and copies "
    "of rows that split."
)


def on_tiny(options: Options) -> Iterator[Row]:
    """Seven layers, pictures of POPE on scenes, shipped modules."""
    bench = tiny()
    side, repeats = _size(options)
    pictures = pope_pictures(bench, 1 if options.quick else 2)
    yield from rows(bench, pictures, tuple(range(4, 11)), str(TINY / "token_sr"), side, repeats)


def on_wide(options: Options) -> Iterator[Row]:
    """Three questions, all layers of five but the first."""
    side, repeats = _size(options)
    for bench in wide(options._replace(hidden=options.hidden // 2), layers=5, dtypes=("float32",)):
        scanned = tuple(range(1, bench.dims.layers))
        prompts = [
            bench.template.prompt(f"Is there a {word} in the image?") for word in ("dog", "a b", "c d e")
        ]
        modules = token_sr(bench, scanned)
        yield from rows(
            bench, [Picture(models.noise(), prompts)], scanned, modules, side, max(1, repeats - 2)
        )


def _size(options: Options) -> tuple[int, int]:
    """Thresholds of each kind, and repetitions."""
    return (3, options.repeats or 1) if options.quick else (10, options.repeats or 3)


def rows(
    bench: Bench,
    pictures: Sequence[Picture],
    scanned: tuple[int, ...],
    modules: object,
    side: int,
    repeats: int,
) -> Iterator[Row]:
    """Compare a grid with its middle; thresholds lie at even shares of the ratios that the stock model shows."""
    engine = Engine(bench.model, bench.processor)
    ratios = _ratios(engine, pictures, scanned)
    grid = [float(value) for value in np.quantile(ratios, np.linspace(0.05, 0.95, side))]
    runs = [
        Run(Policy(scanned, tau_exp=up, tau_drop=down), modules)  # type: ignore[arg-type]
        for up, down in itertools.product(grid, grid)
    ]
    middle = [runs[(side // 2) * side + side // 2]]

    def answer(of: Sequence[Run]) -> list[list[list[Answer]]]:
        return [engine.answer(*picture, of, max_new_tokens=ANSWER) for picture in pictures]

    found: dict[str, list[list[list[Answer]]]] = {}

    def whole() -> None:
        found["whole"] = answer(runs)

    def point() -> None:
        found["point"] = answer(middle)

    times = interleave(whole, point, repeats, warm_up=not bench.wide)  # the ratios were a warm-up
    work = {
        name: sum(shared_flops(bench, *pair) for pair in zip(pictures, answers, strict=True))
        for name, answers in found.items()
    }
    floor = work["whole"] / work["point"]
    distinct = _histories(bench, found["whole"])
    questions = sum(len(prompts) for _, prompts in pictures)
    note = f"{questions} questions, {distinct / questions:.1f} of {side * side} histories of extensions each"
    name = f"{side} x {side} thresholds over {len(scanned)} layers in one pass / one point"
    yield Row.at_most(BAR, name, bench.name, times, floor=floor, note=note)
    name += ": time ratio / FLOP ratio"
    yield Row.at_most(FLOP_BAR, name, bench.name, times, floor=floor, over_floor=True)


def _ratios(engine: Engine, pictures: Sequence[Picture], scanned: tuple[int, ...]) -> list[float]:
    never = Run(Policy.never(scanned))
    return [
        event.ratio
        for picture in pictures
        for answer in engine.answer(*picture, [never], max_new_tokens=1)[0]
        for event in answer.events
    ]


def _histories(bench: Bench, answers: Sequence[list[list[Answer]]]) -> int:
    """Different histories of extensions, over all questions."""
    found = {
        (picture, number, tuple(living(answer.events, bench.dims.layers)))
        for picture, of_picture in enumerate(answers)
        for of_run in of_picture
        for number, answer in enumerate(of_run)
    }
    return len(found)


if __name__ == "__main__":
    main("sweep", __doc__, (on_tiny, on_wide), WHY)
