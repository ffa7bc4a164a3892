"""MME on scenes has MME's schema: pairs of one yes and one no in 14 subtasks."""

import random
from collections import Counter, defaultdict

from blink.bench.mme import SUBTASKS
from blink.scenes.ask import ask
from blink.scenes.draw import scene
from blink.scenes.formats import YES_OR_NO
from blink.scenes.mme import MME_KINDS, mme_rows
from blink.scenes.view import view


def test_every_pair_has_one_yes_and_one_no() -> None:
    """Would catch half a pair where a picture has no second claim, and a subtask that is never asked."""
    rows = list(mme_rows("test", 10))
    pairs = defaultdict(list)
    for row in rows:
        pairs[row["question_id"]].append(row["answer"])
        assert row["question_id"].startswith(row["category"] + "/")
    assert all(sorted(answers) == ["No", "Yes"] for answers in pairs.values())
    assert {row["category"] for row in rows} == set(SUBTASKS) == set(MME_KINDS)
    assert len({row["image_source"] for row in rows}) == 10


def test_no_question_comes_twice_about_a_picture() -> None:
    """Would catch subtasks of one kind that ask the same, and count its answer twice."""
    counts = Counter((row["image_source"], row["question"]) for row in mme_rows("test", 10))
    assert set(counts.values()) == {1}


def test_pairs_about_an_object_are_about_the_same_one() -> None:
    """Would catch a yes about the circle with a no about the star: a guess about the circle then wins both."""
    boxes = defaultdict(set)
    for row in mme_rows("test", 6):
        if MME_KINDS[row["category"]][0] in ("colour", "shape", "where", "relation"):
            boxes[row["question_id"]].add(row["box"])
    assert boxes
    assert all(len(found) == 1 for found in boxes.values())


def test_wordings_are_those_that_the_backbone_was_taught() -> None:
    """Would catch a closing, or a kind of claim, that no lesson had."""
    rng = random.Random(0)
    seen = view(scene("test", 1))
    kinds = {kind for kind, _ in MME_KINDS.values()}
    drawn = [ask(seen, kind, rng) for kind in kinds for _ in range(1500)]
    taught = {question.text for question in drawn if question is not None}
    for row in mme_rows("test", 1, start=1):
        text, _, closing = row["question"].partition(f" {YES_OR_NO}")
        assert closing == ""
        assert text in taught or row["category"] in ("existence", "celebrity", "text_translation")


def test_pictures_do_not_depend_on_how_many_are_asked_for() -> None:
    """Would catch a generator shared between pictures."""
    few = [(row["question_id"], row["question"]) for row in mme_rows("test", 2)]
    later = [(row["question_id"], row["question"]) for row in mme_rows("test", 2, start=2)]
    assert [(row["question_id"], row["question"]) for row in mme_rows("test", 4)] == few + later
