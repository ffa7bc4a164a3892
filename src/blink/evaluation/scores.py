"""From rows of predictions to a result: scores with intervals, the edition of the benchmark, and what Blink did.

Rows come from an evaluation, or from a file of anybody's, completed and marked before. No model is needed.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from blink.bench.base import Benchmark, Row
from blink.bench.results.given_rows import Completed
from blink.bench.results.scoring import score
from blink.evaluation.result import Result, Setup
from blink.runs.values import UserError


def score_rows(
    benchmark: Benchmark, rows: Sequence[Row], setup: Setup, edition: str | None = None, **more: Any
) -> Result:
    """Return the scores of marked rows, and what Blink did where all of them say it.

    Args:
        edition: what the rows are, where they are not an edition of the benchmark: generated, or a part of one. None
            looks it up by their number; a number that no edition has gives a warning.
        more: further attributes of the result.

    Raises:
        ValueError: there are no rows, or an id comes twice.
    """
    found = score(benchmark, rows)
    edition = edition or benchmark.editions.get(found.n)
    unknown = [] if edition or not benchmark.editions else [_unknown_edition(benchmark, found.n)]
    traced = all("events" in row for row in rows)
    narrow = [row["without_blink"] for row in rows if row.get("without_blink")]
    spared = [_without_blink(narrow, found.n)] if narrow else []
    of_setup = {each.name: getattr(setup, each.name) for each in fields(Setup)}
    return Result(
        **of_setup | {"warnings": [*setup.warnings, *unknown, *spared, *found.warnings]},
        benchmark=benchmark.name,
        version=benchmark.version,
        edition=edition,
        n=found.n,
        images=found.images,
        metrics={name: estimate.value for name, estimate in found.metrics.items()},
        intervals={
            name: None if math.isnan(estimate.low) else [estimate.low, estimate.high]
            for name, estimate in found.metrics.items()
        },
        units=dict(benchmark.units),
        empty=found.empty,
        unread=found.unread,
        unread_as=benchmark.default,
        headline=[name for name in benchmark.headline if name in found.metrics],
        expanded=expanded_share(rows) if traced else None,
        events=events_per_layer(rows) if traced else None,
        without_blink=len(narrow),
        **more,
    )


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


def score_file(benchmark: Benchmark, completed: Completed, path: Path) -> Result:
    """Score the rows of a file; attributes of the result that do not follow from rows are None.

    Args:
        path: of their file.

    Raises:
        ValueError: a row lacks what the benchmark needs.
    """
    rows = completed.rows
    generated = all(row["image"].startswith("scenes/") for row in rows)
    edition = "generated: scenes" if generated else None
    try:
        result = score_rows(benchmark, rows, Setup(data=path.name), edition, predictions=str(path))
    except KeyError as missing:
        raise UserError(f"some rows lack {missing}, which {benchmark.name} needs") from missing
    return replace(result, warnings=[*result.warnings, *completed.warnings])


def _without_blink(reasons: Sequence[str], rows: int) -> str:
    """Return the warning for questions that were answered without Blink."""
    return (
        f"answered without Blink: {len(reasons):,} of {rows:,} questions, whose pictures are too narrow (the first: "
        f"{reasons[0]})"
    )


def _unknown_edition(benchmark: Benchmark, rows: int) -> str:
    """Return the warning for a benchmark with a number of rows that none of its editions has."""
    counts = " or ".join(f"{count:,}" for count in benchmark.editions)
    return (
        f"{rows:,} rows are no known edition of {benchmark.name}, which has {counts}: some may be missing, and published scores "
        "may not compare"
    )
