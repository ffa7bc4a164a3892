"""A scene drawn on request, and questions about it whose answers are known."""

import random
from typing import NamedTuple

from PIL import Image

from blink.analysis.cases import Box
from blink.runs.values import choice, whole_number
from blink.scenes.ask import ask
from blink.scenes.draw import DIFFICULTIES, SPLIT_SIZE, scene
from blink.scenes.formats import sentence
from blink.scenes.questions import question_rows
from blink.scenes.view import view

SPLIT = "validation"
"""Nothing is trained on its pictures, and no result is reported on them."""

HARDEST = tuple(kind.name for kind in DIFFICULTIES)


class Drawn(NamedTuple):
    """A question about a scene.

    Attributes:
        text: as the backbone gets it.
        answer: the right one.
        box: of what it is about, in pixels of the picture; None if that is not there.
    """

    text: str
    answer: str
    box: Box | None


class DrawnScene(NamedTuple):
    """A picture and what can be asked about it."""

    number: int
    difficulty: str
    picture: Image.Image
    questions: tuple[Drawn, ...]


def draw(number: object, difficulty: object) -> DrawnScene:
    """Draw a scene of the validation split, the same for the same number, with up to seven questions.

    Args:
        number: from 0; None is any.
        difficulty: one of `HARDEST`.

    Raises:
        UserError: there is no such number or difficulty.
    """
    hard = choice("difficulty", difficulty, HARDEST)
    index = (
        random.randrange(SPLIT_SIZE)
        if number is None
        else whole_number("scene", number, 0, most=SPLIT_SIZE - 1)
    )
    found = [
        Drawn(row["question"], row["answer"], row["box"])
        for row in question_rows(SPLIT, 1, index, difficulty=hard)
    ]
    seen = view(scene(SPLIT, index, hard))
    described = ask(seen, "describe", random.Random(f"blink/demo/{index}"))
    if described is not None:
        told = sentence(described)
        found.append(Drawn(told.text, told.response, None))
    return DrawnScene(index, hard, seen.image, tuple(found))
