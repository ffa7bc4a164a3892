"""MM-Vet on scenes: its columns, and keys that tell right sentences from wrong ones."""

import random

import pytest

from blink.bench.judges.base import match
from blink.scenes.ask import PLACES, QUESTION_KINDS, ask
from blink.scenes.draw import scene
from blink.scenes.mmvet import CAPABILITY, key, mmvet_rows
from blink.scenes.view import view


def test_columns_are_those_of_the_hub() -> None:
    """Would catch a missing column, ids that repeat, and a kind of question that is never asked."""
    rows = list(mmvet_rows("validation", 8))
    assert {
        "question_id",
        "image",
        "question",
        "answer",
        "image_source",
        "capability",
        "box",
        "difficulty",
        "kind",
    } == set(rows[0])
    assert len({row["question_id"] for row in rows}) == len(rows)
    assert {row["capability"] for row in rows} == {",".join(names) for names in CAPABILITY.values()}
    assert {row["image_source"] for row in rows} == {f"scenes/validation/{i}" for i in range(8)}


def test_questions_do_not_depend_on_how_many_are_asked_for() -> None:
    """Would catch a generator shared between pictures, and ids that shift."""
    few, many, later = (
        [(row["question_id"], row["question"]) for row in rows]
        for rows in (mmvet_rows("test", 1), mmvet_rows("test", 3), mmvet_rows("test", 2, start=1))
    )
    assert many == few + later


@pytest.mark.parametrize("kind", QUESTION_KINDS)
def test_keys_tell_right_from_wrong(kind: str) -> None:
    """Would catch "left" found in "top left", a number missed for its word, and a list without its last object.

    The sentence that the backbone is taught has the full score, that of a question with another answer has not.
    """
    rng = random.Random(kind)
    drawn = [ask(view(scene("validation", index)), kind, rng) for index in range(40)]
    questions = [question for question in drawn if question is not None]
    assert len(questions) > 10
    for question in questions:
        assert match(key(question), question.sentence) == 1
        others = [
            other for other in questions if other.text == question.text and other.answer != question.answer
        ]
        assert all(match(key(question), other.sentence) < 1 for other in others)


def test_no_place_is_found_in_another() -> None:
    """Would catch a key that takes one of the nine places for another."""
    sentences = [f"The red circle is at the {place} of the image." for place in PLACES]
    found = [[match(f"at the {place} of the image", sentence) for sentence in sentences] for place in PLACES]
    assert found == [[float(i == j) for j in range(9)] for i in range(9)]
