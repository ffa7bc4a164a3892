"""How often a backbone is right on scenes it has not seen: ``python -m blink.scenes.tiny.accuracy``.

Greedy answers of the stock model, exact match, per question kind and difficulty, and per answer format. Beside
each figure stands the share that always giving the most frequent answer would get.
"""

import argparse
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from blink.model.fingerprint import TINY
from blink.scenes.ask import QUESTION_KINDS, Question
from blink.scenes.draw import DIFFICULTIES, SPLITS, scene
from blink.scenes.formats import LETTER_ZH, Exchange, choices, multiple_choice, sentence, word
from blink.scenes.questions import SHORT_KINDS, ask_evenly
from blink.scenes.tiny.model import TEMPLATE
from blink.scenes.view import view

FORMATS: dict[str, Callable[[Question, random.Random], Exchange]] = {
    "word": lambda question, _: word(question),
    "sentence": lambda question, _: sentence(question),
    "letter": lambda question, rng: multiple_choice(question, choices(question, rng)),
    "letter_zh": lambda question, rng: multiple_choice(question, choices(question, rng), closing=LETTER_ZH),
}


class Item(NamedTuple):
    """One question to put to the model."""

    image: Image.Image
    kind: str
    difficulty: str
    exchange: Exchange


def items(
    split: str, difficulty: str, form: str, per_kind: int, kinds: Collection[str] = QUESTION_KINDS
) -> Iterator[Item]:
    """``per_kind`` questions of each kind about scenes of one difficulty, at most one of a kind per scene."""
    wanted = Counter({kind: per_kind for kind in kinds if kind in SHORT_KINDS or form == "sentence"})
    index = 0
    while wanted.total():
        seen = view(scene(split, index, difficulty))
        rng = random.Random(f"blink/accuracy/{split}/{difficulty}/{form}/{index}")
        index += 1
        for kind in [kind for kind, left in wanted.items() if left]:
            question = ask_evenly(seen, kind, rng)
            if question is not None:
                wanted[kind] -= 1
                yield Item(seen.image, kind, difficulty, FORMATS[form](question, rng))


@torch.inference_mode()
def answer(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, asked: list[Item], max_new_tokens: int
) -> list[str]:
    """Greedy answers to one batch of questions."""
    inputs = processor(
        images=[item.image for item in asked],
        text=[TEMPLATE.prompt(item.exchange.text) for item in asked],
        padding=True,
        return_tensors="pt",
    )
    ids_BS = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    return [
        text.strip()
        for text in processor.batch_decode(
            ids_BS[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
    ]


class Cell(NamedTuple):
    """Right answers, questions, and how often the most frequent right answer occurs."""

    right: int
    asked: int
    most_frequent: int


def measure(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    split: str,
    difficulty: str,
    form: str,
    per_kind: int,
    batch: int = 64,
    kinds: Collection[str] = QUESTION_KINDS,
) -> dict[str, Cell]:
    """Accuracy per question kind on one difficulty in one format."""
    todo = list(items(split, difficulty, form, per_kind, kinds))
    right: Counter[str] = Counter()
    labels: dict[str, Counter[str]] = defaultdict(Counter)
    for start in track(range(0, len(todo), batch), description=f"{difficulty}, {form}", transient=True):
        part = todo[start : start + batch]
        for item, response in zip(
            part, answer(model, processor, part, 48 if form == "sentence" else 6), strict=True
        ):
            right[item.kind] += response == item.exchange.response
            labels[item.kind][item.exchange.response] += 1
    return {
        kind: Cell(right[kind], counts.total(), counts.most_common(1)[0][1])
        for kind, counts in labels.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m blink.scenes.tiny.accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model", default=str(TINY), help="folder of the backbone (default: the shipped one)"
    )
    parser.add_argument("--split", default="test", choices=SPLITS[1:])
    parser.add_argument("--per-kind", type=int, default=300, help="questions per kind, difficulty and format")
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    model = LlavaForConditionalGeneration.from_pretrained(options.model, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(options.model)
    columns = [(d.name, "word") for d in DIFFICULTIES if "word" in options.formats]
    columns += [("ordinary", form) for form in options.formats if form != "word"]
    cells = {
        column: measure(model, processor, options.split, *column, options.per_kind) for column in columns
    }
    table = Table(
        title=f"Exact match in % (most frequent answer), {options.per_kind} questions a cell, {options.split}"
    )
    table.add_column("kind")
    for difficulty, form in columns:
        table.add_column(f"{difficulty}\n{form}", justify="right")
    for kind in QUESTION_KINDS:
        found = [cells[column].get(kind) for column in columns]
        if any(found):
            table.add_row(
                kind,
                *(
                    f"{100 * c.right / c.asked:.1f} ({100 * c.most_frequent / c.asked:.0f})" if c else "-"
                    for c in found
                ),
            )
    Console(markup=False).print(table)
    if options.json:
        figures = {f"{d}/{f}": {k: c._asdict() for k, c in cells[d, f].items()} for d, f in columns}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
