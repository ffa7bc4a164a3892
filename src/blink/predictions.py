"""Rows of a predictions file, from anywhere: read, completed and marked, so that they can be scored without a model."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from blink.bench.base import Benchmark, Row, check_unique
from blink.bench.circular import by_question, clusters_of
from blink.bench.mmbench import MMBench


class Answers(NamedTuple):
    """Marked rows, and what is to be known of them."""

    rows: list[Row]
    warnings: list[str]


def read_rows(path: Path) -> list[Row]:
    """Read the rows of a JSONL file, packed by gzip if it ends in .gz; empty lines are skipped.

    Raises:
        ValueError: there is no such file, a line is no JSON object, or there is none; says which.
    """
    if not path.is_file():
        raise ValueError(f"predictions={path} is not a file")
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            lines = list(file)
    except (OSError, EOFError, UnicodeDecodeError) as cause:
        raise ValueError(f"cannot read {path}: {cause}") from cause
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as cause:
            raise ValueError(f"{path}, line {number} is not JSON: {cause}") from cause
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number} is no JSON object but {line.strip()[:40]}")
        rows.append(row)
    if not rows:
        raise ValueError(f"{path} holds no rows")
    return rows


def complete(benchmark: Benchmark, rows: Sequence[Row]) -> Answers:
    """Fill in what rows from elsewhere may lack, and mark every response anew.

    A row without `id` goes by its `question_id` (within its `split`, if it has one) or its `index`; one without
    `image` is a picture of its own, but that the rotations of an MMBench question always stay together.

    Raises:
        ValueError: a row has no response or no id, lacks what the benchmark needs, or its id comes twice; names it.
    """
    named = [{**row, "id": _id(number, row)} for number, row in enumerate(rows, start=1)]
    check_unique([row["id"] for row in named], "row")
    for row in named:
        if not isinstance(row.get("response"), str):
            raise ValueError(f"row {row['id']} has the response {row.get('response')!r}; expected a text")
    marked = [mark(benchmark, row) for row in named]
    pictures = [row["id"] if row.get("image") is None else str(row["image"]) for row in named]
    if isinstance(benchmark, MMBench):
        number_of = {row["id"]: number for number, part in by_question(marked).items() for row in part}
        pictures = clusters_of([number_of[row["id"]] for row in marked], pictures)
    whole = [{**row, "image": picture} for row, picture in zip(marked, pictures, strict=True)]
    apart = sum(row.get("image") is None for row in named)
    if not apart:
        return Answers(whole, [])
    return Answers(
        whole,
        [
            f"{apart:,} of {len(named):,} rows do not name their picture, and each question of them counts as a picture of "
            "its own: intervals are too narrow where several are about one"
        ],
    )


def mark(benchmark: Benchmark, row: Row) -> Row:
    """Return a row with the answer that the benchmark reads from it.

    Raises:
        ValueError: it lacks what the benchmark needs, or holds what cannot be; names the row.
    """
    try:
        found = benchmark.mark(row)
    except KeyError as missing:
        raise ValueError(f"row {row['id']} lacks {missing}, which {benchmark.name} needs") from missing
    return {**row, "answer": found.answer, "correct": found.correct}


def _id(number: int, row: Row) -> str:
    if row.get("id") is not None:
        return str(row["id"])
    for name in ("question_id", "index"):
        if row.get(name) is not None:
            return f"{row['split']}/{row[name]}" if row.get("split") else str(row[name])
    raise ValueError(f"row {number} has no id")
