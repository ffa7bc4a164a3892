"""18 questions about one picture, Blink with the engine over a stock loop without Blink: `python -m benchmarks.questions`.

The stock loop answers as evaluation code does: processor and `generate`, one question after the other.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from benchmarks.common import (
    Bench,
    Options,
    Picture,
    Row,
    in_turn,
    pope_pictures,
    shared_flops,
    shipped_run,
    tiny,
    token_sr,
    wide,
)
from benchmarks.report import main
from blink import Engine, Policy, Run
from blink.evaluation.answering.cost import decode, prompt, vision
from blink.inference.engine import Answer
from tests import models

BAR = 5.0
QUESTIONS = 18
ANSWER = 2
"""Tokens of an answer such as "yes", its closing one included."""

WHY = (
    "Sharing saves trunks, not texts or extensions: four regions are four extensions of a picture's length, and FLOPs on "
    "paper then allow little more. Where a picture has few tokens beside a question's, less is left to save."
)


def on_tiny(options: Options) -> Iterator[Row]:
    """Pictures of POPE on scenes, with the shipped modules and the preset's policy."""
    bench = tiny()
    pictures = pope_pictures(bench, 1 if options.quick else 4)
    repeats = options.repeats or (1 if options.quick else 3)
    yield from rows(bench, pictures, {"": shipped_run()}, repeats, QUESTIONS)


def on_wide(options: Options) -> Iterator[Row]:
    """An extension in every answer, born at layer 1 of 3, which is as high as the paper's layer 18 of 32 for POPE.

    Once where saliency says, which is one or two regions of a picture here, and once in regions drawn evenly, so that
    all four are needed. The stock loop, a question of which takes as long as any other, is timed on four questions.
    """
    for bench in wide(options._replace(hidden=options.hidden // 2), layers=3, dtypes=("float32",)):
        questions = [f"Is there a {'small ' * (i % 3)}dog in the image?" for i in range(QUESTIONS)]
        prompts = [bench.template.prompt(question) for question in questions]
        modules = token_sr(bench, (1,))
        runs = {
            f", an extension in each, {how}": Run(Policy([1], 0.0, 0.0, selector=selector), modules)
            for how, selector in (("regions by saliency", "saliency"), ("all regions", "random"))
        }
        repeats = options.repeats or (1 if options.quick else 2)
        yield from rows(bench, [Picture(models.noise(), prompts)], runs, repeats, 4)


def rows(
    bench: Bench, pictures: Sequence[Picture], runs: dict[str, Run], repeats: int, few: int
) -> Iterator[Row]:
    """Compare one backbone with itself; the value is questions per second over questions per second.

    Args:
        runs: name for the table -> policy and modules.
        few: questions per picture that the stock loop answers; its time is multiplied up to all of them.
    """
    engine = Engine(bench.model, bench.processor)

    def blink(run: Run) -> list[list[Answer]]:
        return [_answer(engine, picture, run) for picture in pictures]

    @torch.inference_mode()
    def stock() -> None:
        for image, prompts in pictures:
            for text in prompts[:few]:
                inputs = bench.processor(images=image, text=text, return_tensors="pt")
                inputs = inputs.to(bench.model.device, bench.model.dtype)
                bench.model.generate(**inputs, do_sample=False, max_new_tokens=ANSWER)

    sides: list[Callable[[], object]] = [stock, *(partial(blink, run) for run in runs.values())]
    stock_seconds, *blink_seconds = in_turn(sides, repeats, warm_up=not bench.wide)
    count = sum(len(prompts) for _, prompts in pictures)
    share = count / sum(len(prompts[:few]) for _, prompts in pictures)
    for (name, run), seconds in zip(runs.items(), blink_seconds, strict=True):
        ratios = [share * theirs / ours for ours, theirs in zip(seconds, stock_seconds, strict=True)]
        value = share * statistics.median(stock_seconds) / statistics.median(seconds)
        yield Row(
            f"{QUESTIONS} questions per picture with Blink{name}: questions/s over a stock loop's without",
            bench.name,
            value,
            min(ratios),
            max(ratios),
            f">= {BAR:g}",
            value >= BAR,
            _floor(bench, engine, pictures, run),
            f"{count} questions about {len(pictures)} pictures, {count / statistics.median(seconds):.3g} questions/s",
        )


def _answer(engine: Engine, picture: Picture, run: Run) -> list[Answer]:
    keys = [str(number) for number in range(len(picture.prompts))]
    [answers] = engine.answer(*picture, [run], max_new_tokens=ANSWER, sample_keys=keys)
    return answers


def _floor(bench: Bench, engine: Engine, pictures: Sequence[Picture], run: Run) -> float:
    """FLOPs of the stock loop over those of the shared work."""
    dims, ours, theirs = bench.dims, 0, 0
    for picture in pictures:
        answers = _answer(engine, picture, run)
        ours += shared_flops(bench, picture, [answers])
        trunk, texts = bench.lengths(picture.prompts)
        for text, answer in zip(texts, answers, strict=True):
            alone = vision(dims) + prompt(dims, trunk + text)
            theirs += (alone + decode(dims, trunk + text, len(answer.ids) - 1)).flops
    return theirs / ours


if __name__ == "__main__":
    main("questions", __doc__, (on_tiny, on_wide), WHY)
