"""What a result says of marked rows: scores with intervals, which edition they are of, and what Blink did."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from blink.bench.base import Benchmark, Row, score, units

_MMBENCH = {
    4329: "v1.0 dev, as on the hub (1,164 questions)",
    4377: "dev 20230712, LLaVA's (1,176 questions)",
}

EDITIONS: Mapping[str, Mapping[int, str]] = {
    "mme": {2374: "the authors' and the hub's (1,187 pictures)"},
    "gqa": {12578: "testdev balanced"},
    "mmbench": _MMBENCH,
    "mmbench_cn": _MMBENCH,
    "pope": {
        9000: "the authors' and the hub's, 3,000 questions a split",
        8910: "LLaVA's, with 2,910 random questions",
        3000: "one split of 3,000",
        2910: "LLaVA's random split",
    },
    "scienceqa": {2017: "IMG test"},
    "mmvet": {218: "v1"},
}
"""The editions of each benchmark, by their number of rows."""


def scores(benchmark: Benchmark, rows: Sequence[Row], edition: str | None = None) -> dict[str, Any]:
    """Return the scores of marked rows as JSON values, nan as None; metrics without a unit are percentages.

    Args:
        edition: what the rows are, where they are not an edition of the benchmark: generated, or a part of one. None
            has it recognised by their number; a number that no edition has is a warning.

    Raises:
        ValueError: there are no rows, or an id comes twice.
    """
    found = score(benchmark, rows)
    edition = edition or EDITIONS.get(benchmark.name, {}).get(found.n)
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
        "units": units(benchmark),
        "headline": [name for name in benchmark.headline if name in found.metrics],
        "warnings": [*([] if edition else [_unknown_edition(benchmark.name, found.n)]), *found.warnings],
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


def _unknown_edition(name: str, rows: int) -> str:
    """Return the warning for a benchmark with a number of rows that none of its editions has."""
    counts = " or ".join(f"{count:,}" for count in EDITIONS.get(name, {})) or "no number on record"
    return (
        f"{rows:,} rows are no known edition of {name}, which has {counts}: some may be missing, and published scores "
        "may not compare"
    )
