"""GQA: compositional questions about photographs, answered by a word or phrase; the balanced testdev split.

The prediction is LLaVA's (`scripts/convert_gqa_for_eval.py`): the response without closing full stops, in lower case.
It is right if it equals the answer, as in GQA's own `eval.py`; validity and plausibility need files that testdev
lacks. All figures are percentages.

Axes: T structural types, K = 2 T sums in a tally: right answers and questions of each type.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from blink.bench.base import SHORT_ANSWER, Mark, Row, Sample, check_prompt, of_scene, percent, side_by_side
from blink.bench.sources import (
    Opener,
    hub_table,
    in_memory,
    parquet_table,
    picture_file,
    read_json,
    read_jsonl,
    rows_and_pictures,
    table_rows,
)
from blink.bench.statistics import Floats
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


class GQA:
    """The benchmark.

    Args:
        hub_id: data set on the Hugging Face hub.
        revision: its revision; None is the newest.
        max_new_tokens: how long an answer may get.
        prompt: "llava" or "lmms_eval", which ask alike.

    Raises:
        ValueError: an unknown prompt.
    """

    name = "gqa"
    version = "gqa-1"
    headline: tuple[str, ...] = ("accuracy", "binary", "open")

    def __init__(
        self,
        *,
        hub_id: str = "lmms-lab/GQA",
        revision: str | None = None,
        max_new_tokens: int = 128,
        prompt: str = "llava",
    ) -> None:
        check_prompt(prompt)
        self.hub_id = hub_id
        self.revision = revision
        self.max_new_tokens = max_new_tokens

    def from_scenes(self, split: str, images: int) -> list[Sample]:
        """Up to 12 questions about each of `images` generated pictures of the world's `split`."""
        rows = list(gqa_rows(split, images))
        return self._samples(rows, {row["imageId"]: in_memory(row["image"]) for row in rows})

    def from_hub(self) -> list[Sample]:
        """The balanced testdev questions of the hub data set, its pictures read when they are needed.

        Raises:
            ValueError: the data set cannot be reached; says how to get it.
        """
        return self._from_tables(
            *(hub_table(self.hub_id, self.revision, "testdev", config) for config in CONFIGS)
        )

    def from_folder(self, root: Path) -> list[Sample]:
        """The hub's parquet files, or GQA's answers and pictures with LLaVA's question file, below `root`.

        Raises:
            ValueError: the folder holds neither, or a part of it is missing or does not fit; says which.
        """
        parquet = [
            [
                path
                for path in sorted(root.rglob("*.parquet"))
                if path.relative_to(root).as_posix().count(name)
            ]
            for name in CONFIGS
        ]
        if all(parquet):
            return self._from_tables(*(parquet_table(files) for files in parquet))
        folders = (root, root / "data", root / "questions1.2", root / "data" / "questions1.2")
        answers = next((folder / ANSWERS for folder in folders if (folder / ANSWERS).is_file()), None)
        if answers is not None:
            return self._from_json(root, answers)
        raise ValueError(
            f"{root} holds no GQA: put there either the parquet files of {self.hub_id} in {CONFIGS[0]}/ and "
            f"{CONFIGS[1]}/, or GQA's {ANSWERS} and its pictures in images/, and beside them LLaVA's {QUESTIONS} if "
            "its order of questions is wanted"
        )

    def mark(self, row: Mapping[str, Any]) -> Mark:
        """Hold a response without closing full stops, in lower case, against the label: right if equal.

        Raises:
            ValueError: the label is no text; names the row.
        """
        if not isinstance(row["label"], str):
            raise ValueError(f"question {row['id']} has the label {row['label']!r}; expected a text")
        answer = _prediction(row["response"])
        return Mark(answer, answer == row["label"])

    def tally(self, rows: Sequence[Row]) -> Floats:
        """Count right answers and questions of each structural type, [K]."""
        sums_T2 = np.zeros((len(STRUCTURAL) + 1, 2))
        for row in rows:
            kind = row.get("structural")
            place = STRUCTURAL.index(kind) if kind in STRUCTURAL else _UNKNOWN
            sums_T2[place] += (bool(row["correct"]), 1)
        return sums_T2.reshape(-1)

    def metrics(self, tally_K: Floats) -> dict[str, Floats]:
        """Accuracy over all questions, over open ones (`query`) and the others (`binary`), and per structural type.

        nan where nothing was asked. Questions whose type is not known count for `accuracy` alone.
        """
        right_T, n_T = np.moveaxis(tally_K.reshape(*tally_K.shape[:-1], -1, 2), -1, 0)
        parts = {"accuracy": np.ones_like(_IS_OPEN_T), "binary": _IS_BINARY_T, "open": _IS_OPEN_T} | {
            name: np.arange(len(STRUCTURAL) + 1) == place for place, name in enumerate(STRUCTURAL)
        }
        found = {}
        for name, part_T in parts.items():
            right, n = right_T[..., part_T].sum(axis=-1), n_T[..., part_T].sum(axis=-1)
            found[name] = np.where(n > 0, percent(right, n), np.nan)
        return found

    def warnings(self, rows: Sequence[Row]) -> list[str]:
        """Nothing is particular to a set of rows."""
        return []

    def export(self, rows: Sequence[Row], folder: Path) -> list[Path]:
        """Write what GQA's `eval.py` reads: `testdev_balanced_predictions.json`."""
        path = folder / f"{SPLIT}_predictions.json"
        found = [{"questionId": row["id"], "prediction": _prediction(row["response"])} for row in rows]
        path.write_text(json.dumps(found), encoding="utf-8")
        return [path]

    def _from_tables(self, questions: Any, images: Any) -> list[Sample]:
        """Samples of the hub's two tables, joined by the picture's id."""
        rows = table_rows(questions, ("id", "imageId", "question", "answer", "isBalanced"), ("types",))
        names, openers = rows_and_pictures(images, ("id",), "image")
        return self._samples(
            rows, {str(row["id"]): opener for row, opener in zip(names, openers, strict=True)}
        )

    def _from_json(self, root: Path, answers: Path) -> list[Sample]:
        """Samples of GQA's file from id to question; with LLaVA's file those it asks, in its order."""
        known: dict[str, dict[str, Any]] = read_json(answers)
        rows = [{**row, "id": key} for key, row in known.items() if row["isBalanced"]]
        asked = root / QUESTIONS
        if asked.is_file():
            rows = [_labelled(row, known, answers) for row in read_jsonl(asked)]
        folders = (root / "images", root / "data" / "images", answers.parent / "images")
        names = dict.fromkeys(str(row["imageId"]) for row in rows)
        return self._samples(rows, {name: picture_file(folders, f"{name}.jpg") for name in names})

    def _samples(self, rows: Iterable[Mapping[str, Any]], openers: Mapping[str, Opener]) -> list[Sample]:
        """Samples of the balanced ones of rows with the hub's columns, the questions about one picture side by side.

        Args:
            openers: picture of each `imageId`.
        """
        samples = []
        for row in rows:
            image, key = str(row["imageId"]), str(row["id"])
            if not row["isBalanced"]:
                continue
            if image not in openers:
                raise ValueError(
                    f"the picture {image} of question {key} is missing from the pictures of {self.hub_id}"
                )
            details = of_scene(row)
            structural = (row.get("types") or {}).get("structural")
            samples.append(
                Sample(
                    id=key,
                    image=image,
                    question=row["question"].strip() + SHORT_ANSWER,
                    label=row["answer"],
                    split=SPLIT,
                    open_image=openers[image],
                    details={"structural": structural, **details} if structural else details,
                )
            )
        return side_by_side(samples)


def _prediction(response: str) -> str:
    return response.rstrip(".").lower()


def _labelled(row: Mapping[str, Any], known: Mapping[str, dict[str, Any]], path: Path) -> dict[str, Any]:
    """The entry of GQA's file that a row of LLaVA's question file is about."""
    key = str(row["question_id"])
    if key not in known:
        raise ValueError(
            f"{path} has no question {key}, which {QUESTIONS} asks; take both files of testdev balanced"
        )
    found = known[key]
    text = str(row["text"]).removesuffix(SHORT_ANSWER)
    if (found["question"], f"{found['imageId']}.jpg") != (text, row["image"]):
        raise ValueError(
            f"question {key} of {QUESTIONS} is {text!r} about {row['image']}, and in {path} "
            f"{found['question']!r} about {found['imageId']}"
        )
    return {**found, "id": key}
