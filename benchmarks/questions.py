"""18 questions about one picture, Blink with the engine over a stock loop without Blink: `python -m benchmarks.questions`.

The stock loop answers as evaluation code does: processor and `generate`, one question after the other.
"""

from collections.abc import Iterator

import torch
from PIL import Image

from benchmarks import models
from benchmarks.common import Bench, Options, Row, interleave, options, tiny, token_sr, wide
from benchmarks.report import show
from blink import Engine, Policy, Run
from blink.bench.pope import Pope
from blink.checkpoints import TINY
from blink.cost import decode, prompt, vision
from blink.cost import token_sr as token_sr_cost
from blink.presets import resolve
from blink.shared_cost import Asked, shared

BAR = 5.0
QUESTIONS = 18
ANSWER = 2
"""Tokens of an answer such as "yes", its closing one included."""

WHY = (
    "Sharing saves trunks, not texts: where a picture has few tokens beside a question's, or Python's share of a "
    "layer is large, less is left to save."
)


def measure(asked: Options) -> Iterator[Row]:
    """Tiny: pictures of POPE on scenes with the shipped modules. Wide: an extension in every answer."""
    repeats = asked.repeats or (1 if asked.quick else 3)
    bench = tiny()
    samples = Pope().from_scenes("test", 1 if asked.quick else 4)
    pictures: dict[str, tuple[Image.Image, list[str]]] = {}
    for sample in samples:
        prompts = pictures.setdefault(sample.image, (sample.load_image(), []))[1]
        prompts.append(bench.template.prompt(sample.question))
    scan = resolve("tiny", "pope")
    policy = Policy(scan.layers, scan.tau_exp, scan.tau_drop)
    yield row(bench, list(pictures.values()), Run(policy, str(TINY / "token_sr")), repeats)
    for bench in wide(asked, layers=2, dtypes=("float32",)):
        questions = [f"Is there a {'small ' * (i % 3)}dog in the image?" for i in range(QUESTIONS)]
        prompts = [bench.template.prompt(question) for question in questions]
        run = Run(Policy([1], tau_exp=0.0, tau_drop=0.0), token_sr(bench, (1,)))
        yield row(bench, [(models.picture(), prompts)], run, max(1, repeats - 1))


def row(bench: Bench, pictures: list[tuple[Image.Image, list[str]]], run: Run, repeats: int) -> Row:
    """Compare one backbone with itself; the value is questions per second over questions per second."""
    engine = Engine(bench.model, bench.processor)

    def blink() -> None:
        for image, prompts in pictures:
            engine.answer(image, prompts, [run], max_new_tokens=ANSWER)

    @torch.inference_mode()
    def stock() -> None:
        for image, prompts in pictures:
            for text in prompts:
                inputs = bench.processor(images=image, text=text, return_tensors="pt")
                inputs = inputs.to(bench.model.device, bench.model.dtype)
                bench.model.generate(**inputs, do_sample=False, max_new_tokens=ANSWER)

    times = interleave(blink, stock, repeats)
    ratios = [1 / ratio for ratio in times.ratios]
    floor, count = _floor(bench, engine, pictures, run), sum(len(prompts) for _, prompts in pictures)
    rate = count / sorted(times.ours)[len(times.ours) // 2]
    return Row(
        f"{QUESTIONS} questions per picture with Blink, questions/s over a stock loop's without",
        bench.name,
        1 / times.ratio,
        min(ratios),
        max(ratios),
        f">= {BAR:g}",
        1 / times.ratio >= BAR,
        floor,
        f"{count} questions about {len(pictures)} pictures, {rate:.3g} questions/s",
    )


def _floor(bench: Bench, engine: Engine, pictures: list[tuple[Image.Image, list[str]]], run: Run) -> float:
    """FLOPs of the stock loop over those of the shared work."""
    dims, ours, theirs = bench.dims, 0, 0
    for image, prompts in pictures:
        [answers] = engine.answer(image, prompts, [run], max_new_tokens=ANSWER)
        ids = [bench.processor.tokenizer(text)["input_ids"] for text in prompts]
        before = ids[0].index(bench.model.config.image_token_id) + dims.visual
        asked = []
        for number, (answer, row_ids) in enumerate(zip(answers, ids, strict=True)):
            text = len(row_ids) - 1 + dims.visual - before
            asked.append(Asked(number, text, answer.events, len(answer.ids)))
            theirs += (vision(dims) + prompt(dims, before + text)).flops
            theirs += decode(dims, before + text, len(answer.ids) - 1).flops
        ours += shared(dims, before, asked, expander=token_sr_cost(dims)).flops
    return theirs / ours


if __name__ == "__main__":
    show(measure(options(str(__doc__))), WHY)
