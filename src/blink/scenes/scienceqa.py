"""ScienceQA on scenes, in the columns of its hub edition."""

import random
from collections.abc import Iterator
from typing import Any

from blink.scenes.ask import ask
from blink.scenes.draw import scene, scene_name
from blink.scenes.formats import choices
from blink.scenes.view import view

SCIENCEQA_KINDS = ("existence", "colour", "shape", "count", "where", "relation")
QUESTIONS_PER_PICTURE = 4


def scienceqa_rows(
    split: str, images: int, start: int = 0, difficulty: str | None = None
) -> Iterator[dict[str, Any]]:
    """ScienceQA on scenes: 4 questions a picture with 2 to 5 choices; half of them have a hint.

    Beside ScienceQA's columns (``image``, ``question``, ``choices``, ``answer`` (the index of the right choice),
    ``hint``, ``task``, ``grade``, ``subject``, ``topic``, ``category``, ``skill``, ``lecture``, ``solution``; empty
    where shapes have nothing to say) a row has ``image_source``, ``box`` (pixels of the object asked about, or None),
    ``difficulty`` and ``kind``. ``category`` is the kind of question, ``grade`` follows from the difficulty.

    Raises:
        ValueError: for an unknown split or difficulty.
    """
    grades = {"easy": "grade2", "ordinary": "grade5", "hard": "grade8"}
    for index in range(start, start + images):
        drawn = scene(split, index, difficulty)
        seen = view(drawn)
        rng = random.Random(f"blink/scienceqa/{split}/{index}")
        asked: set[str] = set()
        while len(asked) < QUESTIONS_PER_PICTURE:
            question = ask(seen, rng.choice(SCIENCEQA_KINDS), rng)
            if question is None or question.text in asked:
                continue
            asked.add(question.text)
            shown = choices(question, rng, rng.choice((2, 3, 4, 5)))
            yield {
                "image": seen.image,
                "question": question.text,
                "choices": list(shown.options),
                "answer": shown.right,
                "hint": rng.choice(("", f"There are {len(seen.objects)} objects in the image.")),
                "task": "closed choice",
                "grade": grades[drawn.difficulty],
                "subject": "natural science",
                "topic": "scenes",
                "category": question.kind,
                "skill": "",
                "lecture": "",
                "solution": question.sentence,
                "image_source": scene_name(split, index, difficulty),
                "box": question.box,
                "difficulty": drawn.difficulty,
                "kind": question.kind,
            }
