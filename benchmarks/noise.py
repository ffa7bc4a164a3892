"""What rounding alone changes: the same questions answered in several ways, on tiny: `python -m benchmarks.noise`.

One at a time and in left-padded batches by `attach` and `generate`, and 18 at once by the engine. On paper all are one
method; in bfloat16 sums are rounded differently, and an event near its threshold, or an answer near a tie, can flip.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from benchmarks.common import DTYPES, Bench, Picture, bare_command_line, pope_pictures, shipped_run, tiny
from benchmarks.report import paper_table
from blink import Engine, Event, Run, attach
from blink.inference.engine.decoding import closing_tokens

QUESTIONS = 18
"""About one picture."""

BATCH = 6
ANSWER = 8

ALONE, BATCHED, SHARED = "one at a time", f"batches of {BATCH}", f"engine, {QUESTIONS} at once"
STOCK, STOCK_BATCHED, STOCK_SHARED = (f"without Blink, {side}" for side in (ALONE, BATCHED, SHARED))

PAIRS = ((ALONE, BATCHED), (ALONE, SHARED), (BATCHED, SHARED), (STOCK, STOCK_BATCHED), (STOCK, STOCK_SHARED))

TARGET = Path("outputs/benchmarks/noise.md")

HEADER = ("dtype", "sides", "answers that differ", "events that differ", "largest difference of a ratio")


HEAD = """## What rounding alone changes

By `python -m benchmarks.noise`: POPE on test scenes, the tiny backbone with the preset's policy and the shipped modules.
Two ways to run the same questions differ only in how sums are rounded; where an event lies near its threshold, or two
answers nearly tie, that can flip it. Differences between methods that are not clearly larger than these say nothing.
"""


class Answered(NamedTuple):
    """One question's answer, without its closing token, and its events."""

    ids: tuple[int, ...]
    events: tuple[Event, ...]


Sides = dict[str, list[Answered]]


def answer(bench: Bench, pictures: Sequence[Picture]) -> Iterator[Sides]:
    """Answer all questions about one picture after the other, in every way."""
    blink = shipped_run()
    assert blink.policy is not None
    handle = attach(bench.model, blink.policy, blink.token_sr)
    engine, closing = Engine(bench.model, bench.processor), closing_tokens(bench.model)

    def generate(image: Image.Image, prompts: Sequence[str]) -> list[Answered]:
        inputs = bench.processor(
            images=[image] * len(prompts), text=list(prompts), padding=True, return_tensors="pt"
        ).to(bench.model.device, bench.model.dtype)
        ids = bench.model.generate(**inputs, do_sample=False, max_new_tokens=ANSWER)
        answers = ids[:, inputs["input_ids"].shape[1] :].tolist()
        events = handle.trace or [[] for _ in prompts]
        return [
            Answered(before_closing(row, closing), tuple(of)) for row, of in zip(answers, events, strict=True)
        ]

    for image, prompts in pictures:
        sides: Sides = {}
        groups = [prompts[first : first + BATCH] for first in range(0, len(prompts), BATCH)]
        sides[ALONE] = [one for text in prompts for one in generate(image, [text])]
        sides[BATCHED] = [one for group in groups for one in generate(image, group)]
        with handle.disabled():
            sides[STOCK] = [one for text in prompts for one in generate(image, [text])]
            sides[STOCK_BATCHED] = [one for group in groups for one in generate(image, group)]
        found = engine.answer(image, prompts, [blink, Run()], max_new_tokens=ANSWER)
        for side, answers in zip((SHARED, STOCK_SHARED), found, strict=True):
            sides[side] = [Answered(before_closing(each.ids, closing), each.events) for each in answers]
        yield sides
    handle.detach()


def before_closing(ids: Sequence[int], closing: frozenset[int]) -> tuple[int, ...]:
    """Ids up to the first closing one, which is left out, as is the padding behind it."""
    ends = [index for index, token in enumerate(ids) if token in closing]
    return tuple(ids[: ends[0]] if ends else ids)


def differences(one: Sequence[Answered], other: Sequence[Answered]) -> tuple[int, int, int, float]:
    """Compare two sides: answers that differ, events that differ in action or region, events, and the ratios' largest
    difference."""
    pairs = [pair for a, b in zip(one, other, strict=True) for pair in zip(a.events, b.events, strict=True)]
    answers = sum(a.ids != b.ids for a, b in zip(one, other, strict=True))
    events = sum((a.action, a.region) != (b.action, b.region) for a, b in pairs)
    return answers, events, len(pairs), max((abs(a.ratio - b.ratio) for a, b in pairs), default=0.0)


def cells(dtype: str, sides: Sides) -> Iterator[tuple[str, ...]]:
    """The table's cells for one dtype."""
    for one, other in PAIRS:
        answers, events, all_events, ratio = differences(sides[one], sides[other])
        blink = bool(all_events)
        yield (
            dtype,
            f"{one} / {other}",
            _share(answers, len(sides[one])),
            _share(events, all_events) if blink else "",
            f"{ratio:.2g}" if blink else "",
        )


def _share(count: int, of: int) -> str:
    return f"{count} of {of} ({100 * count / of:.1f} %)"


def measure(dtypes: Sequence[str], pictures: int) -> Iterator[int]:
    """Write the table, anew after each picture; yields the number of pictures so far, for each dtype."""
    finished: list[tuple[str, ...]] = []
    for dtype in dtypes:
        bench = tiny(dtype)
        bench.processor.tokenizer.padding_side = "left"
        together: Sides = {}
        lines: list[tuple[str, ...]] = []
        with torch.inference_mode():
            for number, sides in enumerate(answer(bench, pope_pictures(bench, pictures)), 1):
                for side, given in sides.items():
                    together.setdefault(side, []).extend(given)
                lines = list(cells(dtype, together))
                _, table = paper_table(HEADER, [*finished, *lines])
                TARGET.parent.mkdir(parents=True, exist_ok=True)
                TARGET.write_text(f"{HEAD}\n{table}\n", encoding="utf-8")
                yield number
        finished += lines


def main() -> None:
    parser = bare_command_line("noise", __doc__)
    parser.add_argument("--pictures", type=int, default=17, help=f"with {QUESTIONS} questions each")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["bfloat16"])
    options = parser.parse_args()
    for number in measure(options.dtypes, options.pictures):
        print(f"{number} of {options.pictures} pictures", file=sys.stderr, flush=True)
    print(TARGET.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
