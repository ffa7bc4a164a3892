"""Rows from a file of anybody's: completed, marked anew, and graded where a benchmark asks for it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from blink.bench.base import Benchmark, Graded, Row, check_unique
from blink.bench.readers.tables import cell_text
from blink.bench.results.scoring import EVENT
from blink.runs.files import read_jsonl
from blink.runs.values import UserError, fits

_OPTIONAL: Mapping[str, Any] = {
    "events": Sequence[Mapping[str, Any]],
    "without_blink": str | None,
    "split": str | float | None,
    "category": str | float | None,
    "kind": str | float | None,
}
_CALLED_ELSEWHERE = ("text", "answer", "prediction", "pred", "output")
"""Keys by which answers go in other projects' files; LLaVA's have "text"."""

_EXPECTED = {
    **dict.fromkeys(_OPTIONAL, "a text or a number"),
    "events": "a list of events, as blink.eval writes them",
}


class Completed(NamedTuple):
    """Completed and marked rows, and warnings about them."""

    rows: list[Row]
    warnings: list[str]


def read_rows(path: Path) -> list[Row]:
    """Read the rows of a predictions file, as `blink.runs.files.read_jsonl` does; an empty file is an error.

    Raises:
        ValueError: there is no such file, it cannot be read, a line is no JSON object, or it holds none; says which.
    """
    if not path.is_file():
        raise UserError(f"predictions={path} is not a file")
    rows = read_jsonl(path)
    if not rows:
        raise UserError(f"{path} holds no rows")
    return rows


def complete(benchmark: Benchmark, rows: Sequence[Row]) -> Completed:
    """Fill in what rows from elsewhere may lack, and mark every response anew.

    A row without `id` goes by its `question_id` (within its `split`, if it has one) or its `index`; one without
    `image` is a picture of its own, but that the rotations of an MMBench question always stay together. What tables
    write into empty cells, as NaN, counts as nothing in both.

    Raises:
        ValueError: a row has no response or no id, lacks what the benchmark needs, or its id or MMBench index comes twice; names it.
    """
    named = [_named(number, row) for number, row in enumerate(rows, start=1)]
    check_unique([row["id"] for row in named], "row ids")
    for row in named:
        if not isinstance(row.get("response"), str):
            raise UserError(_without_response(row))
        _check_optional(row)
    marked = [mark(benchmark, row) for row in named]
    pictures = [row["id"] if row.get("image") is None else str(row["image"]) for row in named]
    pictures = benchmark.clusters(marked, pictures)
    whole = [{**row, "image": picture} for row, picture in zip(marked, pictures, strict=True)]
    apart = sum(row.get("image") is None for row in named)
    if not apart:
        return Completed(whole, [])
    return Completed(
        whole,
        [
            f"{apart:,} of {len(named):,} rows do not name their picture, and each question of them counts as a picture of "
            "its own: intervals are too narrow where several are about one"
        ],
    )


def mark(benchmark: Benchmark, row: Row) -> Row:
    """Return a row with the answer that the benchmark reads from it.

    Raises:
        ValueError: it lacks a column that the benchmark needs, or one has an invalid value; names the row.
    """
    try:
        found = benchmark.mark(row)
    except KeyError as missing:
        raise UserError(f"row {row['id']} lacks {missing}, which {benchmark.name} needs") from missing
    return {**row, "answer": found.answer, "correct": found.correct}


def judged(benchmark: Benchmark, completed: Completed, folder: Path) -> Completed:
    """Have the rows graded where the benchmark asks for it."""
    if not isinstance(benchmark, Graded):
        return completed
    graded = benchmark.grade(completed.rows, folder)
    return completed._replace(rows=[mark(benchmark, row) for row in graded])


def _without_response(row: Row) -> str:
    """What is wrong with a row whose response is no text, and which of its keys is the answer by another name."""
    if row.get("response") is not None:
        return f"row {row['id']} has the response {row['response']!r}; expected a text"
    close = [key for key in _CALLED_ELSEWHERE if isinstance(row.get(key), str)]
    if not close:
        return f"row {row['id']} has no response: expected the answer there, a text (empty where nothing was said)"
    return f"row {row['id']} has no response, but {close[0]!r}: answers go by response here; rename that key"


def _check_optional(row: Row) -> None:
    """Check the columns that scores are made of where a row has them.

    Raises:
        UserError: one is of another type; names row and column.
    """
    for column, kind in _OPTIONAL.items():
        if column in row and not fits(row[column], kind):
            raise UserError(f"row {row['id']} has the {column} {row[column]!r}; expected {_EXPECTED[column]}")
    for event in row.get("events", ()):
        if not all(fits(event.get(name, ...), kind) for name, kind in EVENT.items()):
            raise UserError(f"row {row['id']} has the event {event!r}; expected {', '.join(EVENT)}")


def _named(number: int, row: Row) -> Row:
    """A row with its id, and with None as its picture where its cell for it is empty."""
    image = {"image": cell_text(row["image"])} if "image" in row else {}
    return {**row, "id": _id(number, row), **image}


def _id(number: int, row: Row) -> str:
    found = _key(row.get("id"))
    if found is not None:
        return found
    for name in ("question_id", "index"):
        found = _key(row.get(name))
        if found is not None:
            return f"{row['split']}/{found}" if row.get("split") else found
    raise UserError(f"row {number} has no id")


def _key(value: Any) -> str | None:
    """An id as text; whole numbers may have come as floats."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return cell_text(value)
