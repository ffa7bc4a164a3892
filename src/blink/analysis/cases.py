"""Questions of the user's own, beside those of benchmarks: a file of questions about a folder of pictures, or a single one.

The file is that of `blink.bench.questions`, but `answer` may be left out: it is shown, and not scored.

Axes of boxes: x to the right, y down. Regions are the cells of p x p, row-major.
"""

import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from blink.bench.base import Sample, check_unique
from blink.bench.questions import own_entry
from blink.inference.boxes import seen_box
from blink.model.families import Grid
from blink.model.views import ViewMaker
from blink.runs.files import numbered_rows
from blink.runs.inputs.pictures import Rules
from blink.runs.values import UserError
from blink.training.images import OWN

log = logging.getLogger(__name__)

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


class Shown(NamedTuple):
    """A sample as the backbone sees it.

    Attributes:
        picture: the part of the picture that the backbone sees.
        grid: (H, W) of the base view's visual tokens.
        box: of what the question is about, in pixels of `picture`; None if unknown.
        right: the region that holds most of the box (`blink.inference.boxes`); None if unknown or not seen.
    """

    sample: Sample
    picture: Image.Image
    grid: Grid
    box: Box | None
    right: int | None


def as_seen(sample: Sample, views: ViewMaker, patches: int) -> Shown:
    """Open a sample's picture, and find the region that its box belongs to."""
    image, box = sample.load_image(), box_of(sample)
    picture, grid = views.seen(image), views.grid(image.size)
    if box is None:
        return Shown(sample, picture, grid, None, None)
    window = views.window(image.size)
    seen = seen_box(box, window)
    right = None if seen is None else seen.region(patches, grid)
    return Shown(sample, picture, grid, in_window(box, window), right)


def tell_unseen(shown: Sequence[Shown]) -> None:
    """Log which boxes lie outside what the backbone sees of their pictures: no region counts as right for these."""
    if unseen := [case.sample for case in shown if case.box is not None and case.right is None]:
        first = unseen[0]
        log.warning(
            "%s of %s boxes lie outside what the backbone sees of their pictures, such as that of %s, %s: no region counts as "
            "right for these",
            len(unseen),
            sum(case.box is not None for case in shown),
            first.id,
            list(first.details["box"]),
        )


def folder_cases(questions: Path, pictures: Path | None = None, rules: Rules = OWN) -> list[Sample]:
    """Read the questions of a file about pictures of a folder, None: the folder that the file lies in.

    Args:
        rules: how pictures are read, and where their names may lead.

    Raises:
        UserError: the file is missing, empty or has a line that is not as above, or a picture is missing.
    """
    if not questions.is_file():
        raise UserError(f"questions={questions} is not a file; give a file of one JSON object per line")
    folder = questions.parent if pictures is None else pictures
    rows = numbered_rows(questions)
    if not rows:
        raise UserError(f"{questions} holds no questions")
    samples = [_sample(folder, row, f"{questions}, line {line}", str(line), rules) for line, row in rows]
    check_unique([sample.id for sample in samples], f"question ids of {questions}")
    return samples


def one_case(
    image: Path, question: str, box: Sequence[float] | None = None, rules: Rules = OWN
) -> list[Sample]:
    """One question about one picture.

    Raises:
        UserError: the picture cannot be read, the question is blank, or the box is not four numbers in order.
    """
    if not image.is_file():
        raise UserError(f"image={image} is not a file")
    rules.reading(image, f"image={image}")
    row = {"image": image.name, "question": question, "box": box, "id": image.stem}
    return [_sample(image.parent, row, "the command", image.stem, replace(rules, outside=True))]


def spread_out(samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
    """At most `count` samples, drawn evenly from all and kept in their order."""
    if len(samples) <= count:
        return list(samples)
    return [samples[i] for i in sorted(random.Random(seed).sample(range(len(samples)), count))]


def choose_cases(samples: Sequence[Sample], count: int, ids: Sequence[str] | None) -> list[Sample]:
    """The samples called `ids`, or `count` of different pictures if there are as many, with a box if there are.

    Raises:
        ValueError: an id is not among the samples.
    """
    if ids is not None:
        by_id = {sample.id: sample for sample in samples}
        missing = [name for name in ids if name not in by_id]
        if missing:
            raise UserError(
                f"figure.ids={missing}: not among the {len(samples)} questions looked at, such as {next(iter(by_id))}; "
                "samples= takes more of them"
            )
        return [by_id[name] for name in ids]
    seen: dict[str, int] = {}
    ranks = []
    for index, sample in enumerate(samples):
        boxed = sample.details.get("box") is not None
        earlier = seen.get(f"{sample.image} {boxed}", 0)
        seen[f"{sample.image} {boxed}"] = earlier + 1
        ranks.append((not boxed, earlier, index))
    return [samples[index] for _, _, index in sorted(ranks)[:count]]


def box_of(sample: Sample) -> Box | None:
    """The box of what a sample asks about, in pixels of its picture; None if none is known."""
    box = sample.details.get("box")
    return None if box is None else (box[0], box[1], box[2], box[3])


def in_window(box: Box, window: tuple[int, int, int, int]) -> Box:
    """A box of the picture as a box of the part that the backbone sees.

    Args:
        window: of `blink.model.views.ViewMaker.window`.
    """
    left, top = window[:2]
    return box[0] - left, box[1] - top, box[2] - left, box[3] - top


def _sample(folder: Path, row: Mapping[str, Any], where: str, key: str, rules: Rules) -> Sample:
    """The sample of a row that stands `where`; `key` is its id unless it has one."""
    entry = own_entry(folder, row, where, key, rules)
    return Sample(
        id=entry.row["id"],
        image=row["image"],
        question=row["question"],
        label="" if row.get("answer") is None else str(row["answer"]),
        split="",
        open_image=entry.open_image,
        details={"box": entry.row["box"]},
    )
