"""Reading the option that a response means, case by case."""

import math

import pytest

from blink.bench.choices import REFUSED, UNDECIDED, check_label, infer, options_of

OPTIONS = {"A": "a red ring", "B": "a blue ring", "C": "two cats and dogs", "D": "blue"}


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(B)", "B"),
        ("B. a blue ring", "B"),
        ("Answer: {C}", "C"),
        ("b", UNDECIDED),
        ("AB", UNDECIDED),
        ("E", UNDECIDED),
        ("A or B", UNDECIDED),
        ("B B", "B"),
        ("one two three four B five six seven", "B"),
        ("one two three B four five six seven", UNDECIDED),
        ("Z", REFUSED),
        ("I would say Z", REFUSED),
        ("Sorry, I can't help with images of people yet. B", REFUSED),
        ("Cannot determine the answer", REFUSED),
        ("Failed to obtain answer via API B", UNDECIDED),
        ("", UNDECIDED),
    ],
)
def test_letters_among_the_last_words(response: str, answer: str) -> None:
    """Would catch a letter taken from the start of a sentence, from inside a word or from beyond the options, two
    letters decided between, and a refusal that counts as an answer."""
    assert infer(response, OPTIONS) == answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("the correct answer is **C** for all of the reasons above", "C"),
        ("A is wrong, so the answer is B as far as I can see here", "B"),
        ("The answer is a dog, as one can see in the picture here", "A"),
        ("The answer is E for sure, as one can see in this picture", UNDECIDED),
    ],
)
def test_answers_that_are_stated(response: str, answer: str) -> None:
    """Would catch the statement not being looked for, or read otherwise than VLMEvalKit does, which takes the first
    character whatever its case: "a dog" is option A there."""
    assert infer(response, OPTIONS) == answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("It shows a RED ring", "A"),
        ("two cats and dogs", "C"),
        ("blue", "D"),
        ("a blue ring", UNDECIDED),
        ("a red ring, not blue", UNDECIDED),
        ("a red ring " + 70 * "x", "A"),
        ("a red ring " + 80 * "x", UNDECIDED),
    ],
)
def test_texts_of_options(response: str, answer: str) -> None:
    """Would catch a text matched by case, one of two matches preferred, and long responses searched: the options are
    42 characters together, so 84 are read and 85 are not."""
    assert sum(map(len, OPTIONS.values())) == 42
    assert infer(response, OPTIONS) == answer


def test_unknown_texts_match_nothing() -> None:
    """Would catch an empty option found in every response."""
    assert infer("B", dict.fromkeys("ABCD", "")) == "B"
    assert infer("", {"A": "", "B": "no"}) == UNDECIDED


def test_options_end_at_the_first_missing() -> None:
    """Would catch letters that move up over a gap, and numbers lost as options."""
    assert options_of({"A": "x", "B": 2, "C": math.nan, "D": "y"}) == {"A": "x", "B": "2"}


def test_labels_are_letters() -> None:
    """Would catch rows without an answer (a test split) scored as wrong."""
    check_label("E", "7")
    with pytest.raises(ValueError, match="question 7 has the label None; expected one of A, B, C, D, E"):
        check_label(None, "7")
    with pytest.raises(ValueError, match="label 'C'; expected one of A, B"):
        check_label("C", "7", ("A", "B"))
