"""A question in the words of a benchmark: the user's text and the expected response.

The closing instructions are those that LLaVA's authors and lmms-eval use (POPE, MME, GQA; MMBench and its Chinese
edition; ScienceQA; MM-Vet), so that a backbone trained on these formats serves every benchmark of the project.
"""

import random
from typing import NamedTuple

from blink.scenes.ask import Question

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
LETTER_ZH = "请直接回答选项字母。"
LETTER_ZH_LMMS = "请直接使用所提供的选项字母作为答案回答。"
YES_OR_NO = "Please answer yes or no."
SEVERAL = "There are several options:"
STEPS = (
    "First please perform reasoning, and think step by step to provide best answer to the following question:"
)
PHRASES = (SHORT, LETTER, LETTER_ZH, LETTER_ZH_LMMS, YES_OR_NO, SEVERAL, STEPS)
LETTERS = "ABCDE"


class Exchange(NamedTuple):
    """What the user says after the image, and what the model should answer."""

    text: str
    response: str


class Choices(NamedTuple):
    """Options in the order shown, and the index of the right one."""

    options: tuple[str, ...]
    right: int


def word(question: Question) -> Exchange:
    """POPE, MME and GQA: one word or phrase."""
    return Exchange(f"{question.text}\n{SHORT}", question.answer)


def sentence(question: Question) -> Exchange:
    """MM-Vet: the bare question, answered by a sentence."""
    return Exchange(question.text, question.sentence)


def choices(question: Question, rng: random.Random, count: int | None = None) -> Choices:
    """Two to five options (at most ``count``), one of them right, in random order."""
    wanted = rng.choice((2, 3, 4, 4, 4, 5)) if count is None else count
    wrong = rng.sample(question.options, min(len(question.options), wanted - 1))
    right = rng.randrange(len(wrong) + 1)
    return Choices((*wrong[:right], question.answer, *wrong[right:]), right)


def lettered(options: tuple[str, ...]) -> str:
    """Options on a line each, with their letters: "A. red"."""
    return "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))


def multiple_choice(question: Question, shown: Choices, hint: str = "", closing: str = LETTER) -> Exchange:
    """MMBench (hint on a line of its own) and ScienceQA (``hint`` starting with "Context: ")."""
    head = f"{hint}\n" if hint else ""
    return Exchange(f"{head}{question.text}\n{lettered(shown.options)}\n{closing}", LETTERS[shown.right])


def random_exchange(question: Question, rng: random.Random, hint: str) -> Exchange:
    """One of all formats, as the backbone sees them in training.

    Args:
        hint: a true sentence about the picture, used in some of the multiple choice formats.
    """
    if question.kind == "describe":
        return sentence(question)
    draw = rng.random()
    if draw < 0.55:
        return word(question)
    if draw < 0.59 and question.answer in ("Yes", "No"):
        return Exchange(f"{question.text} {YES_OR_NO}\n{SHORT}", question.answer)
    if draw < 0.70:
        return sentence(question)
    if draw < 0.72:
        return Exchange(f"{STEPS} {question.text}", question.sentence)
    shown = choices(question, rng)
    if draw < 0.76:
        return multiple_choice(question, shown, closing=LETTER_ZH)
    if draw < 0.78:
        text = (
            f"{question.text} {SEVERAL}\n{lettered(shown.options)}\n\n{rng.choice((LETTER, LETTER_ZH_LMMS))}"
        )
        return Exchange(text, LETTERS[shown.right])
    prefix = rng.choice(("", "", hint, f"Context: {hint}"))
    return multiple_choice(question, shown, prefix)
