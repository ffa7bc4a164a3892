"""POPE on scenes, in the columns of its hub edition."""

import random
from collections.abc import Iterator
from typing import Any

from blink.scenes.ask import absent_kinds, existence, present_kinds
from blink.scenes.draw import scene, scene_name
from blink.scenes.view import view

POPE_CATEGORIES = ("adversarial", "popular", "random")
QUESTIONS_PER_CATEGORY = 6


def pope_rows(
    split: str, images: int, start: int = 0, difficulty: str | None = None
) -> Iterator[dict[str, Any]]:
    """POPE on scenes, in the columns of its hub edition, 18 questions a picture: 3 present and 3 absent kinds for
    each category, present kinds the same in all three, absent ones chosen at random, among the popular ones, or
    among those that co-occur with what is there (``ask.absent_kinds``).

    Beside POPE's columns (``id``, ``question_id``, ``question``, ``answer`` yes/no, ``image_source``, ``image``,
    ``category``) a row has ``box`` (pixels of the object asked about, or None), ``difficulty`` and ``kind``.

    Raises:
        ValueError: for an unknown split or difficulty.
    """
    for index in range(start, start + images):
        drawn = scene(split, index, difficulty)
        seen = view(drawn)
        rng = random.Random(f"blink/pope/{split}/{index}")
        present = rng.sample(present_kinds(seen), 3)
        for category in POPE_CATEGORIES:
            absent = absent_kinds(seen, category, rng, 3)
            asked = [kind for pair in zip(present, absent, strict=True) for kind in pair]
            for number, kind in enumerate(asked, start=1):
                question = existence(seen, kind, category)
                yield {
                    "id": f"{category}-{index}-{number}",
                    "question_id": str((index - start) * QUESTIONS_PER_CATEGORY + number),
                    "question": question.text,
                    "answer": question.answer.lower(),
                    "image_source": scene_name(split, index, difficulty),
                    "image": seen.image,
                    "category": category,
                    "box": question.box,
                    "difficulty": drawn.difficulty,
                    "kind": question.kind,
                }
