"""The interface of judges, and the default one, which needs neither network nor file.

A judge grades free answers in [0, 1]; every result carries its name, since scores of different judges do not compare.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

AND, OR = "<AND>", "<OR>"
_TOKEN = re.compile(r"(?<!\d)-?\d+(?:\.\d+)?|\w+")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


class Asked(NamedTuple):
    """A question and what was answered.

    Attributes:
        id: unique among those graded together.
        question: the bare question, without the instructions of a prompt.
        truth: the right answer, with `<AND>` between elements that all belong to it and `<OR>` between alternatives.
        response: what was answered.
    """

    id: str
    question: str
    truth: str
    response: str


class Grade(NamedTuple):
    """The grade of one answer.

    Attributes:
        score: in [0, 1]; 1 is totally right.
        content: the judge's reply, where it has more to it than the score.
        model: the model that replied, or the judge's name.
    """

    score: float
    content: str
    model: str


class Judge(Protocol):
    """Grades answers. Judges with equal settings are equal and have equal hashes."""

    @property
    def name(self) -> str:
        """Name that results carry; scores by judges of different names do not compare."""
        ...

    @property
    def caution(self) -> str | None:
        """Warning for readers of the scores; None if there is none."""
        ...

    def check(self, ids: Sequence[str]) -> None:
        """Raise a ValueError if it is certain already that it will not grade answers with these ids."""
        ...

    def grade(self, answers: Sequence[Asked], folder: Path) -> list[Grade]:
        """Grade the answers, one grade each, in their order.

        Args:
            folder: where the judge may keep replies for the next call.
        """
        ...


@dataclass(frozen=True)
class LocalJudge:
    """Looks for the words of the right answer in the response; deterministic.

    The score is the share of the `<AND>` elements found, for the best of the `<OR>` alternatives. An element is found
    if its tokens stand in the response one after the other; case and punctuation do not count. Where a right answer
    has both marks, it is split at `<OR>` first.

    Strict where a language model would see that the same is said in other words: its scores do not compare with those
    of such a judge, and a right answer that is itself a paragraph is all but never found.
    """

    name: str = "local-1"
    caution: str | None = (
        "graded by the local judge, which looks for the words of the right answer: not comparable with grades of a "
        "language model"
    )

    def check(self, ids: Sequence[str]) -> None:
        """Accept any answers."""

    def grade(self, answers: Sequence[Asked], folder: Path) -> list[Grade]:
        """Grade each answer by itself; nothing is written."""
        return [Grade(match(asked.truth, asked.response), "", self.name) for asked in answers]


def match(truth: str, response: str) -> float:
    """Return the share of the right answer's elements that a response has, in [0, 1]."""
    said = tokens(response)
    return max(_share(alternative.split(AND), said) for alternative in truth.split(OR))


def tokens(text: str) -> list[str]:
    """Return words and numbers in lower case: "x = -1.5, or 2,000!" has x, -1.5, or, 2000."""
    return _TOKEN.findall(_THOUSANDS.sub("", text.lower()))


def _share(elements: Sequence[str], said: Sequence[str]) -> float:
    return sum(_holds(said, tokens(element)) for element in elements) / len(elements)


def _holds(said: Sequence[str], element: Sequence[str]) -> bool:
    """Whether the element's tokens, of which there is at least one, stand in a row in what was said."""
    length = len(element)
    starts = range(len(said) - length + 1)
    return length > 0 and any(list(said[start : start + length]) == list(element) for start in starts)
