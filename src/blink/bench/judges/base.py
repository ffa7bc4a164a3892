"""What a judge is: it grades free answers in [0, 1], has a name, and every result carries that name."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol


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
    """A judge's word on one answer.

    Attributes:
        score: in [0, 1]; 1 is totally right.
        content: what the judge said, as far as it says more than the score.
        model: who said it.
    """

    score: float
    content: str
    model: str


class Judge(Protocol):
    """Grades answers. Judges with equal settings are equal and have equal hashes."""

    @property
    def name(self) -> str:
        """What results are marked with; scores by judges of different names do not compare."""
        ...

    @property
    def caution(self) -> str | None:
        """What a reader of the scores should know of this judge."""
        ...

    def check(self, ids: Sequence[str]) -> None:
        """Raise a ValueError if it is certain already that it will not grade answers with these ids."""
        ...

    def grade(self, answers: Sequence[Asked], folder: Path) -> list[Grade]:
        """Grade the answers, one grade each, in their order.

        Args:
            folder: for what the judge wants to keep for the next time.
        """
        ...
