"""One question of each kind about each scene, as the rows of a user's own questions (`bench/questions.py`)."""

import random
from collections.abc import Iterator
from typing import Any

from blink.scenes.ask import QUESTION_KINDS, Question, absent_kinds, ask, existence, present_kinds
from blink.scenes.draw import scene, scene_name
from blink.scenes.formats import word
from blink.scenes.pope import POPE_CATEGORIES
from blink.scenes.view import View, view

SHORT_KINDS = tuple(kind for kind in QUESTION_KINDS if kind != "describe")
"""Question kinds that a word or phrase answers: all six but the description."""


def ask_evenly(seen: View, kind: str, rng: random.Random) -> Question | None:
    """A question of one kind; of existence as often about what is there as about what is not. None if there is none."""
    if kind != "existence":
        return ask(seen, kind, rng)
    category = rng.choice(POPE_CATEGORIES)
    wanted = (
        rng.choice(present_kinds(seen)) if rng.random() < 0.5 else absent_kinds(seen, category, rng, 1)[0]
    )
    return existence(seen, wanted, category)


def question_rows(
    split: str, images: int, start: int = 0, difficulty: str | None = None
) -> Iterator[dict[str, Any]]:
    """Up to six questions a picture, one of each kind that is surely answered, asked for a word or phrase.

    Columns: ``id``, ``image_source`` ("scenes/{split}/{index}"), ``image``, ``question`` with its closing
    instruction, ``answer``, ``kind`` (one of ``SHORT_KINDS``), ``box`` (pixels of the object asked about, or None) and
    ``difficulty``.

    Raises:
        ValueError: for an unknown split or difficulty.
    """
    for index in range(start, start + images):
        drawn = scene(split, index, difficulty)
        seen = view(drawn)
        rng = random.Random(f"blink/questions/{split}/{index}")
        for kind in SHORT_KINDS:
            question = ask_evenly(seen, kind, rng)
            if question is None:
                continue
            yield {
                "id": f"{index}-{kind}",
                "image_source": scene_name(split, index, difficulty),
                "image": seen.image,
                "question": word(question).text,
                "answer": question.answer,
                "kind": kind,
                "box": question.box,
                "difficulty": drawn.difficulty,
            }
