"""GQA on scenes, in the columns of its hub edition."""

import random
from collections.abc import Iterator
from typing import Any

from blink.scenes.ask import Question, absent_kinds, ask_many, existence, is_closed, present_kinds
from blink.scenes.draw import scene, scene_name
from blink.scenes.view import View, view

SEMANTIC = {
    "existence": "obj",
    "colour": "attr",
    "shape": "attr",
    "count": "obj",
    "where": "attr",
    "relation": "rel",
}
"""Question kind -> GQA's semantic type: existence and number of objects, attributes (a place is one), relations."""


def gqa_rows(
    split: str, images: int, start: int = 0, difficulty: str | None = None
) -> Iterator[dict[str, Any]]:
    """GQA on scenes, in the columns of its hub edition: up to 12 questions a picture, of every kind but ``describe``
    an open one and one to be answered yes or no (of existence: one each of yes and no).

    Columns: ``id``, ``imageId`` ("scenes/{split}/{index}"), ``image``, ``question``, ``answer`` (lower case),
    ``fullAnswer``, ``isBalanced``, ``types`` (``structural``: verify, choose where the question names the answers, or
    query; ``semantic``; ``detailed``), and beside GQA's own ``image_source`` (as
    ``imageId``), ``box`` (pixels of the object asked about, or None), ``difficulty`` and ``kind``.

    Raises:
        ValueError: for an unknown split or difficulty.
    """
    for index in range(start, start + images):
        drawn = scene(split, index, difficulty)
        seen = view(drawn)
        rng = random.Random(f"blink/gqa/{split}/{index}")
        for number, question in enumerate(_questions(seen, rng), start=1):
            structural = _structural(question)
            yield {
                "id": f"{index}{number:02}",
                "imageId": scene_name(split, index, difficulty),
                "image": seen.image,
                "question": question.text,
                "answer": question.answer.lower(),
                "fullAnswer": question.sentence,
                "isBalanced": True,
                "types": {
                    "structural": structural,
                    "semantic": SEMANTIC[question.kind],
                    "detailed": f"{question.kind}{structural.capitalize()}",
                },
                "image_source": scene_name(split, index, difficulty),
                "box": question.box,
                "difficulty": drawn.difficulty,
                "kind": question.kind,
            }


def _questions(seen: View, rng: random.Random) -> Iterator[Question]:
    category = rng.choice(("random", "popular", "adversarial"))
    yield existence(seen, rng.choice(present_kinds(seen)))
    yield existence(seen, absent_kinds(seen, category, rng, 1)[0], category)
    for kind in SEMANTIC:
        if kind != "existence":
            yield from _open_and_closed(ask_many(seen, kind, rng), rng.choice(("Yes", "No")))


def _open_and_closed(drawn: Iterator[Question], wanted: str) -> list[Question]:
    """The first open question and the first whose answer is `wanted`, as far as there are any."""
    found: dict[bool, Question] = {}
    for question in drawn:
        if not is_closed(question) or question.answer == wanted:
            found.setdefault(is_closed(question), question)
        if len(found) == 2:
            break
    return [found[closed] for closed in sorted(found)]


def _structural(question: Question) -> str:
    if is_closed(question):
        return "verify"
    return "choose" if " or " in question.text else "query"
