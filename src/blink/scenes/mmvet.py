"""MM-Vet on scenes, in the columns of its hub edition: free questions, and keys that a judge can look for."""

import random
from collections.abc import Iterator
from typing import Any

from blink.scenes.ask import Question, ask_many, is_closed
from blink.scenes.draw import scene, scene_name
from blink.scenes.view import view

CAPABILITY = {
    "existence": ("rec",),
    "colour": ("rec",),
    "shape": ("rec", "know"),
    "count": ("rec", "math"),
    "where": ("rec", "spat"),
    "relation": ("rec", "spat"),
    "describe": ("rec", "gen"),
}
"""Question kind -> MM-Vet's capabilities. All need recognition; the name of a figure is taken as knowledge, counting
as arithmetic, places and sides as spatial awareness, a list of all objects as language generation. Nothing is written
on scenes, so none needs `ocr`."""

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def mmvet_rows(
    split: str, images: int, start: int = 0, difficulty: str | None = None
) -> Iterator[dict[str, Any]]:
    """MM-Vet on scenes, in the columns of its hub edition, one question of each kind a picture where one can be asked;
    but for existence not one that yes or no would answer.

    Columns: ``question_id`` ("v1_0", ...), ``image``, ``question``, ``answer`` (elements joined by ``<AND>``,
    alternatives by ``<OR>``), ``image_source`` ("scenes/{split}/{index}"), ``capability`` (joined by commas), and
    beside MM-Vet's own ``box`` (pixels of the object asked about, or None), ``difficulty`` and ``kind``.

    Raises:
        ValueError: for an unknown split or difficulty.
    """
    for index in range(start, start + images):
        drawn = scene(split, index, difficulty)
        seen = view(drawn)
        rng = random.Random(f"blink/mmvet/{split}/{index}")
        for number, (kind, capability) in enumerate(CAPABILITY.items()):
            wanted = (q for q in ask_many(seen, kind, rng) if kind == "existence" or not is_closed(q))
            question = next(wanted, None)
            if question is None:
                continue
            yield {
                "question_id": f"v1_{index * len(CAPABILITY) + number}",
                "image": seen.image,
                "question": question.text,
                "answer": key(question),
                "image_source": scene_name(split, index, difficulty),
                "capability": ",".join(capability),
                "box": question.box,
                "difficulty": drawn.difficulty,
                "kind": question.kind,
            }


def key(question: Question) -> str:
    """The right answer as MM-Vet writes it, in words that a right sentence holds and a wrong one does not.

    A place is given with the words around it, since "left" also occurs in "top left", and "at the top" in "at the top
    left"; a description is given by all of its objects.
    """
    if is_closed(question):
        return question.answer.lower()
    if question.kind == "describe":
        return question.answer.replace(" and ", ", ").replace(", ", "<AND>")
    if question.kind == "where":
        return f"at the {question.answer} of the image"
    if question.kind == "count":
        return f"{question.answer}<OR>{NUMBERS[int(question.answer)]}"
    return question.answer.lower()
