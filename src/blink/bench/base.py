"""What every benchmark is made of: samples, an answer to each, and a scorer of the rows that both make.

A row is one line of `predictions.jsonl`: id, split, image, question, response, answer, label, correct, tokens,
flops, events, and whatever else a benchmark's scorer reads. It keeps the raw response *and* the answer read from it, so
that a scorer can be run again on the file alone.

Axes: K sums in a tally, G groups.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from blink.bench.statistics import Estimate, Floats, bootstrap
from blink.inference.policy import Event

Row = dict[str, Any]

SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
"""What LLaVA appends to the questions of MME, GQA and POPE."""

PROMPTS = ("llava", "lmms_eval")
"""Whose wording a benchmark's prompts follow, where the two differ."""


@dataclass(frozen=True)
class Sample:
    """One question about one picture.

    Attributes:
        id: unique in the benchmark.
        image: name of the picture; samples that share it stay together when scores are resampled.
        question: the user's text as the backbone gets it, the benchmark's instruction included.
        label: the correct answer.
        split: the part of the benchmark that the question belongs to.
        open_image: reads the picture; may raise what Pillow raises.
        details: further columns of the row, JSON values.
    """

    id: str
    image: str
    question: str
    label: str
    split: str
    open_image: Callable[[], Image.Image] = field(repr=False)
    details: Mapping[str, Any] = field(default_factory=dict)

    def load_image(self) -> Image.Image:
        """Return the picture, decoded, in RGB.

        Raises:
            ValueError: it cannot be read; says which and why.
        """
        try:
            return self.open_image().convert("RGB")
        except Exception as cause:  # Pillow's decoders raise almost any type on a damaged file
            raise ValueError(
                f"cannot read the picture {self.image} of question {self.id}: {cause}"
            ) from cause


@dataclass(frozen=True)
class Answer:
    """What a backbone said to one sample.

    Attributes:
        response: the text as generated, special tokens left out, stripped.
        tokens: how many tokens were generated, the closing one included.
        events: what Blink did at the prompt, in layer order; empty for the backbone as it is.
        flops: what the question costs if it is answered alone; None if nobody counted.
    """

    response: str
    tokens: int
    events: tuple[Event, ...] = ()
    flops: int | None = None


class Mark(NamedTuple):
    """The answer read from a response, and whether it is right; None where it was not scored."""

    answer: str
    correct: bool | None


class Benchmark(Protocol):
    """Samples from each kind of source, and the scorer.

    Attributes:
        name: key in the registry.
        version: changes with the prompt or the scorer; results of different versions do not compare.
        max_new_tokens: how long an answer may get.
        headline: metrics that tables show, the main one first.
    """

    name: str
    version: str
    max_new_tokens: int
    headline: tuple[str, ...]

    def from_scenes(self, split: str, images: int) -> list[Sample]:
        """Questions about generated pictures of a split of the embedded world."""
        ...

    def from_hub(self) -> list[Sample]:
        """The data set of the Hugging Face hub, downloaded or from its cache."""
        ...

    def from_folder(self, root: Path) -> list[Sample]:
        """The data set from a folder, in the hub's parquet or the authors' own format."""
        ...

    def mark(self, row: Mapping[str, Any]) -> Mark:
        """Read the answer from `row["response"]` and hold it against `row["label"]`."""
        ...

    def tally(self, rows: Sequence[Row]) -> Floats:
        """Reduce the marked rows of one picture to the sums [K] that the metrics are functions of."""
        ...

    def metrics(self, tally_K: Floats) -> dict[str, Floats]:
        """Compute every metric from sums [..., K]; nan where nothing was asked."""
        ...

    def warnings(self, rows: Sequence[Row]) -> list[str]:
        """Say what a reader of the scores should know about this set of rows."""
        ...

    def export(self, rows: Sequence[Row], folder: Path) -> list[Path]:
        """Write marked rows into an existing folder in the format that the benchmark's authors read; return the files.

        Raises:
            ValueError: the format cannot hold these rows; says why.
        """
        ...


@runtime_checkable
class Graded(Protocol):
    """A benchmark whose answers have to be judged before they can be scored."""

    def check_gradable(self, ids: Sequence[str]) -> None:
        """Raise a ValueError if it is certain already that answers to these questions will not be judged."""
        ...

    def grade(self, rows: Sequence[Row], folder: Path) -> list[Row]:
        """Return all rows, judged; those that are judged already come back as they are.

        May be called again after it was killed: what was judged until then should not be judged twice.

        Args:
            folder: the run's, for files of the benchmark's own.
        """
        ...


@runtime_checkable
class Measured(Protocol):
    """A benchmark with metrics that are no percentages.

    Attributes:
        units: metric -> its unit, such as "points".
    """

    units: Mapping[str, str]


class Score(NamedTuple):
    """Metrics of one set of rows.

    Attributes:
        metrics: each with its 95 % interval over pictures; metrics of parts that were not asked are left out.
        n: number of questions.
        images: number of pictures.
        warnings: what to know about these rows.
    """

    metrics: dict[str, Estimate]
    n: int
    images: int
    warnings: list[str]


def make_row(sample: Sample, answer: Answer, benchmark: Benchmark) -> Row:
    """Return the row of a sample and the answer to it."""
    row: Row = {
        "id": sample.id,
        "split": sample.split,
        "image": sample.image,
        "question": sample.question,
        "response": answer.response,
        "label": sample.label,
        **sample.details,
    }
    mark = benchmark.mark(row)
    events = [
        {"layer": event.layer, "ratio": round(event.ratio, 6), "region": event.region, "action": event.action}
        for event in answer.events
    ]
    given = {"answer": mark.answer, "correct": mark.correct}
    return {**row, **given, "tokens": answer.tokens, "flops": answer.flops, "events": events}


def check_prompt(prompt: str) -> str:
    """Return the name of a wording.

    Raises:
        ValueError: there is no such wording.
    """
    if prompt not in PROMPTS:
        raise ValueError(f"prompt={prompt!r}: expected one of {', '.join(PROMPTS)}")
    return prompt


def yes_or_no(label: Any, key: str) -> str:
    """Return a label in lower case.

    Raises:
        ValueError: it is neither yes nor no; names the question.
    """
    found = str(label).strip().lower()
    if found not in ("yes", "no"):
        raise ValueError(f"question {key} has the label {label!r}; expected yes or no")
    return found


def of_scene(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what rows on scenes say of the picture, for a sample's details; nothing for other rows."""
    return {name: row[name] for name in ("box", "difficulty") if name in row}


def side_by_side(samples: Sequence[Sample]) -> list[Sample]:
    """Return samples with those about one picture side by side, pictures in order of first appearance.

    Raises:
        ValueError: an id comes twice.
    """
    check_unique([sample.id for sample in samples], "question ids")
    first_seen = {name: i for i, name in enumerate(dict.fromkeys(sample.image for sample in samples))}
    return sorted(samples, key=lambda sample: first_seen[sample.image])


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
        raise ValueError(f"no rows to score for {benchmark.name}")
    check_unique([row["id"] for row in rows], "row ids")
    tally_GK = tallies(benchmark, rows)
    estimates = bootstrap(tally_GK, benchmark.metrics)
    asked = {name: estimate for name, estimate in estimates.items() if not np.isnan(estimate.value)}
    return Score(asked, len(rows), tally_GK.shape[0], benchmark.warnings(rows))


def percent(part: Floats, whole: Floats) -> Floats:
    """Return 100 part / whole, and 0 where the whole is 0."""
    return 100 * np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)


def units(benchmark: Benchmark) -> dict[str, str]:
    """Return the units of metrics that are no percentages."""
    return dict(benchmark.units) if isinstance(benchmark, Measured) else {}


def check_unique(ids: Sequence[str], what: str) -> None:
    """Raise a ValueError that names the ids that come more than once; `what` they are, in the plural."""
    twice = [key for key, count in Counter(ids).items() if count > 1]
    if twice:
        shown = ", ".join(twice[:5])
        raise ValueError(f"{len(twice)} {what} come more than once: {shown}{' ...' if twice[5:] else ''}")
