"""GQA: compositional questions about photographs, answered by a word or phrase; the balanced testdev split.

The prediction is LLaVA's (`scripts/convert_gqa_for_eval.py`): the response without closing full stops, in lower case.
It is right if it equals the answer, as in GQA's own `eval.py`; validity and plausibility need files that testdev
lacks. All figures are percentages.

Axes: T structural types, K = 2 T sums in a tally: right answers and questions of each type.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from blink.bench.base import SHORT_ANSWER, Benchmark, Mark, Row, Sample, make_sample
from blink.bench.readers.rows import Entry, check_cells, read_objects
from blink.bench.readers.sources import HUB_KEY, hub_tables, parquet_files, table_entries, table_rows
from blink.bench.statistics import Floats, Metric
from blink.runs.files import numbered_rows
from blink.runs.inputs.hub import Table, parquet_table
from blink.runs.inputs.pictures import AS_AUTHORS, Opener, Rules
from blink.runs.values import UserError
from blink.scenes.gqa import gqa_rows

SPLIT = "testdev_balanced"
CONFIGS = (f"{SPLIT}_instructions", f"{SPLIT}_images")
"""The hub data set keeps questions and pictures in two configurations."""

ANSWERS = f"{SPLIT}_questions.json"
QUESTIONS = f"llava_gqa_{SPLIT}.jsonl"
STRUCTURAL = ("verify", "query", "choose", "logical", "compare")
_UNKNOWN = len(STRUCTURAL)
_IS_OPEN_T = np.array([name == "query" for name in STRUCTURAL] + [False])
_IS_BINARY_T = np.array([name != "query" for name in STRUCTURAL] + [False])


class GQA(Benchmark):
    """The benchmark."""

    name = "gqa"
    title = "GQA"
    hub_id = "lmms-lab-encoder/GQA"
    hub_split = "testdev"
    max_new_tokens = 128
    editions: ClassVar[Mapping[int, str]] = {12578: "testdev balanced"}
    headline = ("accuracy", "binary", "open")
    main = "accuracy"
    compared = tabled = ("accuracy",)
    columns = ("id", "imageId", "question", "answer", "isBalanced")
    optional = ("types",)
    texts = ("question", "answer")
    keys = ("id", "imageId")
    layouts = (
        f"the parquet files of HUB_ID in {CONFIGS[0]}/ and {CONFIGS[1]}/, or GQA's {ANSWERS} and its pictures in "
        f"images/, and beside them LLaVA's {QUESTIONS} if its order of questions is wanted"
    )

    def scene_rows(self, split: str, images: int, difficulty: str | None = None) -> Iterable[Row]:
        """Up to 12 questions a picture."""
        return gqa_rows(split, images, difficulty=difficulty)

    def from_hub(self, key: str = HUB_KEY) -> list[Sample]:
        """The balanced testdev questions of the hub data set, which keeps pictures in a table of their own.

        Raises:
            ValueError: the data set cannot be reached; says how to get it.
        """
        questions, images = hub_tables(self.hub_id, self.revision, self.hub_split, CONFIGS, key=key)
        return self.samples(self._joined(questions, images))

    def parquet_entries(self, root: Path, rules: Rules) -> list[Entry] | None:
        """Rows of both tables' parquet files; None unless both are there."""
        found = [(path, path.relative_to(root).as_posix()) for path in parquet_files(root)]
        files = [[path for path, below_root in found if config in below_root] for config in CONFIGS]
        if not all(files):
            return None
        questions, images = (parquet_table(root, of_one) for of_one in files)
        return self._joined(questions, images, rules)

    def authors_entries(self, root: Path, rules: Rules) -> list[Entry] | None:
        """Rows of GQA's file from id to question; if LLaVA's question file is there, its questions only, in its order."""
        folders = (root, root / "data", root / "questions1.2", root / "data" / "questions1.2")
        answers = next((folder / ANSWERS for folder in folders if (folder / ANSWERS).is_file()), None)
        if answers is None:
            return None
        known = read_objects(answers)
        for key, row in known.items():
            where = f"{answers}, question {key}"
            check_cells(row, where, texts=("question",), keys=("imageId",))
            _check_balanced(row, where)
        rows = [{**row, "id": key} for key, row in known.items() if row["isBalanced"]]
        asked = root / QUESTIONS
        if asked.is_file():
            rows = [
                _labelled(row, f"{asked}, line {line}", known, answers) for line, row in numbered_rows(asked)
            ]
        pictures = (root / "images", root / "data" / "images", answers.parent / "images")
        openers: dict[str, Opener] = {}
        entries = []
        for row in rows:
            name, where = str(row["imageId"]), f"{answers}, question {row['id']}"
            if name not in openers:
                openers[name] = rules.opener(pictures, f"{name}.jpg", where)
            entries.append(Entry(row, name, openers[name], where))
        return entries

    def sample(self, entry: Entry) -> Sample | None:
        """A balanced question."""
        row = entry.row
        _check_balanced(row, f"question {row['id']}")
        if not row["isBalanced"]:
            return None
        types = row.get("types")
        structural = types.get("structural") if isinstance(types, Mapping) else None
        details = {"structural": str(structural)} if structural else {}
        question = row["question"].strip() + SHORT_ANSWER
        return make_sample(entry, str(row["id"]), question, row["answer"], SPLIT, details)

    def mark(self, row: Mapping[str, Any]) -> Mark:
        """Hold a response without closing full stops, in lower case, against the label: right if equal.

        Raises:
            ValueError: the label is no text; names the row.
        """
        if not isinstance(row["label"], str):
            raise UserError(f"question {row['id']} has the label {row['label']!r}; expected a text")
        answer = _prediction(row["response"])
        return Mark(answer, answer == row["label"])

    def tally(self, rows: Sequence[Row]) -> Floats:
        """Count right answers and questions of each structural type, [K]."""
        sums_T2 = np.zeros((len(STRUCTURAL) + 1, 2))
        for row in rows:
            kind = row.get("structural")
            position = STRUCTURAL.index(kind) if kind in STRUCTURAL else _UNKNOWN
            sums_T2[position] += (bool(row["correct"]), 1)
        return sums_T2.reshape(-1)

    def metrics(self, tally_GK: Floats) -> dict[str, Metric]:
        """Accuracy in percent over all questions, over open ones (`query`) and the others (`binary`), and per structural type.

        nan where nothing was asked. Questions whose type is not known count for `accuracy` alone.
        """
        right_GT, n_GT = np.moveaxis(tally_GK.reshape(len(tally_GK), -1, 2), -1, 0)
        parts = {"accuracy": np.ones_like(_IS_OPEN_T), "binary": _IS_BINARY_T, "open": _IS_OPEN_T} | {
            name: np.arange(len(STRUCTURAL) + 1) == position for position, name in enumerate(STRUCTURAL)
        }
        return {name: Metric.percent(right_GT @ part_T, n_GT @ part_T) for name, part_T in parts.items()}

    def export(self, rows: Sequence[Row], folder: Path) -> list[Path]:
        """Write what GQA's `eval.py` reads: `testdev_balanced_predictions.json`."""
        path = folder / f"{SPLIT}_predictions.json"
        found = [{"questionId": row["id"], "prediction": _prediction(row["response"])} for row in rows]
        path.write_text(json.dumps(found), encoding="utf-8")
        return [path]

    def _joined(self, questions: Table, images: Table, rules: Rules = AS_AUTHORS) -> list[Entry]:
        """Balanced rows of the hub's table of questions, with the pictures of its table of pictures."""
        pictures = table_entries(images, ("id",), named_by="id", rules=rules)
        openers = {entry.image: entry.open_image for entry in pictures}
        entries = []
        for position, row in enumerate(table_rows(questions, self.columns, self.optional)):
            image, where = str(row["imageId"]), questions.place(position)
            _check_balanced(row, where)
            if not row["isBalanced"]:
                continue
            if image not in openers:
                raise UserError(
                    f"{where}: the picture {image} of question {row['id']} is missing in {images.name}"
                )
            entries.append(Entry(row, image, openers[image], where))
        return entries


def _prediction(response: str) -> str:
    return response.rstrip(".").lower()


def _check_balanced(row: Mapping[str, Any], where: str) -> None:
    if not isinstance(row.get("isBalanced"), bool):
        raise UserError(f"{where}: isBalanced is {row.get('isBalanced')!r}; expected true or false")


def _labelled(
    row: Mapping[str, Any], where: str, known: Mapping[str, dict[str, Any]], path: Path
) -> dict[str, Any]:
    """The entry of GQA's file that a row of LLaVA's question file is about."""
    check_cells(row, where, texts=("text", "image"), keys=("question_id",))
    key = str(row["question_id"])
    if key not in known:
        raise UserError(
            f"{path} has no question {key}, which {QUESTIONS} asks; take both files of testdev balanced"
        )
    found = known[key]
    text = str(row["text"]).removesuffix(SHORT_ANSWER)
    if (found["question"], f"{found['imageId']}.jpg") != (text, row["image"]):
        raise UserError(
            f"question {key} of {QUESTIONS} is {text!r} about {row['image']}, and in {path} "
            f"{found['question']!r} about {found['imageId']}"
        )
    return {**found, "id": key}
