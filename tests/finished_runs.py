"""Evaluation runs without a model: samples, answers that follow from a rule, finished run folders."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from blink.bench import Benchmark, Pope, Sample
from blink.bench.pope import SPLITS
from blink.evaluation.answering.parts import naming
from blink.evaluation.answering.predict import Asked, Reply
from blink.evaluation.answering.rows import resume
from blink.evaluation.evaluate import evaluate
from blink.evaluation.result import Result, Setup
from blink.inference.engine import Answer
from blink.inference.policy import Event


def samples(pictures: int = 4) -> list[Sample]:
    """Six questions about each picture: in every split one of each label."""
    return [
        Sample(
            id=f"{split}/{picture}{label}",
            image=f"picture{picture}",
            question=f"Is it {label}? 图",
            label=label,
            split=split,
            open_image=lambda: Image.new("RGB", (4, 4)),
        )
        for picture in range(pictures)
        for split in SPLITS
        for label in ("yes", "no")
    ]


class Rule:
    """An answerer without a model: right answers but for `wrong`; pictures with even numbers expand at layer 3.

    Args:
        wrong: ids of samples to answer wrongly.
        silent: ids of samples to answer with nothing.
        narrow: pictures that are too narrow for Blink.
        fails_at: id of a sample whose batch raises a RuntimeError.

    Attributes:
        batches: ids of the samples of every batch so far.
    """

    def __init__(
        self,
        wrong: Sequence[str] = (),
        fails_at: str | None = None,
        silent: Sequence[str] = (),
        narrow: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.narrow = set(narrow)
        self.wrong = set(wrong)
        self.silent = set(silent)
        self.fails_at = fails_at
        self.batches: list[list[str]] = []
        self.waited = 0.0

    def answer_many(self, asked: Sequence[Asked], stop: Callable[[], bool]) -> Iterator[list[list[Reply]]]:
        for picture in asked:
            if stop():
                return
            with naming([picture]):
                image = picture.samples[0].load_image()
                answers = self.answer(image, picture.samples, picture.runs)
            why = "it is too narrow" if image.size in self.narrow else None
            yield [[Reply(answer, 1000, why) for answer in of_run] for of_run in answers]

    def answer(self, image: Image.Image, batch: Sequence[Sample], runs: Sequence[int]) -> list[list[Answer]]:
        """Answer samples about one picture."""
        self.batches.append([sample.id for sample in batch])
        if self.fails_at in self.batches[-1]:
            raise RuntimeError("out of memory")
        return [[self._answer(sample) for sample in batch] for _ in runs]

    def _answer(self, sample: Sample) -> Answer:
        says_yes = (sample.label == "yes") != (sample.id in self.wrong)
        expands = int(sample.image[-1]) % 2 == 0
        events = (Event(2, 0.25, 1, "drop"), Event(3, 0.123456789, 0, "expand" if expands else "keep"))
        text = "" if sample.id in self.silent else "Yes, 是" if says_yes else "No."
        return Answer((1, 2), text, events)


def finish(
    folder: Path,
    rule: Rule,
    asked: Sequence[Sample],
    benchmark: Benchmark | None = None,
    **about: Any,
) -> Result:
    """Run an evaluation in `folder` to its end, continuing from what is there.

    Args:
        benchmark: None is POPE.
        about: fields of `Setup`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    inputs = {"backbone": "same"}
    rows = resume(folder, asked, inputs=inputs)
    setup = Setup(**{"method": "blink", "data": "by hand"} | about)
    return evaluate(
        benchmark or Pope(), asked, rows, lambda: rule, folder, setup=setup, edition="by hand"
    ).result


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's predictions."""
    return [
        json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    ]
