"""Questions of the user's own with short answers, exact match; on scenes, one of each of six kinds a picture.

A folder has `questions.jsonl`, one JSON object per line, and the pictures that it names:

    {"image": "dog.jpg", "question": "What colour is the dog?", "answer": "brown", "box": [120, 80, 260, 240], "kind": "colour"}

`image` is a path below the folder, `question` the user's text as the backbone is to get it, any closing instruction
included. `box` may be left out: left, top, right and bottom of what the question is about, in pixels of the picture
as it is read (stored; with data.exif=apply, turned). So may `id`, which must be unique, and `kind`. A response is right
if it equals the answer, both in lower case and without closing full stops, as in GQA. All figures are percentages.

Axes: T kinds of question, K = 2 T sums in a tally: right answers and questions of each kind.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from blink.bench.base import Benchmark, Mark, Row, Sample, make_sample
from blink.bench.readers.rows import Entry, check_cells
from blink.bench.readers.sources import HUB_KEY
from blink.bench.statistics import Floats, Metric
from blink.runs.files import json_lines, numbered_rows, write_text
from blink.runs.inputs.hub import Table
from blink.runs.inputs.pictures import AS_AUTHORS, Rules
from blink.runs.values import UserError, is_whole
from blink.runs.values import box as checked_box
from blink.scenes.questions import SHORT_KINDS, question_rows

FILE = "questions.jsonl"


class OwnQuestions(Benchmark):
    """The user's own questions.

    Metrics are `accuracy` over all questions, and that of each kind; kinds other than those of the scenes count for
    `accuracy` alone.
    """

    name = "questions"
    title = "Questions"
    hub_id = ""
    max_new_tokens = 16
    editions: ClassVar[Mapping[int, str]] = {}
    headline = ("accuracy", *SHORT_KINDS)
    main = "accuracy"
    compared = ("accuracy", *SHORT_KINDS)
    tabled = ("accuracy",)
    columns = ("question", "answer")
    optional = ("id", "kind", "box")
    texts = ("question", "answer")
    keys = ("id",)
    parquet = ()
    layouts = (
        f"{FILE} and the pictures that it names, or parquet files with the columns image, question and answer"
    )

    def scene_rows(self, split: str, images: int, difficulty: str | None = None) -> Iterable[Row]:
        """Up to six questions a picture."""
        return question_rows(split, images, difficulty=difficulty)

    def from_hub(self, key: str = HUB_KEY) -> list[Sample]:
        """The rows of a hub data set that the user names.

        Raises:
            ValueError: none is named, or it cannot be reached; says how to get it.
        """
        if not self.hub_id:
            raise UserError("bench=questions has no data set of its own on the hub; name yours with data.id=")
        return super().from_hub(key)

    def table_entries(self, table: Table, rules: Rules = AS_AUTHORS) -> list[Entry]:
        """Rows of a table; those without an id are named by their position."""
        entries = super().table_entries(table, rules)
        return [
            entry._replace(row={"id": position, **_without_none(entry.row)})
            for position, entry in enumerate(entries)
        ]

    def authors_entries(self, root: Path, rules: Rules) -> list[Entry] | None:
        """Rows of `questions.jsonl`."""
        path = root / FILE
        if not path.is_file():
            return None
        return [
            own_entry(root, row, f"{path}, line {line}", str(line), rules)
            for line, row in numbered_rows(path)
        ]

    def sample(self, entry: Entry) -> Sample:
        """A question, as it is."""
        row = entry.row
        kind = row.get("kind") or ""
        if not isinstance(kind, str):
            raise UserError(f"kind={kind!r}; expected a text")
        return make_sample(entry, str(row["id"]), row["question"], row["answer"], "", {"kind": kind})

    def mark(self, row: Mapping[str, Any]) -> Mark:
        """Compare a response with the label, both in lower case and without closing full stops.

        Raises:
            ValueError: the label is no text; names the row.
        """
        if not isinstance(row["label"], str):
            raise UserError(f"question {row['id']} has the label {row['label']!r}; expected a text")
        answer = _plain(row["response"])
        return Mark(answer, answer == _plain(row["label"]))

    def tally(self, rows: Sequence[Row]) -> Floats:
        """Count right answers and questions of each kind, [K]."""
        sums_T2 = np.zeros((len(SHORT_KINDS) + 1, 2))
        for row in rows:
            kind = row.get("kind")
            position = SHORT_KINDS.index(kind) if kind in SHORT_KINDS else len(SHORT_KINDS)
            sums_T2[position] += (bool(row["correct"]), 1)
        return sums_T2.reshape(-1)

    def metrics(self, tally_GK: Floats) -> dict[str, Metric]:
        """Accuracy in percent over all questions and of each kind; nan where nothing was asked."""
        right_GT, n_GT = np.moveaxis(tally_GK.reshape(len(tally_GK), -1, 2), -1, 0)
        found = {"accuracy": Metric.percent(right_GT.sum(axis=-1), n_GT.sum(axis=-1))}
        for position, kind in enumerate(SHORT_KINDS):
            found[kind] = Metric.percent(right_GT[:, position], n_GT[:, position])
        return found

    def export(self, rows: Sequence[Row], folder: Path) -> list[Path]:
        """Write `answers.jsonl`: id and response of each question."""
        path = folder / "answers.jsonl"
        write_text(path, json_lines({"id": row["id"], "response": row["response"]} for row in rows))
        return [path]


def own_entry(folder: Path, row: Mapping[str, Any], where: str, key: str, rules: Rules) -> Entry:
    """The row of a file of questions about pictures of a folder, checked.

    Args:
        row: as above; what is missing in it but `image` and `question` is left to the caller.
        where: the row stands, for messages.
        key: its id unless it has one.
        rules: how pictures are found and read.

    Raises:
        UserError: a column has an invalid value, or the picture is missing; says where and why.
    """
    check_cells(row, where, texts=("image", "question"))
    path = rules.find((folder,), row["image"], where)
    box, given = row.get("box"), row.get("id")
    if box is not None:
        checked_box(f"{where}: box", box, rules.reading.size(path))
    if given is not None and not is_whole(given) and not (isinstance(given, str) and given):
        raise UserError(f"{where}: id={given!r}; expected a text or a whole number")
    found = {**row, "id": key if given is None else str(given), "box": None if box is None else list(box)}
    return Entry(found, row["image"], partial(rules.reading, path, str(path)), where)


def _plain(text: str) -> str:
    return text.strip().rstrip(".").lower()


def _without_none(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}
