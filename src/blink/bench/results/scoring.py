"""Rows from samples and answers, and scores from rows.

Axes: K sums in a tally, G pictures.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from blink.bench.base import Benchmark, Row, Sample, check_unique
from blink.bench.statistics import Estimate, Floats, estimates
from blink.inference.policy import Event
from blink.runs.values import UserError

_FEW_DEFAULTS = 0.01
"""Share of the responses that may fall to the scorer's default without a warning."""

EVENT = {"layer": int, "ratio": float, "region": int, "action": str}
"""Keys of an event in a row, and their types."""


class Score(NamedTuple):
    """Metrics of one set of rows.

    Attributes:
        metrics: each with its 95 % interval over pictures; metrics of parts that were not asked are left out.
        n: number of questions.
        images: number of pictures.
        empty: number of responses without a character that shows.
        unread: number of responses from which the scorer reads nothing, the empty ones among them, so that the
            benchmark's `default` counts.
        warnings: what to know about these rows.
    """

    metrics: dict[str, Estimate]
    n: int
    images: int
    empty: int
    unread: int
    warnings: list[str]


def make_row(
    sample: Sample,
    benchmark: Benchmark,
    response: str,
    *,
    tokens: int,
    events: Sequence[Event] = (),
    flops: int | None = None,
    without_blink: str | None = None,
) -> Row:
    """Return the row of a sample and the response to it, marked.

    Args:
        response: the text as generated, special tokens left out, stripped.
        tokens: how many were generated, the closing one included.
        events: Blink's decisions at the prompt, in layer order; none for vanilla.
        flops: of the question answered alone; None if they were not counted.
        without_blink: why the backbone alone answered, although a policy was asked for, in words; None if it did not.
    """
    row: Row = {
        "id": sample.id,
        "split": sample.split,
        "image": sample.image,
        "question": sample.question,
        "response": response,
        "label": sample.label,
        **sample.details,
    }
    mark = benchmark.mark(row)
    written = [
        {"layer": event.layer, "ratio": round(event.ratio, 6), "region": event.region, "action": event.action}
        for event in events
    ]
    given: Row = {"answer": mark.answer, "correct": mark.correct}
    given |= {"tokens": tokens, "flops": flops, "events": written}
    return {**row, **given} if without_blink is None else {**row, **given, "without_blink": without_blink}


def by_image(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Group rows by their picture, in order of first appearance."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["image"], []).append(row)
    return groups


def tallies(benchmark: Benchmark, rows: Sequence[Row]) -> Floats:
    """Return the sums of each picture, [G, K], in order of first appearance."""
    return np.stack([benchmark.tally(group) for group in by_image(rows).values()])


def score(benchmark: Benchmark, rows: Sequence[Row]) -> Score:
    """Score marked rows.

    Raises:
        ValueError: there are no rows, or an id comes twice.
    """
    if not rows:
        raise UserError(f"no rows to score for {benchmark.name}")
    check_unique([row["id"] for row in rows], "row ids")
    tally_GK = tallies(benchmark, rows)
    found = estimates(benchmark.metrics(tally_GK))
    asked = {name: estimate for name, estimate in found.items() if not np.isnan(estimate.value)}
    empty = sum(not row["response"].strip() for row in rows)
    unread = sum(map(benchmark.unread, rows))
    warnings = benchmark.warnings(rows)
    if unread > _FEW_DEFAULTS * len(rows):
        warnings.append(
            f"{unread:,} of {len(rows):,} responses ({100 * unread / len(rows):.1f} %, {empty:,} of them empty) say "
            f"nothing that the scorer of {benchmark.title} reads: each counts as {benchmark.default}"
        )
    return Score(asked, len(rows), tally_GK.shape[0], empty, unread, warnings)
