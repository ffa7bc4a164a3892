"""MMBench on scenes, in the columns of its authors' table: every question once per rotation of its options."""

import random
from collections.abc import Iterator
from typing import Any

from blink.runs.values import UserError
from blink.scenes.ask import Question, ask
from blink.scenes.draw import scene, scene_name
from blink.scenes.formats import LETTERS, choices
from blink.scenes.view import View, view

ROTATION = 1_000_000
"""A question's rotations have indices that differ by multiples of this, as MMBench numbers them."""

QUESTIONS_PER_PICTURE = 4
MMBENCH_COLUMNS = "ABCD"

ABILITIES = {
    "existence": ("object_localization", "finegrained_perception (instance-level)"),
    "count": ("object_localization", "finegrained_perception (instance-level)"),
    "where": ("object_localization", "finegrained_perception (instance-level)"),
    "colour": ("attribute_recognition", "finegrained_perception (instance-level)"),
    "shape": ("attribute_recognition", "finegrained_perception (instance-level)"),
    "relation": ("spatial_relationship", "finegrained_perception (cross-instance)"),
}
"""MMBench's category and l2-category nearest to each kind of question; shapes have no others."""


def mmbench_rows(
    split: str, images: int, start: int = 0, difficulty: str | None = None
) -> Iterator[dict[str, Any]]:
    """MMBench on scenes: 4 questions of different kinds a picture, each with 2 to 4 options and as many rows, in
    which the options move up one place at a time and the answer's letter with them; half of the questions have a
    hint. The Chinese edition has the same rows, as the scenes know no Chinese but the closing line.

    Beside MMBench's columns (``index``, ``question``, ``hint``, ``A`` to ``D``, ``answer``, ``category``, ``image``,
    ``source``, ``l2-category``, ``comment``, ``split``; None where there is nothing) a row has ``image_source``,
    ``box`` (pixels of the object asked about, or None), ``difficulty`` and ``kind``.

    Raises:
        ValueError: for an unknown split or difficulty, or more pictures than there are indices for.
    """
    most = ROTATION // QUESTIONS_PER_PICTURE
    if start + images > most:
        raise UserError(f"pictures up to {start + images} asked for; MMBench's numbering ends at {most}")
    for index in range(start, start + images):
        drawn = scene(split, index, difficulty)
        seen = view(drawn)
        rng = random.Random(f"blink/mmbench/{split}/{index}")
        for number, question in enumerate(_questions(seen, rng)):
            shown = choices(question, rng, rng.choice((2, 3, 4, 4)))
            hint = rng.choice((None, f"There are {len(seen.objects)} objects in the image."))
            category, ability = ABILITIES[question.kind]
            count = len(shown.options)
            for turn in range(count):
                options = shown.options[turn:] + shown.options[:turn]
                listed = dict(zip(MMBENCH_COLUMNS, options, strict=False))
                yield {
                    "index": index * QUESTIONS_PER_PICTURE + number + turn * ROTATION,
                    "question": question.text,
                    "hint": hint,
                    **{letter: listed.get(letter) for letter in MMBENCH_COLUMNS},
                    "answer": LETTERS[(shown.right - turn) % count],
                    "category": category,
                    "image": seen.image,
                    "source": "scenes",
                    "l2-category": ability,
                    "comment": None,
                    "split": "dev",
                    "image_source": scene_name(split, index, difficulty),
                    "box": question.box,
                    "difficulty": drawn.difficulty,
                    "kind": question.kind,
                }


def _questions(seen: View, rng: random.Random) -> Iterator[Question]:
    """Questions of different kinds, as many as a picture gets; of the same kinds again where some cannot be asked."""
    asked: set[str] = set()
    while len(asked) < QUESTIONS_PER_PICTURE:
        for kind in rng.sample(list(ABILITIES), len(ABILITIES)):
            question = ask(seen, kind, rng)
            if question is not None and question.text not in asked and len(asked) < QUESTIONS_PER_PICTURE:
                asked.add(question.text)
                yield question
