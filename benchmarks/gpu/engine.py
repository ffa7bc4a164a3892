"""Many questions: the engine with Blink against stock `generate` in batches, and what happens when memory runs out."""

import logging
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from benchmarks.common import Bench, Picture, Row, shared_flops, token_sr
from benchmarks.gpu.size import Size, seconds
from blink import Engine, Policy, Run
from blink.evaluation.answering.cost import decode, prompt, vision
from blink.inference.engine import Answer, Ask
from blink.model.backbone import Backbone
from tests import models

POPE_BAR = 5.0

WHY = (
    "Every answer has an extension, born at the layer that the paper scans first for that benchmark, in regions drawn evenly: "
    "four extensions of a picture's length, where one question needs one. Stock `generate` runs without Blink in the best of the "
    "batch sizes tried."
)


class Work(NamedTuple):
    """A benchmark as a load.

    Attributes:
        name: of the benchmark that it is like.
        pictures: how many.
        questions: about each.
        words: of a question.
        tokens: of an answer.
        layer: where an extension is born.
        bar: of questions per second over the stock model's; None: none.
    """

    name: str
    pictures: int
    questions: int
    words: int
    tokens: int
    layer: int
    bar: float | None


def works(size: Size) -> tuple[Work, ...]:
    """The three loads."""
    first, last = size.scanned[0], size.scanned[-1]
    return (
        Work("POPE", size.pope, 18, 14, 4, last, POPE_BAR),
        Work("MME", size.mme, 2, 20, 4, first, None),
        Work("MM-Vet", size.mmvet, 1, 14, size.answer, first, None),
    )


def questions(bench: Bench, size: Size) -> Iterator[Row]:
    """Questions per second, with Blink over without."""
    for work in works(size):
        yield row(bench, size, work)


def row(bench: Bench, size: Size, work: Work) -> Row:
    """Compare one load."""
    pictures = [
        Picture(
            models.noise(seed),
            [bench.template.prompt(asked(number, work.words)) for number in range(work.questions)],
        )
        for seed in range(work.pictures)
    ]
    run = run_of(bench, work.layer)
    engine = Engine(bench.model, bench.processor)
    answers: list[list[list[Answer]]] = []

    def ours() -> None:
        asks = (Ask(image, prompts, [run], keys(prompts)) for image, prompts in pictures)
        answers[:] = engine.answer_many(asks, max_new_tokens=work.tokens)

    flat = [(image, text) for image, prompts in pictures for text in prompts]
    tried = {
        batch: seconds(lambda batch=batch: stock(bench, flat, batch, work.tokens), 1)[0]  # type: ignore[misc]
        for batch in size.batches
        if batch <= len(flat)
    }
    best = min(tried, key=lambda batch: tried[batch])
    repeats = max(2, size.repeats // 10)
    theirs = seconds(lambda: stock(bench, flat, best, work.tokens), repeats, warm_up=False)
    mine = seconds(ours, repeats)
    ratios = [a / b for a, b in zip(theirs, mine, strict=True)]
    value = statistics.median(theirs) / statistics.median(mine)
    rate, stock_rate = (len(flat) / statistics.median(taken) for taken in (mine, theirs))
    return Row(
        f"{work.name}-like, {work.questions} question(s) a picture, {work.tokens} tokens: engine with Blink / stock in batches",
        bench.name,
        value,
        min(ratios),
        max(ratios),
        "" if work.bar is None else f">= {work.bar:g}",
        work.bar is None or value >= work.bar,
        floor(bench, pictures, answers),
        f"{rate:.3g} and {stock_rate:.3g} questions/s; batches of {best}, of {', '.join(map(str, tried))} tried",
    )


def asked(number: int, words: int) -> str:
    """A question of so many words."""
    return " ".join(models.WORDS[(7 * number + word) % len(models.WORDS)] for word in range(words)) + "?"


def keys(prompts: Sequence[str]) -> list[str]:
    """Names of prompts, which their regions are drawn by."""
    return [str(number) for number in range(len(prompts))]


def run_of(bench: Bench, layer: int) -> Run:
    """Blink with an extension in every answer, in a region drawn evenly."""
    return Run(Policy([layer], 0.0, 0.0, selector="random"), token_sr(bench, (layer,)))


@torch.inference_mode()
def stock(bench: Bench, asked: Sequence[tuple[Any, str]], batch: int, tokens: int) -> None:
    """Answer by stock `generate`, as evaluation code does: left-padded batches."""
    bench.processor.tokenizer.padding_side = "left"
    for at in range(0, len(asked), batch):
        part = asked[at : at + batch]
        inputs = bench.processor(
            images=[[image] for image, _ in part],
            text=[text for _, text in part],
            padding=True,
            return_tensors="pt",
        ).to(bench.model.device, bench.model.dtype)
        bench.model.generate(**inputs, do_sample=False, max_new_tokens=tokens)


def floor(bench: Bench, pictures: Sequence[Picture], answers: Sequence[Sequence[Sequence[Answer]]]) -> float:
    """FLOPs of the stock model one by one over those of the shared work."""
    dims, ours, theirs = bench.dims, 0, 0
    for picture, of_runs in zip(pictures, answers, strict=True):
        ours += shared_flops(bench, picture, of_runs)
        trunk, texts = bench.lengths(picture.prompts)
        for text, answer in zip(texts, of_runs[0], strict=True):
            alone = vision(dims) + prompt(dims, trunk + text)
            theirs += (alone + decode(dims, trunk + text, len(answer.ids) - 1)).flops
    return theirs / ours


def out_of_memory(bench: Bench, size: Size) -> Iterator[Row]:
    """18 questions about a picture where not all rows fit: the engine goes on with fewer at once, and answers alike."""
    layer = size.scanned[0]
    prompts = [bench.template.prompt(asked(number, 14)) for number in range(18)]
    picture, runs = models.noise(), [Run(), run_of(bench, layer)]

    def answer() -> list[list[Answer]]:
        engine = Engine(bench.model, bench.processor, memory_gb=1000)  # by its estimate all rows fit
        return engine.answer(picture, prompts, runs, max_new_tokens=4, sample_keys=keys(prompts))

    expected = answer()
    with warned("blink.inference.engine") as messages, little_memory(answer, rows=8):
        found = answer()
    different = sum(
        a.ids != b.ids
        for one, two in zip(expected, found, strict=True)
        for a, b in zip(one, two, strict=True)
    )
    told = [message for message in messages if "out of memory" in message]
    # in half precision another number of rows at once may round otherwise where two tokens nearly tie
    bar = 0 if size.dtype == "float32" else len(prompts) * len(runs) // 10
    yield Row(
        "answers that change where memory runs out",
        bench.name,
        different,
        different,
        different,
        f"<= {bar}",
        different <= bar and bool(told),
        None,
        f"of {len(prompts) * len(runs)}; {'; '.join(told) or 'memory did not run out'}",
    )


@contextmanager
def little_memory(answer: Any, rows: int) -> Iterator[None]:
    """Inside, memory runs out: CUDA's own, at halfway between what is held and what `answer` takes.

    Args:
        answer: what is going to be called.
        rows: without a GPU, layers of more rows than that run out.
    """
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        answer()
        most = torch.cuda.max_memory_allocated()
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, (held + most) / 2 / total))
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return
    run_layer = Backbone.run_layer

    def limited(self: Backbone, layer: int, hidden: Any, *args: Any, **kwargs: Any) -> Any:
        if len(hidden) > rows:
            raise torch.OutOfMemoryError(f"{len(hidden)} rows")
        return run_layer(self, layer, hidden, *args, **kwargs)

    Backbone.run_layer = limited  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Backbone.run_layer = run_layer  # type: ignore[method-assign]


@contextmanager
def warned(logger: str) -> Iterator[list[str]]:
    """Messages that a logger, or one below it, gives inside."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger(logger).addHandler(handler)
    try:
        yield messages
    finally:
        logging.getLogger(logger).removeHandler(handler)
