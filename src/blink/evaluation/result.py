"""The result of an evaluation, as `scores.json` holds it: its settings, scores with intervals, and what Blink did."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from blink.inference.policy import Policy
from blink.runs.files import as_json, read_json
from blink.runs.values import UserError, fits

SCORES = "scores.json"


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
        seconds_waiting_for_pictures: how many of these seconds the model waited for pictures to be read; of several processes the
            first one's. None in results of earlier versions.
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
    seconds_waiting_for_pictures: float | None = None
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


_OF_COST = ("flops", "seconds", "seconds_waiting_for_pictures", "questions_per_second", "peak_memory_mb")


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


def _known(kind: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values whose key is an attribute of a dataclass."""
    return {each.name: values[each.name] for each in fields(kind) if each.name in values}
