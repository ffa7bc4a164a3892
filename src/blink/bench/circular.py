"""Which rows of a benchmark with rotated options are one question, and what is resampled with what."""

from collections.abc import Sequence

from blink.bench.base import Row
from blink.bench.options import whole_number

ROTATION = 1_000_000
"""Rows whose indices differ by a multiple of this ask one question."""


def by_question(rows: Sequence[Row]) -> dict[int, list[Row]]:
    """Group rows by their question, `index` modulo `ROTATION`, in order of first appearance."""
    groups: dict[int, list[Row]] = {}
    for row in rows:
        groups.setdefault(whole_number(row["index"], "index") % ROTATION, []).append(row)
    return groups


def clusters_of(groups: Sequence[int], pictures: Sequence[str]) -> list[str]:
    """Name what each row is resampled with: its picture, or one name for all pictures that questions tie together.

    The rows of a question show one picture; where its files differ, the question must still not be torn apart.

    Args:
        groups: the question of each row.
        pictures: the picture of each row.
    """
    tied: dict[str, str] = {}

    def first(name: str) -> str:
        while name in tied:
            name = tied[name]
        return name

    shown: dict[int, str] = {}
    for group, picture in zip(groups, pictures, strict=True):
        one, other = first(shown.setdefault(group, picture)), first(picture)
        if one != other:
            tied[other] = one
    return [first(picture) for picture in pictures]
