"""Every answer is true of the picture, checked against the list of objects by other code than the asker's."""

import random
import re

import pytest

from blink.scenes.ask import LEVEL, PLACES, QUESTION_KINDS, Question, absent_kinds, ask, present_kinds
from blink.scenes.draw import COLOURS, SHAPES, scene
from blink.scenes.view import View, view

KIND = rf"({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})"


def asked(kind: str, count: int = 60) -> list[tuple[View, Question]]:
    found = []
    for index in range(4 * count):
        seen = view(scene("validation", index), None if index % 3 else index % 4)
        question = ask(seen, kind, random.Random(index))
        if question is not None:
            found.append((seen, question))
    assert len(found) > count
    return found


def test_existence_is_true() -> None:
    """Would catch an absent kind that is in the picture, or a cut object taken for absent."""
    answers = set()
    for seen, question in asked("existence"):
        found = re.search(KIND, question.text)
        assert found
        kind = (found[1], found[2])
        assert kind not in seen.doubtful
        assert (question.answer == "Yes") == any(item.kind == kind for item in seen.objects)
        assert (question.box is not None) == (question.answer == "Yes")
        answers.add(question.answer)
    assert answers == {"Yes", "No"}


@pytest.mark.parametrize(("kind", "open_word"), [("colour", "color"), ("shape", "shape")])
def test_attributes_belong_to_the_only_object_meant(kind: str, open_word: str) -> None:
    """Would catch "the circle" where there are two, one perhaps cut by the border."""
    for seen, question in asked(kind):
        known = re.search(
            rf"\b({'|'.join(SHAPES)})\b" if kind == "colour" else rf"\b({'|'.join(COLOURS)}) object",
            question.text,
        )
        assert known
        slot = 1 if kind == "colour" else 0
        meant = [item for item in seen.objects if item.kind[slot] == known[1]]
        assert len(meant) == 1
        assert all(doubtful[slot] != known[1] for doubtful in seen.doubtful)
        truth = meant[0].kind[1 - slot]
        if open_word in question.text:
            assert question.answer == truth
            assert truth not in question.options
        else:
            assert (question.answer == "Yes") == (truth in question.text)


def test_count_is_right() -> None:
    """Would catch a count that takes in doubtful objects or another colour's."""
    for seen, question in asked("count"):
        word = re.search(rf"\b({'|'.join(SHAPES)})|({'|'.join(COLOURS)}) object", question.text)
        assert word
        value = word[1] or word[2]
        number = sum(value in item.kind for item in seen.objects)
        if question.text.startswith("How many"):
            assert question.answer == str(number)
        else:
            claimed = re.search(r"\d", question.text)
            assert claimed
            assert (question.answer == "Yes") == (int(claimed[0]) == number)


def test_where_and_relations_keep_their_distance() -> None:
    """Would catch places decided by a hair, and left taken for right."""
    for seen, question in asked("where"):
        item = next(i for i in seen.objects if " ".join(i.kind) in question.text)
        place = PLACES[int(item.y * 3) * 3 + int(item.x * 3)]
        assert question.answer == (place if question.text.startswith("Where") else question.answer)
        if not question.text.startswith("Where"):
            claimed = re.search(r"at the (.*) of the image", question.text)
            assert claimed
            assert (question.answer == "Yes") == (claimed[1] == place)
    for seen, question in asked("relation"):
        first, second = (
            next(i for i in seen.objects if i.kind == kind) for kind in re.findall(KIND, question.text)
        )
        true_side = next(
            side
            for side in ("left", "right", "above", "below")
            if f"is to the {side}" in question.sentence.removeprefix("Yes, ")
            or f"is {side}" in question.sentence
        )
        gap = {
            "left": second.x - first.x,
            "right": first.x - second.x,
            "above": second.y - first.y,
            "below": first.y - second.y,
        }
        assert gap[true_side] >= LEVEL
        if question.answer in ("Yes", "No"):
            claimed_side = next(side for side in gap if side in question.text)
            assert (question.answer == "Yes") == (claimed_side == true_side)
        else:
            assert question.answer == true_side


def test_describe_names_every_object_once() -> None:
    """Would catch objects left out, or a picture with cut ones described."""
    for seen, question in asked("describe", 25):
        assert not seen.doubtful
        assert len(re.findall(KIND, question.sentence)) == len(seen.objects)


def test_questions_are_alone_in_their_right_answer() -> None:
    """Would catch a wrong option that is right."""
    for kind in QUESTION_KINDS:
        for _, question in asked(kind, 20):
            assert question.answer not in question.options


def test_adversarial_kinds_share_attributes_with_what_is_there() -> None:
    """Would catch categories that are one and the same: adversarial must be harder than random."""
    shared = {"random": 0, "adversarial": 0}
    for index in range(100):
        seen = view(scene("validation", index))
        for category in shared:
            for colour, shape in absent_kinds(seen, category, random.Random(index), 3):
                kinds = present_kinds(seen)
                shared[category] += any(c == colour for c, _ in kinds) and any(s == shape for _, s in kinds)
    assert shared["adversarial"] > 1.5 * shared["random"]


@pytest.mark.parametrize("wrong", ["colours", ""])
def test_unknown_kind_is_refused(wrong: str) -> None:
    """Would catch a misspelt kind that asks nothing, silently."""
    with pytest.raises(ValueError, match="expected one of existence"):
        ask(view(scene("test", 0)), wrong, random.Random(0))
