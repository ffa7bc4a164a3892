"""From rows of predictions to a result: scores with intervals, the edition of the benchmark, and what Blink did.

Rows come from an evaluation, or from a file of anybody's, completed and marked before. No model is needed.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from blink.bench.base import Benchmark, Row
from blink.bench.given_rows import Completed
from blink.bench.scoring import score
from blink.inference.policy import Policy
from blink.runs.files import as_json, read_json
from blink.runs.values import UserError, fits


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Settings of an evaluation that its result repeats.

    Attributes:
        method: "vanilla", "interp", "encode", "zoom" or "blink"; None for rows of unknown origin.
        data: where the questions come from, in words.
        policy: None for the backbone as it is, and for rows of unknown origin.
        sources: setting of the policy -> where its value comes from: a preset, or "override".
        backbone: folder or hub id; `revision` its commit on the hub.
        dtype: of its weights.
        padded: whether pictures were padded to a square.
        token_sr: folder or hub id of the modules.
        reuse: whether questions about a picture were answered together, "full" or "none".
        warnings: what a reader of the scores should know.
        provenance: command, versions, commit and fingerprints, as `blink.runs.provenance` records them; None for results
            of earlier versions.
    """

    method: str | None = None
    data: str
    policy: Policy | None = None
    sources: Mapping[str, str] | None = None
    backbone: str | None = None
    revision: str | None = None
    dtype: str | None = None
    padded: bool | None = None
    token_sr: str | None = None
    reuse: str | None = None
    warnings: Sequence[str] = ()
    provenance: Mapping[str, Any] | None = None

    def written(self) -> dict[str, Any]:
        """The attributes as JSON values."""
        written: dict[str, Any] = as_json(asdict(self))
        return written


@dataclass(frozen=True, kw_only=True)
class Result(Setup):
    """What `scores.json` holds. Metrics without a unit are percentages.

    Attributes:
        predictions: file of the rows where it is not an evaluation's own.
        benchmark, version: of the scorer.
        edition: which one of the benchmark the rows are, or which part of it; None if unknown.
        n, images: number of questions and of pictures.
        metrics: name -> value.
        intervals: name -> [low, high], the 95 % interval over pictures; None where it cannot be estimated.
        units: metric -> its unit where that is not percent.
        empty: number of empty responses; None in results of earlier versions.
        unread: number of responses from which the scorer reads nothing, the empty ones among them; None likewise.
        unread_as: what each of these counts as, in words.
        headline: metrics that tables show, the main one first.
        expanded: share of rows with at least one expansion, in [0, 1]; None for rows without events.
        events: scanned layer -> action -> number of rows; None for rows without events.
        without_blink: number of rows that the backbone alone answered although a policy was asked for, as where a picture
            is too narrow for its regions; None in results of earlier versions.
        flops: of all questions, each answered alone; None if some were not counted.
        seconds: that answering took; loading the model is left out.
        questions_per_second: of those that were timed.
        peak_memory_mb: of the process.
    """

    predictions: str | None = None
    benchmark: str
    version: str
    edition: str | None
    n: int
    images: int
    metrics: Mapping[str, float]
    intervals: Mapping[str, Sequence[float] | None]
    units: Mapping[str, str] = field(default_factory=dict)
    headline: Sequence[str]
    empty: int | None = None
    unread: int | None = None
    unread_as: str | None = None
    expanded: float | None
    events: Mapping[str, Mapping[str, int]] | None
    without_blink: int | None = None
    flops: int | None = None
    seconds: float | None = None
    questions_per_second: float | None = None
    peak_memory_mb: float | None = None

    @classmethod
    def read(cls, path: Path) -> "Result":
        """Read a `scores.json`; what it holds beyond the attributes is left out.

        Raises:
            ValueError: it is damaged, or lacks something; says what.
        """
        try:
            found = read_json(path)
            if not isinstance(found, dict):
                raise TypeError("expected a JSON object")
            values = _known(cls, found)
            if values.get("policy") is not None:
                values["policy"] = Policy(**_known(Policy, values["policy"]))
            result = cls(**values)
            for name, kind in get_type_hints(cls).items():
                if not fits(getattr(result, name), kind):
                    raise TypeError(f"{name} is {getattr(result, name)!r}")
            if lacking := set(result.headline) - result.metrics.keys():
                raise TypeError(f"metrics lack {', '.join(sorted(lacking))}")
        except (TypeError, ValueError) as cause:
            raise UserError(f"{path} is damaged, or is not the result of an evaluation: {cause}") from cause
        return result

    def written(self) -> dict[str, Any]:
        """The attributes as JSON values, as they stand in the file of an evaluation or of `blink.score`."""
        everything = super().written()
        return {key: everything[key] for key in (_OF_A_RUN if self.predictions is None else _OF_A_FILE)}

    @property
    def expanded_percent(self) -> float:
        """Share of rows with at least one expansion in percent; nan for rows without events."""
        return math.nan if self.expanded is None else 100 * self.expanded

    @property
    def unread_responses(self) -> str:
        """How many responses were empty, and from how many nothing was read, in words; "" where it is not known."""
        if self.empty is None or self.unread is None:
            return ""
        share = f" ({100 * self.unread / self.n:.1f} %)" if self.unread else ""
        return f"{self.empty:,} / {self.unread:,}{share}"

    @property
    def gflops_per_question(self) -> float | None:
        """Mean over the questions, each answered alone; None if some were not counted."""
        return None if self.flops is None else self.flops / self.n / 1e9

    def unit(self, metric: str) -> str:
        """The unit of a metric: "%", or "points" for MME."""
        return self.units.get(metric, "%")


_OF_ROWS = (
    "benchmark",
    "version",
    "edition",
    "n",
    "images",
    "metrics",
    "intervals",
    "units",
    "headline",
    "empty",
    "unread",
    "unread_as",
)
_OF_COST = ("flops", "seconds", "questions_per_second", "peak_memory_mb")
_OF_A_RUN = (
    *(field.name for field in fields(Setup) if field.name != "provenance"),
    *_OF_ROWS,
    "expanded",
    "events",
    "without_blink",
    *_OF_COST,
    "provenance",
)
_OF_A_FILE = (
    "method",
    "data",
    "predictions",
    "policy",
    *_OF_ROWS,
    "warnings",
    "expanded",
    "events",
    "without_blink",
    "provenance",
)
"""Keys of a result as they follow each other in its file."""


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


def _known(kind: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values whose key is an attribute of a dataclass."""
    return {each.name: values[each.name] for each in fields(kind) if each.name in values}
