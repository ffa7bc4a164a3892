"""Questions of every kind about scenes of one difficulty."""

from collections import Counter

from blink.scenes.pope import pope_rows
from blink.scenes.questions import SHORT_KINDS, question_rows


def test_a_picture_has_one_question_of_each_kind() -> None:
    """Would catch a kind left out or asked twice, an id that repeats, and existence that is mostly one answer."""
    rows = list(question_rows("validation", 40, difficulty="hard"))
    assert len({row["id"] for row in rows}) == len(rows)
    kinds = Counter(row["kind"] for row in rows)
    assert set(kinds) == set(SHORT_KINDS)
    assert all(30 <= count <= 40 for count in kinds.values()), kinds
    said = Counter(row["answer"] for row in rows if row["kind"] == "existence")
    assert 10 <= said["Yes"] <= 30
    assert all(row["question"].endswith("using a single word or phrase.") for row in rows)
    assert all((row["box"] is None) <= (row["kind"] in ("existence", "count")) for row in rows)


def test_scenes_of_one_difficulty_are_of_no_other() -> None:
    """Catches a difficulty that is not handed on; without one, all three are drawn."""
    for name in ("easy", "hard"):
        assert {row["difficulty"] for row in question_rows("test", 12, difficulty=name)} == {name}
        assert {row["difficulty"] for row in pope_rows("test", 3, difficulty=name)} == {name}
    assert {row["difficulty"] for row in question_rows("test", 30)} == {"easy", "ordinary", "hard"}


def test_pictures_do_not_depend_on_how_many_are_asked_for() -> None:
    """Would catch a generator shared between pictures."""
    few = [(row["id"], row["question"]) for row in question_rows("test", 2)]
    later = [(row["id"], row["question"]) for row in question_rows("test", 2, start=2)]
    assert [(row["id"], row["question"]) for row in question_rows("test", 4)] == few + later
