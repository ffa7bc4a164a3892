"""What rows of predictions say: scores with intervals, which edition they are of, and what Blink did.

Rows come from an evaluation, or from a file of anybody's: then they are completed and marked first. No model is needed.
"""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from blink.bench.base import Benchmark, Graded, Row, check_unique
from blink.bench.scoring import score
from blink.bench.sources import read_jsonl
from blink.bench.tables import cell_text


def scores(benchmark: Benchmark, rows: Sequence[Row], edition: str | None = None) -> dict[str, Any]:
    """Return the scores of marked rows as JSON values, nan as None; metrics without a unit are percentages.

    Args:
        edition: what the rows are, where they are not an edition of the benchmark: generated, or a part of one. None
            has it recognised by their number; a number that no edition has is a warning.

    Raises:
        ValueError: there are no rows, or an id comes twice.
    """
    found = score(benchmark, rows)
    edition = edition or benchmark.editions.get(found.n)
    return {
        "benchmark": benchmark.name,
        "version": benchmark.version,
        "edition": edition,
        "n": found.n,
        "images": found.images,
        "metrics": {name: estimate.value for name, estimate in found.metrics.items()},
        "intervals": {
            name: None if math.isnan(estimate.low) else [estimate.low, estimate.high]
            for name, estimate in found.metrics.items()
        },
        "units": dict(benchmark.units),
        "headline": [name for name in benchmark.headline if name in found.metrics],
        "warnings": [*([] if edition else [_unknown_edition(benchmark, found.n)]), *found.warnings],
    }


def expanded_share(rows: Sequence[Row]) -> float:
    """Return the share of rows with at least one expansion, in [0, 1]."""
    return sum(any(event["action"] == "expand" for event in row["events"]) for row in rows) / len(rows)


def total_flops(rows: Sequence[Row]) -> int | None:
    """Return what the rows' questions cost together, each answered alone; None if some were not counted."""
    counts = [row.get("flops") for row in rows]
    return None if None in counts else sum(count for count in counts if count is not None)


def events_per_layer(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    """Count the actions at each scanned layer: layer -> action -> number of samples."""
    counts = Counter((event["layer"], event["action"]) for row in rows for event in row["events"])
    layers = sorted({layer for layer, _ in counts})
    return {
        str(layer): {action: counts[layer, action] for action in ("expand", "keep", "drop")}
        for layer in layers
    }


class Answers(NamedTuple):
    """Marked rows, and what is to be known of them."""

    rows: list[Row]
    warnings: list[str]


def read_rows(path: Path) -> list[Row]:
    """Read the rows of a predictions file, as `blink.bench.sources.read_jsonl` does; there has to be one.

    Raises:
        ValueError: there is no such file, it cannot be read, a line is no JSON object, or it holds none; says which.
    """
    if not path.is_file():
        raise ValueError(f"predictions={path} is not a file")
    rows = read_jsonl(path)
    if not rows:
        raise ValueError(f"{path} holds no rows")
    return rows


def complete(benchmark: Benchmark, rows: Sequence[Row]) -> Answers:
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
            raise ValueError(f"row {row['id']} has the response {row.get('response')!r}; expected a text")
    marked = [mark(benchmark, row) for row in named]
    pictures = [row["id"] if row.get("image") is None else str(row["image"]) for row in named]
    pictures = benchmark.clusters(marked, pictures)
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


def judged(benchmark: Benchmark, answers: Answers, folder: Path) -> Answers:
    """Have the rows graded where the benchmark asks for it."""
    if not isinstance(benchmark, Graded):
        return answers
    return answers._replace(rows=[mark(benchmark, row) for row in benchmark.grade(answers.rows, folder)])


def scored(benchmark: Benchmark, answers: Answers, path: Path) -> dict[str, Any]:
    """Return the result as JSON values, in the terms of `blink.eval`; what rows do not tell is None.

    Raises:
        ValueError: a row lacks what the benchmark needs.
    """
    rows, warnings = answers
    generated = all(row["image"].startswith("scenes/") for row in rows)
    try:
        found = scores(benchmark, rows, "generated: scenes" if generated else None)
    except KeyError as missing:
        raise ValueError(f"some rows lack {missing}, which {benchmark.name} needs") from missing
    traced = all("events" in row for row in rows)
    return {
        "method": None,
        "data": path.name,
        "predictions": str(path),
        "policy": None,
        **found,
        "expanded": expanded_share(rows) if traced else None,
        "events": events_per_layer(rows) if traced else None,
        "warnings": [*found["warnings"], *warnings],
    }


def _unknown_edition(benchmark: Benchmark, rows: int) -> str:
    """Return the warning for a benchmark with a number of rows that none of its editions has."""
    counts = " or ".join(f"{count:,}" for count in benchmark.editions)
    return (
        f"{rows:,} rows are no known edition of {benchmark.name}, which has {counts}: some may be missing, and published scores "
        "may not compare"
    )


def _named(number: int, row: Row) -> Row:
    """A row with its id, and with None as its picture where it says nothing of one."""
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
    raise ValueError(f"row {number} has no id")


def _key(value: Any) -> str | None:
    """An id as text; whole numbers may have come as floats."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return cell_text(value)
