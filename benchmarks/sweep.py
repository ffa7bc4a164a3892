"""A 10 x 10 grid of thresholds in one pass of the engine, over one point: `python -m benchmarks.sweep`."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image
from tests import models

from benchmarks.common import Bench, Options, Row, interleave, options, tiny, token_sr, wide
from benchmarks.report import show
from benchmarks.shared_cost import Asked, shared
from blink import Engine, Policy, Run
from blink.bench.pope import Pope
from blink.evaluation.cost import token_sr as token_sr_cost
from blink.inference.engine import Answer
from blink.inference.policy import living
from blink.model.fingerprint import TINY

BAR = 10.0
FLOP_BAR = 1.2
ANSWER = 2

WHY = (
    "The grid costs as many texts as it has different histories of extensions; where thresholds lie among the ratios "
    "that occur, most points differ somewhere. What is above the FLOPs is Python's share of each decision, and copies "
    "of rows that split."
)

Picture = tuple[Image.Image, list[str]]


def on_tiny(asked: Options) -> Iterator[Row]:
    """Seven layers, pictures of POPE on scenes, shipped modules."""
    bench = tiny()
    pictures: dict[str, Picture] = {}
    for sample in Pope().from_scenes("test", 1 if asked.quick else 2):
        prompts = pictures.setdefault(sample.image, (sample.load_image(), []))[1]
        prompts.append(bench.template.prompt(sample.question))
    side, repeats = _size(asked)
    yield from rows(
        bench, list(pictures.values()), tuple(range(4, 11)), str(TINY / "token_sr"), side, repeats
    )


def on_wide(asked: Options) -> Iterator[Row]:
    """Three questions, all layers of five but the first."""
    side, repeats = _size(asked)
    for bench in wide(asked._replace(hidden=asked.hidden // 2), layers=5, dtypes=("float32",)):
        scanned = tuple(range(1, bench.dims.layers))
        prompts = [
            bench.template.prompt(f"Is there a {word} in the image?") for word in ("dog", "a b", "c d e")
        ]
        modules = token_sr(bench, scanned)
        yield from rows(bench, [(models.noise(), prompts)], scanned, modules, side, max(1, repeats - 2))


def _size(asked: Options) -> tuple[int, int]:
    """Thresholds of each kind, and repetitions."""
    return (3, asked.repeats or 1) if asked.quick else (10, asked.repeats or 3)


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
        return [engine.answer(image, prompts, of, max_new_tokens=ANSWER) for image, prompts in pictures]

    found: dict[str, list[list[list[Answer]]]] = {}

    def whole() -> None:
        found["whole"] = answer(runs)

    def point() -> None:
        found["point"] = answer(middle)

    times = interleave(whole, point, repeats, warm_up=not bench.wide)  # the ratios were a warm-up
    floor = _work(bench, pictures, found["whole"]) / _work(bench, pictures, found["point"])
    distinct = _histories(bench, found["whole"])
    questions = sum(len(prompts) for _, prompts in pictures)
    note = f"{questions} questions, {distinct / questions:.1f} of {side * side} histories of extensions each"
    name = f"{side} x {side} thresholds over {len(scanned)} layers in one pass / one point"
    low, high = min(times.ratios), max(times.ratios)
    yield Row(name, bench.name, times.ratio, low, high, f"<= {BAR:g}", times.ratio <= BAR, floor, note)
    value = times.ratio / floor
    yield Row(
        f"{name}: time ratio / FLOP ratio",
        bench.name,
        value,
        low / floor,
        high / floor,
        f"<= {FLOP_BAR}",
        value <= FLOP_BAR,
        floor,
    )


def _ratios(engine: Engine, pictures: Sequence[Picture], scanned: tuple[int, ...]) -> list[float]:
    never = Run(Policy.never(scanned))
    return [
        event.ratio
        for image, prompts in pictures
        for answer in engine.answer(image, prompts, [never], max_new_tokens=1)[0]
        for event in answer.events
    ]


def _work(bench: Bench, pictures: Sequence[Picture], answers: Sequence[list[list[Answer]]]) -> int:
    """FLOPs on paper of what was answered, each piece once."""
    dims, total = bench.dims, 0
    for (_, prompts), of_picture in zip(pictures, answers, strict=True):
        ids = [bench.processor.tokenizer(text)["input_ids"] for text in prompts]
        start = ids[0].index(bench.model.config.image_token_id)
        asked = [
            Asked(number, len(ids[number]) - start - 1, answer.events, len(answer.ids))
            for of_run in of_picture
            for number, answer in enumerate(of_run)
        ]
        total += shared(dims, start + dims.visual, asked, expander=token_sr_cost(dims)).flops
    return total


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
    asked = options(str(__doc__))
    show(itertools.chain(on_tiny(asked), on_wide(asked)), WHY)
