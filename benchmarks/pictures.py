"""Many pictures at once, Blink with the engine over stock `generate` without Blink: `python -m benchmarks.pictures`.

Stock `generate` answers padded batches, in the best of some batch sizes, and its processor takes a batch of pictures, as
evaluation code does. Answers have the length that the row says: no token ends one.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch

from benchmarks.common import (
    Bench,
    Options,
    Picture,
    Row,
    Times,
    in_turn,
    pictures_of,
    shared_flops,
    tiny,
    token_sr,
    wide,
)
from benchmarks.report import main
from blink import Ask, Engine, Policy, Run
from blink.bench.mme import MME
from blink.bench.mmvet import MMVet
from blink.bench.pope import Pope
from blink.evaluation.answering.cost import decode, prompt, vision
from blink.inference.engine import Answer
from blink.model.fingerprint import TINY
from blink.runs.inputs.preset_file import read_preset
from tests import models

WHY = (
    "The bars ask for no more work than stock generate does without Blink, which an extension adds: FLOPs on paper say how "
    "much. On tiny a step of decoding is some 700 small operations whatever runs, of both sides alike."
)
WHY_WIDE = (
    "Three quarters of a long answer's time are prompts, whose products run at the loop's rate. Decoding of many pictures waits for "
    "attention: each row reads the keys of its own picture, which no other row reads, and torch's bfloat16 kernel for CPUs "
    "puts them in order at each step, whatever their queries (docs/log.md). An extension in each answer adds work, too: FLOPs on paper "
    "say how much."
)


class Work(NamedTuple):
    """Questions as a benchmark asks them.

    Attributes:
        name: for the table.
        questions: per picture.
        tokens: of an answer, on tiny and on the wide backbone, where a step is short beside a prompt.
        bar: least questions per second over those of stock generate in batches.
        loop_bar: over those of a stock loop, one question at a time; None: that is not measured.
        pictures: how many, on tiny and on the wide backbone.
        batches: sizes that stock generate may choose from, on tiny and on the wide backbone.
    """

    name: str
    questions: int
    tokens: tuple[int, int]
    bar: tuple[float, float]
    loop_bar: tuple[float, float] | None
    pictures: tuple[int, int]
    batches: tuple[tuple[int, ...], tuple[int, ...]]


WORKS = (
    Work("POPE-like", 18, (4, 4), (5, 4), None, (8, 2), ((9, 18, 36), (6, 18))),
    Work("MME-like", 2, (4, 4), (0.95, 0.9), None, (32, 8), ((8, 16, 32), (4, 8))),
    Work("MM-Vet-like", 1, (48, 64), (0.85, 0.85), (5, 3), (32, 32), ((16, 32), (8, 32))),
)
BENCHMARKS = {"POPE-like": Pope, "MME-like": MME, "MM-Vet-like": MMVet}


def on_tiny(options: Options) -> Iterator[Row]:
    """Pictures and questions of the embedded scenes, with one scanned layer; the preset beside it, without a bar."""
    bench, layer = tiny(), 10
    runs = {
        f"layer {layer}, 0.6 / 0.4": Run(Policy([layer], 0.6, 0.4), str(TINY / "token_sr")),
        "preset=recommended": recommended_run(),
    }
    for work in WORKS:
        count = 2 if options.quick else work.pictures[0]
        pictures = pictures_of(bench, BENCHMARKS[work.name](), count, work.questions)
        yield from rows(bench, work, pictures, runs, options.repeats or (1 if options.quick else 5), 0)


def recommended_run() -> Run:
    """What `preset=recommended` says for the tiny backbone: regions encoded anew."""
    preset = read_preset(TINY / "preset.yaml")
    policy = dict(preset.settings)
    layers = policy.pop("layer")
    return Run(Policy(layers, source=preset.method, **policy))


def on_wide(options: Options) -> Iterator[Row]:
    """Half of LLaVA-1.5's width, an extension from the middle layer on, as the paper's layer 18 of 32: in each answer, the most
    that Blink can cost, and in every second one, drawn at random."""
    for bench in wide(options._replace(hidden=options.hidden // 2), layers=4, dtypes=("bfloat16",)):
        middle = bench.dims.layers // 2
        modules = token_sr(bench, (middle,))
        runs = {
            f"layer {middle}, an extension in each": Run(Policy([middle], 0.0, 0.0), modules),
            f"layer {middle}, half with an extension": Run(Policy([middle], schedule="random"), modules),
        }
        for work in WORKS:
            texts = [f"Is there a {'small ' * (i % 3)}dog in the image?" for i in range(work.questions)]
            prompts = [bench.template.prompt(text) for text in texts]
            pictures = [
                Picture(models.noise(i), prompts) for i in range(2 if options.quick else work.pictures[1])
            ]
            yield from rows(
                bench, work, pictures, runs, options.repeats or (1 if options.quick else 3), 1, held=len(runs)
            )
        yield step_row(bench, next(iter(runs.values())), options)


def rows(
    bench: Bench,
    work: Work,
    pictures: Sequence[Picture],
    runs: Mapping[str, Run],
    repeats: int,
    side: int,
    held: int = 1,
) -> Iterator[Row]:
    """Compare one backbone with itself; the value is questions per second over questions per second.

    Args:
        runs: name for the table -> policy and modules.
        side: 0 on tiny, 1 on the wide backbone.
        held: how many of the runs, the first ones, are held to the bar.
    """
    engine, tokens = Engine(bench.model, bench.processor), work.tokens[side]
    asked = [(picture.image, text) for picture in pictures for text in picture.prompts]
    with endless(bench):
        sizes = [size for size in work.batches[side] if size <= len(asked)] or [len(asked)]
        tried = in_turn(
            [partial(stock, bench, asked, size, tokens) for size in sizes], 2 - side, warm_up=not side
        )
        best = min(zip(tried, sizes, strict=True), key=lambda of: min(of[0]))[1]
        blink: list[Callable[[], object]] = [
            partial(ours, engine, pictures, run, tokens) for run in runs.values()
        ]
        sides: list[Callable[[], object]] = [partial(stock, bench, asked, best, tokens), *blink]
        if work.loop_bar is not None:
            sides.append(partial(stock, bench, asked[: max(1, len(asked) // 8)], 1, tokens))
        for one in blink:
            for _ in range(1 if side else 3):  # until the engine has found how many pictures to take at once
                one()
        theirs, *found = in_turn(sides, repeats, warm_up=not side)
        for number, (name, run) in enumerate(runs.items()):
            seconds, answers = found[number], ours(engine, pictures, run, tokens)
            bars = [(f"stock generate in batches of {best}", theirs, 1.0, work.bar[side])]
            if work.loop_bar is not None:
                share = len(asked) / max(1, len(asked) // 8)
                bars.append(("a stock loop", found[-1], share, work.loop_bar[side]))
            for other, of_other, share, bar in bars:
                value = share * statistics.median(of_other) / statistics.median(seconds)
                ratios = [share * b / a for a, b in zip(seconds, of_other, strict=True)]
                yield Row(
                    f"{work.name}: {work.questions} question(s) a picture, {tokens} new tokens, Blink ({name}): "
                    f"questions/s over {other} without",
                    bench.name,
                    value,
                    min(ratios),
                    max(ratios),
                    f">= {bar:g}" if number < held else "none",
                    number >= held or value >= bar,
                    _floor(bench, pictures, answers, tokens),
                    f"{len(asked)} questions about {len(pictures)} pictures, "
                    f"{len(asked) / statistics.median(seconds):.3g} questions/s, "
                    f"{_expanded(answers):.0%} with an extension",
                )


def step_row(bench: Bench, run: Run, options: Options) -> Row:
    """A step of decoding of 16 rows from 16 pictures over one of a single row.

    Steps are what an answer of many tokens takes longer than a short one.
    """
    engine, (short, long) = Engine(bench.model, bench.processor), (2, 6 if options.quick else 34)
    pictures = [Picture(models.noise(i), [bench.template.prompt("What is shown?")]) for i in range(16)]
    with endless(bench):
        sides = [
            partial(ours, engine, pictures[:count], run, tokens)
            for count in (16, 1)
            for tokens in (short, long)
        ]
        many_short, many_long, one_short, one_long = in_turn(
            sides, options.repeats or (1 if options.quick else 3)
        )
    times = Times(
        [b - a for a, b in zip(many_short, many_long, strict=True)],
        [b - a for a, b in zip(one_short, one_long, strict=True)],
    )
    milliseconds = 1e3 * statistics.median(times.theirs) / (long - short)
    what = "a step of decoding of 16 rows from 16 pictures / of one row"
    return Row.at_most(2.5, what, bench.name, times, note=f"{milliseconds:.3g} ms a step of one row")


def ours(engine: Engine, pictures: Sequence[Picture], run: Run, tokens: int) -> list[list[Answer]]:
    """What the engine answers, by picture."""
    asks = (Ask(image, prompts, [run]) for image, prompts in pictures)
    return [answers[0] for answers in engine.answer_many(asks, max_new_tokens=tokens)]


@torch.inference_mode()
def stock(bench: Bench, asked: Sequence[tuple[Any, str]], size: int, tokens: int) -> None:
    """Stock generate in padded batches of `size`."""
    for first in range(0, len(asked), size):
        images, texts = zip(*asked[first : first + size], strict=True)
        inputs = bench.processor(
            images=[[image] for image in images], text=list(texts), padding=size > 1, return_tensors="pt"
        )
        inputs = inputs.to(bench.model.device, bench.model.dtype)
        bench.model.generate(**inputs, do_sample=False, max_new_tokens=tokens)


@contextmanager
def endless(bench: Bench) -> Iterator[None]:
    """Inside, no token ends an answer."""
    config = bench.model.generation_config
    before, config.eos_token_id = config.eos_token_id, None
    try:
        yield
    finally:
        config.eos_token_id = before


def _expanded(answers: Sequence[Sequence[Answer]]) -> float:
    """Share of answers with an extension."""
    every = [answer for of_picture in answers for answer in of_picture]
    return sum(any(e.action == "expand" for e in answer.events) for answer in every) / len(every)


def _floor(
    bench: Bench, pictures: Sequence[Picture], answers: Sequence[Sequence[Answer]], tokens: int
) -> float:
    """FLOPs of stock generate over those of the shared work."""
    dims, own, theirs = bench.dims, 0, 0
    for picture, of_picture in zip(pictures, answers, strict=True):
        own += shared_flops(bench, picture, [of_picture])
        trunk, texts = bench.lengths(picture.prompts)
        for text in texts:
            theirs += (
                vision(dims) + prompt(dims, trunk + text) + decode(dims, trunk + text, tokens - 1)
            ).flops
    return theirs / own


if __name__ == "__main__":
    main("pictures", __doc__, (on_tiny, on_wide), f"{WHY} {WHY_WIDE}")
