"""The same fact in the words of each benchmark."""

import random

from blink.scenes.ask import Question
from blink.scenes.formats import (
    LETTER,
    LETTER_ZH,
    SHORT,
    Choices,
    choices,
    multiple_choice,
    random_exchange,
    sentence,
    word,
)

COLOUR = Question(
    "colour",
    "What color is the ring?",
    "red",
    "The ring is red.",
    ("blue", "green", "black", "white", "yellow"),
    None,
)


def test_word_and_sentence_are_the_published_prompts() -> None:
    """Would catch a changed closing line, which would make scores incomparable."""
    assert word(COLOUR) == (f"What color is the ring?\n{SHORT}", "red")
    assert SHORT == "Answer the question using a single word or phrase."
    assert sentence(COLOUR) == ("What color is the ring?", "The ring is red.")


def test_multiple_choice_by_hand() -> None:
    """Would catch letters that are off by one, or a hint on the question's line."""
    shown = Choices(("blue", "red", "green"), 1)
    assert multiple_choice(COLOUR, shown) == (
        f"What color is the ring?\nA. blue\nB. red\nC. green\n{LETTER}",
        "B",
    )
    hinted = multiple_choice(COLOUR, shown, hint="Context: There are 3 objects.", closing=LETTER_ZH)
    assert hinted.text.startswith("Context: There are 3 objects.\nWhat color")
    assert hinted.text.endswith("\n请直接回答选项字母。")


def test_choices_hold_the_answer_once_at_every_place() -> None:
    """Would catch a right answer that is always A, or that stands twice."""
    places = set()
    for seed in range(400):
        shown = choices(COLOUR, random.Random(seed))
        assert 2 <= len(shown.options) <= 5
        assert shown.options[shown.right] == "red"
        assert len(set(shown.options)) == len(shown.options)
        places.add(shown.right)
    assert places == {0, 1, 2, 3, 4}


def test_every_format_occurs_in_training() -> None:
    """Would catch a format that the backbone never learns, and that a later benchmark needs."""
    texts = [random_exchange(COLOUR, random.Random(seed), "There are 3 objects.").text for seed in range(400)]
    for mark in (SHORT, LETTER, LETTER_ZH, "Context: ", "There are several options:", "think step by step"):
        assert any(mark in text for text in texts), mark
    assert COLOUR.text in texts
