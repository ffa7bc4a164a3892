"""ScienceQA on scenes: two to five choices, with and without a hint, in words that the tiny backbone was taught."""

from collections import Counter

from blink.bench import ScienceQA
from blink.scenes.ask import Question
from blink.scenes.formats import Choices, multiple_choice
from blink.scenes.scienceqa import scienceqa_rows


def test_rows_have_the_official_columns() -> None:
    """Would catch columns that differ from the hub's, a number of choices that never comes, hints in none or all
    questions, and a question asked twice."""
    rows = list(scienceqa_rows("test", 40))
    assert set(rows[0]) == {
        *("image", "question", "choices", "answer", "hint", "task", "grade", "subject", "topic", "category"),
        *("skill", "lecture", "solution", "image_source", "box", "difficulty", "kind"),
    }
    assert {len(row["choices"]) for row in rows} == {2, 3, 4, 5}
    assert {row["answer"] for row in rows} == {0, 1, 2, 3, 4}
    assert all(len(set(row["choices"])) == len(row["choices"]) > row["answer"] for row in rows)
    assert 55 < sum(row["hint"] == "" for row in rows) < 105
    assert set(Counter(row["image_source"] for row in rows).values()) == {4}
    assert len({(row["image_source"], row["question"]) for row in rows}) == len(rows) == 160


def test_questions_of_a_picture_do_not_depend_on_the_others() -> None:
    """Would catch a generator shared between pictures."""
    few, later, many = (
        [
            (row["question"], row["choices"], row["answer"], row["hint"])
            for row in scienceqa_rows("test", *span)
        ]
        for span in ((2,), (2, 2), (4,))
    )
    assert many == few + later


def test_prompts_are_those_of_the_training() -> None:
    """Would catch a prompt that the tiny backbone never saw, with a hint or without."""
    rows = list(scienceqa_rows("test", 5))
    samples = ScienceQA().from_scenes("test", 5)
    assert {bool(row["hint"]) for row in rows} == {True, False}
    for row, sample in zip(rows, samples, strict=True):
        question = Question("count", row["question"], "", "", (), None)
        hint = f"Context: {row['hint']}" if row["hint"] else ""
        choices = Choices(tuple(row["choices"]), row["answer"])
        assert (sample.question, sample.label) == multiple_choice(question, choices, hint)
        assert sample.image == row["image_source"]
