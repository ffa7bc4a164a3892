"""Grades given earlier: in the file that MM-Vet's evaluator writes, or in the rows to be scored themselves."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any

from blink.bench.judges.base import Asked, Grade
from blink.bench.readers.rows import read_objects
from blink.runs.values import UserError, is_number


@dataclass(frozen=True)
class StoredGrades:
    """Grades by id: `{"v1_0": {"model": [...], "content": [...], "score": [...]}, ...}`.

    Where answers were graded several times, the mean counts, as in MM-Vet's own tables.

    Args:
        file: the file.

    Raises:
        ValueError: it is missing, is not such a file, or holds a score outside [0, 1].
    """

    file: Path

    def __post_init__(self) -> None:
        _read(self.file)

    @property
    def name(self) -> str:
        """The file's name and the models that graded."""
        models = sorted({grade.model for grade in _read(self.file).values()})
        return f"{'/'.join(models)} in {self.file.name}"

    @property
    def caution(self) -> str | None:
        """A file of grades does not say which answers were graded."""
        return (
            f"grades were taken from {self.file}; nothing in it shows that these answers are the graded ones"
        )

    def check(self, ids: Sequence[str]) -> None:
        """Raise a ValueError that names the answers without a grade."""
        grades = _read(self.file)
        missing = [key for key in ids if key not in grades]
        if missing:
            shown = f"{', '.join(missing[:5])}{' ...' if missing[5:] else ''}"
            raise UserError(f"{self.file} has no grade for {len(missing)} of {len(ids)} answers: {shown}")

    def grade(self, answers: Sequence[Asked], folder: Path) -> list[Grade]:
        """Look the answers up by id.

        Raises:
            ValueError: some have no grade; names them.
        """
        self.check([asked.id for asked in answers])
        grades = _read(self.file)
        return [grades[asked.id] for asked in answers]


UNNAMED = "unnamed"
"""Name of the judge where scores come without one."""


@dataclass(frozen=True)
class GivenScores:
    """The judge of rows that have their scores already; it grades nothing.

    Args:
        name: who gave them, as far as the rows say.
    """

    name: str

    @property
    def caution(self) -> str | None:
        """Who gave the scores."""
        return f"scores are those in the file, by judge {self.name}"

    def check(self, ids: Sequence[str]) -> None:
        """Raise a ValueError if there is anything to grade."""
        if ids:
            raise UserError(f"{len(ids)} answers have no score, among them {ids[0]}; choose a judge=")

    def grade(self, answers: Sequence[Asked], folder: Path) -> list[Grade]:
        """Refuse to grade: all rows should have scores.

        Raises:
            ValueError: there is an answer without a score; names it.
        """
        self.check([asked.id for asked in answers])
        return []


@lru_cache(maxsize=2)
def _read(path: Path) -> dict[str, Grade]:
    if not path.is_file():
        raise UserError(f"judge.file={path} is not a file; give the grades that MM-Vet's evaluator wrote")
    return {key: _grade(path, key, entry) for key, entry in read_objects(path).items()}


def _grade(path: Path, key: str, entry: dict[str, Any]) -> Grade:
    scores, models, content = entry.get("score"), entry.get("model", []), entry.get("content", [])
    if not (isinstance(scores, list) and isinstance(models, list) and isinstance(content, list)):
        raise UserError(
            f"{path} holds no grades: {key} is {entry!r}; expected {{model: [..], content: [..], score: [..]}}"
        )
    if not scores or not all(is_number(score) and 0 <= score <= 1 for score in scores):
        raise UserError(f"{path}: the scores of {key} are {scores}; expected numbers in [0, 1]")
    named = sorted(set(map(str, models))) or [UNNAMED]
    return Grade(fmean(map(float, scores)), " ".join(map(str, content)), "/".join(named))
