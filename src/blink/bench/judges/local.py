"""A judge that needs no network: it looks for the elements of the right answer in the response.

Deterministic, and strict where a language model would see that the same is said in other words: its scores do not
compare with those of such a judge, and a right answer that is itself a paragraph is all but never found.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from blink.bench.judges.base import Asked, Grade

AND, OR = "<AND>", "<OR>"
_TOKEN = re.compile(r"(?<!\d)-?\d+(?:\.\d+)?|\w+")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


@dataclass(frozen=True)
class LocalJudge:
    """The score is the share of the `<AND>` elements found, for the best of the `<OR>` alternatives.

    An element is found if the response is that element, or holds its tokens one after the other; case and
    punctuation do not count. Where a right answer has both marks, `<OR>` parts it first.
    """

    name: str = "local-1"
    caution: str | None = (
        "graded by the local judge, which looks for the words of the right answer: not comparable with grades of a "
        "language model"
    )

    def check(self, ids: Sequence[str]) -> None:
        """It grades anything."""

    def grade(self, answers: Sequence[Asked], folder: Path) -> list[Grade]:
        """Grade each answer by itself; nothing is kept."""
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
