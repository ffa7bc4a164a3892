"""ScienceQA-IMG: multiple choice about school science, the questions that come with a picture.

Prompt and answer reading are LLaVA's (`llava/eval/model_vqa_science.py --single-pred-prompt` and
`llava/eval/eval_science_qa.py`); lmms-eval asks in the same words. Accuracy is over all questions with a picture,
2,017 in the test split.

Axes: K = 2 (1 + P) sums in a tally: right answers and questions, for all and for each of P parts.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from blink.bench.base import Benchmark, Mark, Row, Sample, make_sample
from blink.bench.choices import OPTION_LETTERS, UNDECIDED, check_label
from blink.bench.readers.rows import Entry, check_cells, content_name, file_content, read_objects
from blink.bench.readers.sources import parquet_files
from blink.bench.readers.tables import cell_number, cell_text, text_of
from blink.bench.statistics import Floats, Metric
from blink.runs.files import read_json, write_json
from blink.runs.inputs.hub import Table
from blink.runs.inputs.pictures import AS_AUTHORS, Rules
from blink.runs.values import UserError
from blink.scenes.formats import LETTER, lettered
from blink.scenes.scienceqa import scienceqa_rows

SUBJECTS = ("natural science", "social science", "language science")
GRADES = {f"grade{number}": "grades_1_6" if number <= 6 else "grades_7_12" for number in range(1, 13)}
_PARTS = (*(subject.replace(" ", "_") for subject in SUBJECTS), "grades_1_6", "grades_7_12")

_STATED = re.compile(r"The answer is ([A-Z]).")  # LLaVA's: the full stop stands for any character
_ANSWERS = "llava_test_CQM-A.json"


class ScienceQA(Benchmark):
    """The benchmark."""

    name = "scienceqa"
    title = "SQA-IMG"
    default = "no choice, which is wrong"
    hub_id = "lmms-lab-encoder/ScienceQA"
    hub_config = "ScienceQA-IMG"
    validation = "validation"
    max_new_tokens = 1024
    editions: ClassVar[Mapping[int, str]] = {2017: "IMG test"}
    headline = ("accuracy",)
    main = "accuracy"
    compared = tabled = ("accuracy",)
    columns = ("question", "choices", "answer")
    optional = ("hint", "subject", "grade", "category")
    texts = ("question",)
    keys = ()
    layouts = (
        "the test parquet files of HUB_ID (the folder ScienceQA-IMG/), or the authors' problems.json with "
        f"pid_splits.json or LLaVA's {_ANSWERS}, and the pictures as images/test/5/image.png"
    )

    def scene_rows(self, split: str, images: int, difficulty: str | None = None) -> Iterable[Row]:
        """4 questions a picture."""
        for number, row in enumerate(scienceqa_rows(split, images, difficulty=difficulty)):
            yield {**row, "key": f"scenes/{number}"}

    def table_entries(self, table: Table, rules: Rules = AS_AUTHORS) -> list[Entry]:
        """Rows of the table that have a picture; an id is the position in the table."""
        entries = super().table_entries(table, rules)
        kept = [
            entry._replace(row={**entry.row, "key": f"hub/{position}"})
            for position, entry in enumerate(entries)
            if entry.image is not None
        ]
        if not kept:
            raise UserError(
                f"{table.name}: none of the table's {len(entries)} rows has a picture; ScienceQA-IMG needs them"
            )
        return kept

    def find_parquet(self, root: Path) -> list[Path]:
        """The split's files of the part with pictures; where no folder is named after it, of all."""
        with_pictures = root / "ScienceQA-IMG"
        found = parquet_files(with_pictures if with_pictures.is_dir() else root, self.hub_split)
        if self.hub_split == "test":  # also under another name, if there is no other file
            return found
        of_split = [path for path in found if path.name.startswith(self.hub_split)]
        if found and not of_split:
            raise UserError(
                f"the split {self.hub_split}: {root} has no parquet file whose name begins with that"
            )
        return of_split

    def authors_entries(self, root: Path, rules: Rules) -> list[Entry] | None:
        """The authors' problems, chosen and worded by LLaVA's question file if it is there.

        `text` is LLaVA's wording without its closing.
        """
        file = root / "problems.json"
        if not file.is_file():
            return None
        if self.hub_split != "test":
            raise UserError(
                f"the split {self.hub_split}: of {file} the test split alone is read; data=hub has the others"
            )
        problems = read_objects(file)
        questions = _chosen(root, problems)
        unknown = [key for key in questions if key not in problems]
        if unknown:
            raise UserError(f"{file} lacks {len(unknown)} problems, {unknown[0]} for one")
        folders = (root / "images" / "test", root / "test", root / "images", root)
        entries = []
        for key, text in questions.items():
            where = f"{file}, problem {key}"
            name = f"{key}/{problems[key].get('image') or 'image.png'}"
            path = rules.find(folders, name, where)
            row = {**problems[key], "key": key, "text": text}
            opener = partial(rules.reading, path, str(path))
            entries.append(Entry(row, content_name(file_content(path)), opener, where))
        return entries

    def sample(self, entry: Entry) -> Sample:
        """One question with its choices."""
        row, key = entry.row, entry.row["key"]
        choices = row.get("choices")
        if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
            raise UserError(f"question {key} has the choices {choices!r}; expected a list of texts")
        right = cell_number(row.get("answer"), f"the answer of question {key}")
        if len(choices) > len(OPTION_LETTERS) or not 0 <= right < len(choices):
            raise UserError(f"question {key} has {len(choices)} choices and the answer {right}")
        hint = cell_text(row.get("hint"))
        context = f"Context: {hint}\n" if hint else ""
        text = row.get("text") or f"{context}{row['question']}\n{lettered(tuple(choices))}"
        question = f"{text.replace('<image>', '').strip()}\n{LETTER}"
        details = {
            **dict(zip(OPTION_LETTERS, choices, strict=False)),
            **{k: text_of(row, k) for k in ("subject", "grade", "category") if k in row},
        }
        return make_sample(entry, key, question, OPTION_LETTERS[right], self.hub_split, details)

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
            parts = (text_of(row, "subject").replace(" ", "_"), GRADES.get(text_of(row, "grade")))
            counted = [0, *(1 + _PARTS.index(part) for part in parts if part in _PARTS)]
            counts_P2[counted] += (row["correct"], 1)
        return counts_P2.reshape(-1)

    def metrics(self, tally_GK: Floats) -> dict[str, Metric]:
        """Accuracy overall, per subject and per range of grades where they are known, in percent."""
        right, asked = np.moveaxis(tally_GK.reshape(len(tally_GK), 1 + len(_PARTS), 2), -1, 0)
        names = ("accuracy", *(f"{part}_accuracy" for part in _PARTS))
        return {name: Metric.percent(right[:, i], asked[:, i]) for i, name in enumerate(names)}

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
        write_json(path, result)
        return [path]


def _chosen(root: Path, problems: Mapping[str, Mapping[str, Any]]) -> dict[str, str | None]:
    """Keys of the problems that are asked, with LLaVA's wording where its file is there."""
    file = root / _ANSWERS
    if file.is_file():
        return dict(_worded(file))
    file = root / "pid_splits.json"
    if file.is_file():
        splits = read_json(file)
        chosen = splits.get("test") if isinstance(splits, dict) else None
        if not isinstance(chosen, list) or not all(isinstance(key, str) for key in chosen):
            raise UserError(f'{file}: expected an object whose "test" is a list of problems')
        return {key: None for key in chosen if key not in problems or problems[key].get("image")}
    raise UserError(
        f"{root} has problems.json, and neither pid_splits.json nor {_ANSWERS} to say which are asked"
    )


def _worded(file: Path) -> Iterator[tuple[str, str]]:
    """Keys and wordings of LLaVA's question file, those without a picture left out."""
    entries = read_json(file)
    if not isinstance(entries, list):
        raise UserError(f"{file}: expected a list of questions")
    for number, entry in enumerate(entries, start=1):
        where = f"{file}, entry {number}"
        if not isinstance(entry, dict):
            raise UserError(f"{where} is no object but {entry!r}")
        if "image" not in entry:
            continue
        check_cells(entry, where, keys=("id",))
        turns = entry.get("conversations")
        first = turns[0] if isinstance(turns, list) and turns else None
        if not isinstance(first, dict) or not isinstance(first.get("value"), str):
            raise UserError(f"{where}: expected conversations that begin with a text in 'value'")
        yield str(entry["id"]), first["value"]


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
