"""POPE on scenes has POPE's schema and balance."""

from collections import Counter

from blink.scenes.pope import POPE_CATEGORIES, pope_rows


def test_pope_rows_are_balanced_and_unique() -> None:
    """Would catch categories of unequal size, or a split that is mostly "yes"."""
    rows = list(pope_rows("test", 5))
    assert Counter((row["category"], row["answer"]) for row in rows) == {
        (category, answer): 15 for category in POPE_CATEGORIES for answer in ("yes", "no")
    }
    assert len({row["id"] for row in rows}) == 90
    assert len({(row["category"], row["question_id"]) for row in rows}) == 90
    assert len({row["image_source"] for row in rows}) == 5
    assert all((row["box"] is None) == (row["answer"] == "no") for row in rows)


def test_present_kinds_are_shared_by_the_categories() -> None:
    """Would catch positives that differ between splits, so that the splits compare more than their negatives."""
    positives: dict[str, set[str]] = {category: set() for category in POPE_CATEGORIES}
    for row in pope_rows("validation", 3):
        if row["answer"] == "yes":
            positives[row["category"]].add(row["image_source"] + row["question"])
    assert positives["random"] == positives["popular"] == positives["adversarial"]
    assert len(positives["random"]) == 9


def test_questions_do_not_depend_on_how_many_are_asked_for() -> None:
    """Would catch a generator shared between pictures."""
    few = [row["question"] for row in pope_rows("test", 2)]
    many = [row["question"] for row in pope_rows("test", 4)]
    later = [row["question"] for row in pope_rows("test", 2, start=2)]
    assert many == few + later
