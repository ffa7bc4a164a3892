"""Questions about training images, with their right answers: about scenes, of the LLaVA-1.5 mixture, of the user's own.

Knows neither models nor prompts.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from blink.model.prompts import IMAGE_TOKEN
from blink.runs.inputs.names import check_name
from blink.runs.inputs.pictures import Rules
from blink.runs.values import UserError
from blink.scenes.formats import Exchange
from blink.scenes.questions import question_rows
from blink.training.images import OWN, ImageSubset, in_first_root, read_entries

MOST = 8
"""Questions that go together about one image; where an image has more, it is several entries of an epoch."""


@dataclass(frozen=True)
class SceneQuestions:
    """Questions about drawn images from number `first` of a split on, one of each kind; made when asked for."""

    split: str
    first: int

    def __getitem__(self, index: int) -> Sequence[Exchange]:
        rows = question_rows(self.split, 1, self.first + index)
        return [Exchange(row["question"], row["answer"]) for row in rows]


Asked = SceneQuestions | Sequence[Sequence[Exchange]]
"""Questions about each image of a collection, by its number."""


def questions_by_image(
    annotations: Path, roots: Sequence[Path], rules: Rules = OWN
) -> dict[str, list[Exchange]]:
    """Read the questions of a file of entries: name of the image, as `mixture_images` has it -> questions and answers.

    An entry holds "image" and either "question" and "answer", or "conversations" as llava_v1_5_mix665k.json does. Of a
    conversation the first question and its answer are taken: the prompt ends before the first answer, and there is the
    scan. Entries without an image are skipped.

    Raises:
        UserError: an entry with an image has neither, or a blank question or answer.
    """
    found: dict[str, list[Exchange]] = {}
    for number, entry in enumerate(read_entries(annotations), start=1):
        if entry.get("image"):
            where = f"{annotations}, entry {number}"
            name = check_name(entry["image"], where, outside=rules.outside)
            found.setdefault(str(in_first_root(name, roots)), []).append(_exchange(entry, where))
    return found


def with_questions(
    images: ImageSubset, questions: Mapping[str, Sequence[Exchange]]
) -> tuple[ImageSubset, list[Sequence[Exchange]]]:
    """Those images of a collection that have questions, as often as `MOST` of these go together, and the questions of each.

    Raises:
        UserError: none has.
    """
    places: list[int] = []
    asked: list[Sequence[Exchange]] = []
    for place in range(len(images)):
        exchanges = questions.get(images.name(place), ())
        for first in range(0, len(exchanges), MOST):
            places.append(place)
            asked.append(exchanges[first : first + MOST])
    if not places:
        raise UserError("none of the images has a question with an answer; objective=kl trains without")
    digest = hashlib.sha256(repr(asked).encode()).hexdigest()
    return (
        replace(
            images,
            indices=tuple(images.indices[place] for place in places),
            content=f"{images.content or images.images.fingerprint} {digest}",
            sizes=None if images.sizes is None else tuple(images.sizes[place] for place in places),
        ),
        asked,
    )


def _exchange(entry: Mapping[str, Any], where: str) -> Exchange:
    """The question and the answer of an entry."""
    turns = entry.get("conversations")
    if isinstance(turns, list) and len(turns) > 1 and all(isinstance(turn, dict) for turn in turns[:2]):
        speakers = [turn.get("from") for turn in turns[:2]]
        if speakers != ["human", "gpt"]:
            raise UserError(f"{where}: its conversation begins with {speakers}; expected 'human', then 'gpt'")
        question, answer = (turn.get("value") for turn in turns[:2])
        question = question.replace(IMAGE_TOKEN, "").strip() if isinstance(question, str) else question
    else:
        question, answer = entry.get("question"), entry.get("answer")
    if not all(isinstance(part, str) and part.strip() for part in (question, answer)):
        raise UserError(
            f"{where}: question={question!r}, answer={answer!r}; expected two texts, under these keys or as the first two "
            "turns of 'conversations'"
        )
    return Exchange(str(question), str(answer).strip())
