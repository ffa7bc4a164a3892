"""MME on scenes, in the columns of its hub edition.

MME's 14 subtasks ask about photographs, posters, texts and code. On pictures of shapes each becomes the question
kind nearest to it:

======================  ===========================  ===================================================
subtask                 on scenes                    what the two have in common
======================  ===========================  ===================================================
existence               existence, random negatives  the same
count                   count                        the same
position                relation                     the same: left, right, above, below
color                   colour                       the same
posters                 shape                        naming what is shown
celebrity               existence, adversarial ones  telling one apart from those of its usual company
scene                   where                        how the picture is laid out
landmark                where                        knowing a place
artwork                 shape                        form
OCR                     colour                       one small detail of one object
commonsense_reasoning   relation                     putting two objects together
numerical_calculation   count                        numbers
text_translation        existence, popular ones      the likely answer can be guessed without the picture
code_reasoning          relation                     following a statement about two things
======================  ===========================  ===================================================
"""

import random
from collections.abc import Iterator
from typing import Any

from blink.scenes.ask import (
    TRIES,
    Question,
    absent_kinds,
    ask_many,
    existence,
    is_closed,
    present_kinds,
)
from blink.scenes.draw import scene, scene_name
from blink.scenes.formats import YES_OR_NO
from blink.scenes.view import View, view

MME_KINDS: dict[str, tuple[str, str]] = {
    "existence": ("existence", "random"),
    "count": ("count", ""),
    "position": ("relation", ""),
    "color": ("colour", ""),
    "posters": ("shape", ""),
    "celebrity": ("existence", "adversarial"),
    "scene": ("where", ""),
    "landmark": ("where", ""),
    "artwork": ("shape", ""),
    "OCR": ("colour", ""),
    "commonsense_reasoning": ("relation", ""),
    "numerical_calculation": ("count", ""),
    "text_translation": ("existence", "popular"),
    "code_reasoning": ("relation", ""),
}
"""Subtask -> question kind, and how absent kinds are chosen where the kind is existence."""


def mme_rows(
    split: str, images: int, start: int = 0, difficulty: str | None = None
) -> Iterator[dict[str, Any]]:
    """MME on scenes, in the columns of its hub edition: for each picture and subtask a question whose answer is yes
    and one whose answer is no, about the same object where they are about one.

    A subtask that a picture has no certain pair for is left out of this picture. No question is asked twice about a
    picture. Beside MME's columns (``question_id`` "count/000007.png", shared by a pair; ``image``, ``question`` with
    its closing "Please answer yes or no.", ``answer`` Yes/No, ``category``) a row has ``image_source``, ``box``
    (pixels of the object asked about, or None), ``difficulty`` and ``kind``.

    Raises:
        ValueError: for an unknown split or difficulty.
    """
    for index in range(start, start + images):
        drawn = scene(split, index, difficulty)
        seen = view(drawn)
        asked: set[str] = set()
        for subtask, (kind, negatives) in MME_KINDS.items():
            rng = random.Random(f"blink/mme/{split}/{index}/{subtask}")
            pair = _pair(_claims(seen, kind, negatives, rng), asked)
            asked |= {question.text for question in pair}
            for question in pair:
                yield {
                    "question_id": f"{subtask}/{index:06}.png",
                    "image": seen.image,
                    "question": f"{question.text} {YES_OR_NO}",
                    "answer": question.answer,
                    "category": subtask,
                    "image_source": scene_name(split, index, difficulty),
                    "box": question.box,
                    "difficulty": drawn.difficulty,
                    "kind": question.kind,
                }


def _claims(seen: View, kind: str, negatives: str, rng: random.Random) -> Iterator[Question]:
    """Yes/no questions of a kind, both answers among them."""
    if kind != "existence":
        yield from filter(is_closed, ask_many(seen, kind, rng))
        return
    for _ in range(TRIES):
        yield existence(seen, rng.choice(present_kinds(seen)))
        yield existence(seen, absent_kinds(seen, negatives, rng, 1)[0], negatives)


def _pair(claims: Iterator[Question], asked: set[str]) -> tuple[Question, ...]:
    """The first yes and no of the claims that go together and were not asked; nothing if there are none."""
    found: dict[object, dict[str, Question]] = {}
    for claim in claims:
        if claim.text in asked:
            continue
        about = None if claim.kind in ("existence", "count") else claim.box
        answers = found.setdefault(about, {})
        answers.setdefault(claim.answer, claim)
        if len(answers) == 2:
            return answers["Yes"], answers["No"]
    return ()
