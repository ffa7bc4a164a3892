"""ScienceQA-IMG: multiple choice about school science, the questions that come with a picture.

Prompt and answer reading are LLaVA's (`llava/eval/model_vqa_science.py --single-pred-prompt` and
`llava/eval/eval_science_qa.py`); lmms-eval asks in the same words. Accuracy is over all questions with a picture,
2,017 in the test split.

Axes: K = 2 (1 + P) sums in a tally: right answers and questions, for all and for each of P parts.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from blink.bench.base import Mark, Row, Sample, check_prompt, of_scene, percent, side_by_side
from blink.bench.choices import OPTION_LETTERS, UNDECIDED, check_label
from blink.bench.sources import (
    Opener,
    content_name,
    hub_table,
    in_memory,
    parquet_files,
    parquet_table,
    picture_names,
    picture_path,
    read_json,
    rows_and_pictures,
)
from blink.bench.statistics import Floats
from blink.bench.tables import cell_number, cell_text
from blink.scenes.formats import LETTER, lettered
from blink.scenes.scienceqa import scienceqa_rows

SUBJECTS = ("natural science", "social science", "language science")
GRADES = {f"grade{number}": "grades_1_6" if number <= 6 else "grades_7_12" for number in range(1, 13)}
_PARTS = (*(subject.replace(" ", "_") for subject in SUBJECTS), "grades_1_6", "grades_7_12")

_STATED = re.compile(r"The answer is ([A-Z]).")  # LLaVA's: the full stop stands for any character
_ANSWERS = "llava_test_CQM-A.json"


class ScienceQA:
    """The benchmark.

    Args:
        prompt: "llava" or "lmms_eval", which ask in the same words.
        hub_id: data set on the Hugging Face hub.
        revision: its revision; None is the newest.
        max_new_tokens: how long an answer may get.

    Raises:
        ValueError: an unknown prompt.
    """

    name = "scienceqa"
    version = "scienceqa-1"

    def __init__(
        self,
        *,
        prompt: str = "llava",
        hub_id: str = "lmms-lab/ScienceQA",
        revision: str | None = None,
        max_new_tokens: int = 1024,
    ) -> None:
        check_prompt(prompt)
        self.hub_id = hub_id
        self.revision = revision
        self.max_new_tokens = max_new_tokens
        self.headline: tuple[str, ...] = ("accuracy",)

    def from_scenes(self, split: str, images: int) -> list[Sample]:
        """4 questions about each of `images` generated pictures of the world's `split`."""
        rows = list(scienceqa_rows(split, images))
        ids = [f"scenes/{place}" for place in range(len(rows))]
        return _samples(
            rows, ids, [row["image_source"] for row in rows], [in_memory(r["image"]) for r in rows]
        )

    def from_hub(self) -> list[Sample]:
        """All rows of the hub data set's test split with a picture, read when it is needed.

        Raises:
            ValueError: the data set cannot be reached; says how to get it.
        """
        return _from_table(hub_table(self.hub_id, self.revision, "test", "ScienceQA-IMG"))

    def from_folder(self, root: Path) -> list[Sample]:
        """The hub's parquet files, or the authors' problems with LLaVA's question file if there is one.

        Raises:
            ValueError: the folder holds neither, or a part of it is missing or does not fit; says which.
        """
        with_pictures = root / "ScienceQA-IMG"
        parquet = parquet_files(with_pictures if with_pictures.is_dir() else root, "test")
        if parquet:
            return _from_table(parquet_table(parquet))
        if (root / "problems.json").is_file():
            return _from_problems(root)
        raise ValueError(
            f"{root} holds no ScienceQA: put there either the test parquet files of {self.hub_id} (the folder "
            f"ScienceQA-IMG/), or the authors' problems.json with pid_splits.json or LLaVA's {_ANSWERS}, and the "
            "pictures as images/test/5/image.png"
        )

    def mark(self, row: Mapping[str, Any]) -> Mark:
        """Read a letter from a response: the letter alone; else the first one if ". " follows it; else the one that
        "The answer is X." states, if it is stated once. A letter beyond the choices is an answer, and wrong.

        Raises:
            ValueError: the label is no choice; names the row.
        """
        check_label(row["label"], row["id"], OPTION_LETTERS[: _choices(row)])
        answer = _read(row["response"])
        return Mark(answer, answer == row["label"])

    def tally(self, rows: Sequence[Row]) -> Floats:
        """Count right answers and questions, overall and in each part, [K]."""
        counts_P2 = np.zeros((1 + len(_PARTS), 2))
        for row in rows:
            parts = (_part(row, "subject").replace(" ", "_"), GRADES.get(_part(row, "grade")))
            places = [0, *(1 + _PARTS.index(part) for part in parts if part in _PARTS)]
            counts_P2[places] += (row["correct"], 1)
        return counts_P2.reshape(-1)

    def metrics(self, tally_K: Floats) -> dict[str, Floats]:
        """Accuracy overall, per subject and per range of grades where they are known, in percent."""
        right, asked = np.moveaxis(tally_K.reshape(*tally_K.shape[:-1], 1 + len(_PARTS), 2), -1, 0)
        share = np.where(asked > 0, percent(right, asked), np.nan)
        names = ("accuracy", *(f"{part}_accuracy" for part in _PARTS))
        return {name: share[..., place] for place, name in enumerate(names)}

    def warnings(self, rows: Sequence[Row]) -> list[str]:
        """Say how many responses name no choice."""
        lost = sum(row["answer"] == UNDECIDED for row in rows)
        return [f"{lost} of {len(rows)} responses name no choice: counted as wrong"] if lost else []

    def export(self, rows: Sequence[Row], folder: Path) -> list[Path]:
        """Write the result as LLaVA's `eval_science_qa.py --output-result` does: choice by number, -1 for none."""
        right = sum(row["correct"] for row in rows)
        path = folder / "scienceqa_result.json"
        result = {
            "acc": 100 * right / len(rows),
            "correct": right,
            "count": len(rows),
            "results": {row["id"]: _choice(row) for row in rows},
            "outputs": {row["id"]: row["response"] for row in rows},
        }
        path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return [path]


def _from_table(table: Any) -> list[Sample]:
    """Samples of those rows of a `datasets` table with the hub's columns that have a picture."""
    rows, openers = rows_and_pictures(
        table, ("question", "choices", "answer"), "image", ("hint", "subject", "grade", "category")
    )
    names = picture_names(table, "image")
    kept = [place for place, name in enumerate(names) if name is not None]
    if not kept:
        raise ValueError(f"none of the table's {len(rows)} rows has a picture; ScienceQA-IMG needs them")
    return _samples(
        [rows[place] for place in kept],
        [f"hub/{place}" for place in kept],
        [str(names[place]) for place in kept],
        [openers[place] for place in kept],
    )


def _from_problems(root: Path) -> list[Sample]:
    """Samples of the authors' problems, chosen and worded by LLaVA's question file if it is there."""
    problems = read_json(root / "problems.json")
    questions: dict[str, str | None]
    if (root / _ANSWERS).is_file():
        entries = [entry for entry in read_json(root / _ANSWERS) if "image" in entry]
        questions = {str(entry["id"]): entry["conversations"][0]["value"] for entry in entries}
    elif (root / "pid_splits.json").is_file():
        chosen = read_json(root / "pid_splits.json")["test"]
        questions = {key: None for key in chosen if key not in problems or problems[key]["image"]}
    else:
        raise ValueError(
            f"{root} has problems.json, and neither pid_splits.json nor {_ANSWERS} to say which are asked"
        )
    unknown = [key for key in questions if key not in problems]
    if unknown:
        raise ValueError(f"{root / 'problems.json'} lacks {len(unknown)} problems, {unknown[0]} for one")
    folders = (root / "images" / "test", root / "test", root / "images", root)
    paths = [picture_path(folders, f"{key}/{problems[key]['image'] or 'image.png'}") for key in questions]
    return _samples(
        [{**problems[key], "text": text} for key, text in questions.items()],
        list(questions),
        [content_name(path.read_bytes()) for path in paths],
        [partial(Image.open, path) for path in paths],
    )


def _samples(
    rows: Sequence[Mapping[str, Any]], ids: Sequence[str], names: Sequence[str], openers: Iterable[Opener]
) -> list[Sample]:
    """Samples of rows with ScienceQA's columns; `text`, where a row has it, is LLaVA's wording without its closing."""
    samples = []
    for row, key, name, open_image in zip(rows, ids, names, openers, strict=True):
        choices = [str(choice) for choice in row["choices"]]
        options = dict(zip(OPTION_LETTERS, choices, strict=False))
        right = cell_number(row["answer"], f"the answer of question {key}")
        if len(choices) > len(OPTION_LETTERS) or not 0 <= right < len(choices):
            raise ValueError(f"question {key} has {len(choices)} choices and the answer {right}")
        hint = cell_text(row.get("hint"))
        context = f"Context: {hint}\n" if hint else ""
        text = row.get("text") or f"{context}{row['question']}\n{lettered(tuple(choices))}"
        samples.append(
            Sample(
                id=key,
                image=name,
                question=f"{text.replace('<image>', '').strip()}\n{LETTER}",
                label=OPTION_LETTERS[right],
                split="test",
                open_image=open_image,
                details={
                    **options,
                    **{k: row[k] for k in ("subject", "grade", "category") if k in row},
                    **of_scene(row),
                },
            )
        )
    return side_by_side(samples)


def _read(response: str) -> str:
    """The letter that LLaVA's evaluation reads, `UNDECIDED` where it fails."""
    if response in OPTION_LETTERS:
        return response
    if response[:1] in OPTION_LETTERS and response[1:3] == ". ":
        return response[0]
    stated = _STATED.findall(response)
    return stated[0] if len(stated) == 1 else UNDECIDED


def _choices(row: Mapping[str, Any]) -> int:
    """How many choices a row has: options of its own, else those that its question lists, else all there can be."""
    own = [letter for letter in OPTION_LETTERS if row.get(letter) is not None]
    starts = {line[:3] for line in str(row.get("question", "")).split("\n")}
    listed = [letter for letter in OPTION_LETTERS if f"{letter}. " in starts]
    return len(own) or len(listed) or len(OPTION_LETTERS)


def _choice(row: Mapping[str, Any]) -> int:
    letters = OPTION_LETTERS[: _choices(row)]
    return letters.index(row["answer"]) if row["answer"] in letters else -1


def _part(row: Mapping[str, Any], column: str) -> str:
    return cell_text(row.get(column)) or ""
