"""The base class of benchmarks: their facts, samples from each kind of source, and the interface of their scorers.

A benchmark's own file has the columns of its sources, its prompt, how an answer is read from a response, and the sums
that its metrics follow from; loading is done here.

A row is one line of `predictions.jsonl`: id, split, image, question, response, answer, label, correct, tokens,
flops, events, and whatever else a benchmark's scorer reads. It keeps the raw response *and* the answer read from it, so
that a scorer can be run again on the file alone.

Axes: G pictures, K sums in a tally.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from PIL import Image

from blink.bench.readers.rows import Entry, check_cells
from blink.bench.readers.sources import HUB_KEY, hub_tables, parquet_files, table_entries
from blink.bench.statistics import Floats, Metric
from blink.runs import values
from blink.runs.inputs.hub import Table, parquet_table
from blink.runs.inputs.pictures import AS_AUTHORS, Rules, UnreadableImageError
from blink.runs.values import UserError, about

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
        image: name of the picture; samples that share it are one cluster of the intervals.
        question: the user's text as the backbone gets it, the benchmark's instruction included.
        label: the correct answer.
        split: the part of the benchmark that the question belongs to.
        open_image: reads the picture, in RGB.
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
            return self.open_image()
        except UnreadableImageError as cause:
            raise UserError(f"cannot read the picture {self.image} of question {self.id}: {cause}") from cause


class Mark(NamedTuple):
    """The answer read from a response, and whether it is right; None where it was not scored."""

    answer: str
    correct: bool | None


class Benchmark(ABC):
    """A benchmark: its facts as class attributes, samples from each kind of source, and the scorer.

    Args:
        hub_id: data set on the Hugging Face hub; None is the benchmark's own.
        revision: its revision; None is the newest.
        max_new_tokens: how long an answer may get; None is the benchmark's own.
        prompt: "llava" or "lmms_eval": whose wording the prompts follow.
        split: of the hub's data set, of benchmarks that can be asked on several; None is the one that results are
            reported on.

    Raises:
        ValueError: an unknown prompt.

    Attributes:
        name: key in the registry and of `bench=`.
        title: what tables call it.
        hub_id: as above. `hub_split` and `hub_config` say which part of it is asked.
        validation: the split that settings may be chosen on, if there is another than the one that results are reported on.
        max_new_tokens: as above.
        scorer: number in `version`, to be raised whenever prompt or scorer change.
        wordings_differ: whether the two prompts do; if so, `version` names the one that is not LLaVA's.
        version: written into every result; results of different versions do not compare.
        editions: the known editions by their number of rows; none of questions that nobody has published.
        default: what a response counts as that says nothing which the scorer reads, in words.
        judged: whether answers have to be judged; the class is then a `Graded` and takes a `judge`.
        headline: metrics that a result shows, the main one first.
        main: the metric where there is room for one only.
        compared: metrics whose differences between runs are reported.
        tabled: metrics that are columns of the paper's tables.
        groups: metrics that tables and figures show apart from one another, by title; empty if it is one group.
        units: metric -> unit, such as "points", where it is no percentage.
        columns, optional: columns read from the hub's table: those it must have, and those it may have.
        texts, keys: of all sources, columns that hold a text in every row, and those that hold a text or a whole number.
        named_by: the column with the name of a row's picture; None names a picture by its content.
        parquet: as `sources.parquet_files` takes them, the beginnings of the names of the hub's parquet files.
        layouts: what a local folder may hold, for messages.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    hub_id: str
    hub_split: str = "test"
    validation: ClassVar[str | None] = None
    hub_config: ClassVar[str | None] = None
    max_new_tokens: int
    scorer: ClassVar[int] = 1
    wordings_differ: ClassVar[bool] = False
    editions: ClassVar[Mapping[int, str]]
    default: ClassVar[str] = "no answer, which is wrong"
    judged: ClassVar[bool] = False
    headline: tuple[str, ...]
    main: ClassVar[str]
    compared: ClassVar[tuple[str, ...]]
    tabled: ClassVar[tuple[str, ...]]
    groups: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    units: ClassVar[Mapping[str, str]] = {}
    columns: ClassVar[tuple[str, ...]]
    optional: ClassVar[tuple[str, ...]] = ()
    texts: ClassVar[tuple[str, ...]]
    keys: ClassVar[tuple[str, ...]]
    named_by: ClassVar[str | None] = None
    parquet: ClassVar[tuple[str | tuple[str, ...], ...]] = ("test-",)
    layouts: ClassVar[str]

    def __init__(
        self,
        *,
        hub_id: str | None = None,
        revision: str | None = None,
        max_new_tokens: int | None = None,
        prompt: str = "llava",
        split: str | None = None,
    ) -> None:
        self.prompt = values.choice("prompt", prompt, PROMPTS)
        self.hub_id = type(self).hub_id if hub_id is None else hub_id
        self.hub_split = type(self).hub_split if split is None else split
        self.revision = revision
        self.max_new_tokens = type(self).max_new_tokens if max_new_tokens is None else max_new_tokens
        wording = f"+{prompt}" if self.wordings_differ and prompt != "llava" else ""
        self.version = f"{self.name}-{self.scorer}{wording}"

    def from_scenes(self, split: str, images: int, difficulty: str | None = None) -> list[Sample]:
        """Questions about `images` generated pictures of a split of the embedded world.

        Args:
            difficulty: "easy", "ordinary" or "hard" makes all of them so; None mixes them.
        """
        rows = self.scene_rows(split, images, difficulty)
        return self.samples(Entry(row, row["image_source"], partial(_given, row["image"])) for row in rows)

    def from_hub(self, key: str = HUB_KEY) -> list[Sample]:
        """The data set of the Hugging Face hub, downloaded or from its cache; pictures are read when they are needed.

        Args:
            key: that its id was given by, for messages.

        Raises:
            ValueError: it cannot be reached; says how to get it.
        """
        [table] = hub_tables(self.hub_id, self.revision, self.hub_split, (self.hub_config,), key=key)
        return self.samples(self.table_entries(table))

    def from_folder(self, root: Path, rules: Rules = AS_AUTHORS) -> list[Sample]:
        """The data set from a folder, in the hub's parquet files or else in the authors' own format.

        Args:
            rules: how pictures are found and read.

        Raises:
            UserError: the folder holds neither, or a part of it is missing or does not fit; says which.
        """
        entries = self.parquet_entries(root, rules)
        if entries is None:
            entries = self.authors_entries(root, rules)
        if entries is None:
            layouts = self.layouts.replace("HUB_ID", self.hub_id)
            raise UserError(f"{root} holds no {self.title}: put there either {layouts}")
        with about(root):
            return self.samples(entries)

    def samples(self, entries: Iterable[Entry]) -> list[Sample]:
        """Samples of a source's rows, the questions about one picture side by side.

        Raises:
            UserError: a row cannot be asked; says where it is, and why.
        """
        made = (self._checked_sample(entry) for entry in entries)
        return side_by_side([sample for sample in made if sample is not None])

    def table_entries(self, table: Table, rules: Rules = AS_AUTHORS) -> list[Entry]:
        """Rows of a `datasets` table with the hub's columns."""
        return table_entries(table, self.columns, self.optional, self.named_by, rules)

    def parquet_entries(self, root: Path, rules: Rules) -> list[Entry] | None:
        """Rows of the hub's parquet files below a folder; None if there are no such files."""
        files = self.find_parquet(root)
        return self.table_entries(parquet_table(root, files), rules) if files else None

    def find_parquet(self, root: Path) -> list[Path]:
        """The hub's parquet files below a folder."""
        return parquet_files(root, *self.parquet)

    @abstractmethod
    def scene_rows(self, split: str, images: int, difficulty: str | None = None) -> Iterable[Row]:
        """Rows about generated pictures, with the hub's columns and `image_source`, the picture's name."""

    @abstractmethod
    def authors_entries(self, root: Path, rules: Rules) -> list[Entry] | None:
        """Rows of the data set as its authors publish it, with the hub's columns; None if the folder holds none.

        Raises:
            ValueError: a part is missing or does not fit; says which.
        """

    @abstractmethod
    def sample(self, entry: Entry) -> Sample | None:
        """The question of a row, put into the prompt's words; None for a row that is not to be asked.

        Raises:
            ValueError: a column has an invalid value; names the question.
        """

    def _checked_sample(self, entry: Entry) -> Sample | None:
        where = entry.where or "a generated row"
        check_cells(entry.row, where, texts=self.texts, keys=self.keys)
        if entry.image is None:
            raise UserError(f"{where}: there is no picture")
        try:
            return self.sample(entry)
        except UserError as cause:
            raise UserError(f"{where}: {cause}") from cause

    @abstractmethod
    def mark(self, row: Mapping[str, Any]) -> Mark:
        """Read the answer from `row["response"]` and hold it against `row["label"]`.

        Raises:
            KeyError: the row lacks a column that the scorer needs.
            ValueError: a column has an invalid value; names the row.
        """

    def unread(self, row: Mapping[str, Any]) -> bool:
        """Whether a marked row's response says nothing that the scorer reads, so that its `default` counts."""
        return not str(row["answer"]).strip()

    @abstractmethod
    def tally(self, rows: Sequence[Row]) -> Floats:
        """Reduce the marked rows of one picture to the sums [K] that parts and wholes of the metrics are made of."""

    @abstractmethod
    def metrics(self, tally_GK: Floats) -> dict[str, Metric]:
        """Return every metric over pictures; the value is nan where nothing was asked."""

    def clusters(self, rows: Sequence[Row], pictures: Sequence[str]) -> list[str]:
        """Name the cluster of each marked row, which is its picture unless rows are tied in other ways, too.

        Raises:
            ValueError: rows that are tied do not fit one another.
        """
        return list(pictures)

    def warnings(self, rows: Sequence[Row]) -> list[str]:
        """Warnings about this set of rows, for readers of the scores."""
        return []

    @abstractmethod
    def export(self, rows: Sequence[Row], folder: Path) -> list[Path]:
        """Write marked rows into an existing folder in the format that the benchmark's authors read; return the files.

        Raises:
            ValueError: the format cannot hold these rows; says why.
        """


class Graded(Benchmark):
    """A benchmark whose answers have to be judged before they can be scored."""

    judged = True

    @abstractmethod
    def check_gradable(self, ids: Sequence[str]) -> None:
        """Raise a ValueError if it is certain already that answers to these questions will not be judged."""

    @abstractmethod
    def grade(self, rows: Sequence[Row], folder: Path) -> list[Row]:
        """Have the rows judged, and return all of them; those that are judged already are returned unchanged.

        May be called again after the process was killed: answers judged until then should not be judged twice.

        Args:
            folder: the run's, for files of the benchmark's own.
        """


def _given(image: Image.Image) -> Image.Image:
    """A picture that is in memory, as `open_image` of an `Entry`."""
    return image


def make_sample(
    entry: Entry, key: str, question: str, label: str, split: str, details: Mapping[str, Any] | None = None
) -> Sample:
    """Return a sample about a row's picture; columns that rows on scenes alone have go into its details."""
    of_scene = {name: entry.row[name] for name in ("box", "difficulty", "kind") if name in entry.row}
    return Sample(
        key, str(entry.image), question, label, split, entry.open_image, {**(details or {}), **of_scene}
    )


def side_by_side(samples: Sequence[Sample]) -> list[Sample]:
    """Return samples with those about one picture side by side, pictures in order of first appearance.

    Raises:
        ValueError: an id comes twice.
    """
    check_unique([sample.id for sample in samples], "question ids")
    first_seen = {name: i for i, name in enumerate(dict.fromkeys(sample.image for sample in samples))}
    return sorted(samples, key=lambda sample: first_seen[sample.image])


def check_unique(ids: Sequence[str], what: str) -> None:
    """Raise a ValueError that names the ids that come more than once; `what` they are, in the plural."""
    twice = [key for key, count in Counter(ids).items() if count > 1]
    if twice:
        shown = ", ".join(twice[:5])
        raise UserError(f"{len(twice)} {what} come more than once: {shown}{' ...' if twice[5:] else ''}")
