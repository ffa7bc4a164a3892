"""POPE: is an object in the picture? Three splits differ in how absent objects were chosen.

Prompt and answer reading are LLaVA's (`llava/eval/eval_pope.py`), the measures those of POPE's `evaluate.py`.
All figures are percentages and "yes" is the positive answer. The published "POPE" is the unweighted mean of the
three splits' F1 (`f1` here).

Axes: S splits, K = 4 S sums in a tally: true positives, false positives, true negatives, false negatives per split.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from blink.bench.base import SHORT_ANSWER, Benchmark, Mark, Row, Sample, make_sample
from blink.bench.choices import yes_or_no
from blink.bench.readers.rows import Entry, check_cells
from blink.bench.statistics import Floats, Metric
from blink.runs.files import json_lines, numbered_rows
from blink.runs.inputs.pictures import Rules
from blink.runs.values import UserError
from blink.scenes.pope import pope_rows

SPLITS = ("adversarial", "popular", "random")
_NO = {"No", "no", "not"}
_COUNTS = 4


class Pope(Benchmark):
    """The benchmark.

    Args:
        splits: which of the three splits to ask, in the order of the results; one may stand alone.
        common: what every `Benchmark` takes.

    Raises:
        ValueError: an unknown split, or none; an unknown prompt.
    """

    name = "pope"
    title = "POPE"
    hub_id = "lmms-lab-encoder/POPE"
    max_new_tokens = 128
    editions: ClassVar[Mapping[int, str]] = {
        9000: "the authors' and the hub's, 3,000 questions a split",
        8910: "LLaVA's, with 2,910 random questions",
        3000: "one split of 3,000",
        2910: "LLaVA's random split",
    }
    default = "yes"
    main = "f1"
    compared = ("f1", "accuracy", "adversarial_accuracy")
    tabled = ("adversarial_accuracy", "popular_accuracy", "random_accuracy", "f1")
    columns = ("question_id", "question", "answer", "image_source", "category")
    texts = ("question", "answer", "category")
    keys = ("question_id",)
    named_by = "image_source"
    parquet = ("test-", SPLITS)
    layouts = (
        "the parquet files of HUB_ID (any depth), or LLaVA's llava_pope_test.jsonl with POPE's "
        "coco/coco_pope_{adversarial,popular,random}.json and the pictures of COCO val2014 in val2014/"
    )

    def __init__(self, *, splits: str | Sequence[str] = SPLITS, **common: Any) -> None:
        super().__init__(**common)
        named = (splits,) if isinstance(splits, str) else splits
        if not isinstance(named, Sequence) or not named or any(split not in SPLITS for split in named):
            raise UserError(f"POPE splits {splits!r}: choose one or more of {', '.join(SPLITS)}")
        self.splits = tuple(dict.fromkeys(named))
        per_split = (f"{split}_{metric}" for metric in ("f1", "accuracy") for split in self.splits)
        self.headline = ("f1", "accuracy", *per_split)

    def scene_rows(self, split: str, images: int, difficulty: str | None = None) -> Iterable[Row]:
        """18 questions a picture."""
        return pope_rows(split, images, difficulty=difficulty)

    def authors_entries(self, root: Path, rules: Rules) -> list[Entry] | None:
        """Rows of LLaVA's question file; labels come from POPE's files, row by row within a split."""
        questions = root / "llava_pope_test.jsonl"
        if not questions.is_file():
            return None
        rows = numbered_rows(questions)
        for line, row in rows:
            where = f"{questions}, line {line}"
            check_cells(row, where, texts=("image", "text", "category"), keys=("question_id",))
            _check_split(row["category"], where)
        labelled = {split: iter(_labels(root, split, [row for _, row in rows])) for split in self.splits}
        folders = (root / "val2014", root / "images", root)
        entries = []
        for line, row in rows:
            if row["category"] in self.splits:
                answer = next(labelled[row["category"]])["label"]
                found = {**row, "question": row["text"].removesuffix(SHORT_ANSWER), "answer": answer}
                where = f"{questions}, line {line}"
                entries.append(Entry(found, row["image"], rules.opener(folders, row["image"], where), where))
        return entries

    def sample(self, entry: Entry) -> Sample | None:
        """A question of one of the splits that are asked."""
        row = entry.row
        key = f"{row['category']}/{row['question_id']}"
        _check_split(row["category"], f"question {key}")
        label = yes_or_no(row["answer"], key)
        if row["category"] not in self.splits:
            return None
        return make_sample(entry, key, row["question"].strip() + SHORT_ANSWER, label, row["category"])

    def mark(self, row: Mapping[str, Any]) -> Mark:
        """Read yes or no from a response: no if one of its first sentence's words is No, no or not, else yes.

        Raises:
            ValueError: the label is neither yes nor no, or the split is unknown; names the row.
        """
        _check_split(row["split"], f"question {row['id']}")
        label = yes_or_no(row["label"], row["id"])
        words = _first_sentence(row["response"]).split(" ")
        answer = "no" if _NO.intersection(words) else "yes"
        return Mark(answer, answer == label)

    def unread(self, row: Mapping[str, Any]) -> bool:
        """Whether a response counts as yes although no word of its first sentence is one, as an empty one does."""
        said = re.findall(r"\w+", _first_sentence(row["response"]).lower())
        return row["answer"] == "yes" and "yes" not in said

    def tally(self, rows: Sequence[Row]) -> Floats:
        """Count the four outcomes of each split, [K]."""
        counts_S4 = np.zeros((len(self.splits), _COUNTS))
        for row in rows:
            negative = row["answer"] == "no"
            counts_S4[self.splits.index(row["split"]), 2 * negative + (not row["correct"])] += 1
        return counts_S4.reshape(-1)

    def metrics(self, tally_GK: Floats) -> dict[str, Metric]:
        """Per split accuracy, precision, recall, F1 and yes ratio, and the means of F1 and accuracy, in percent.

        A quotient without a denominator is 0, as nothing was found; all of a split without questions is nan.
        """
        counts_GS4 = tally_GK.reshape(len(tally_GK), len(self.splits), _COUNTS)
        tp, fp, tn, fn = np.moveaxis(counts_GS4, -1, 0)
        n = counts_GS4.sum(axis=-1)
        asked_S = n.sum(axis=0) > 0
        shares = {
            "accuracy": (tp + tn, n),
            "precision": (tp, tp + fp),
            "recall": (tp, tp + fn),
            "f1": (2 * tp, 2 * tp + fp + fn),
            "yes_ratio": (tp + fp, n),
        }
        means = {
            name: Metric.mean_percent(*(sums[:, asked_S] for sums in shares[name]), empty=0.0)
            for name in ("f1", "accuracy")
        }
        parts = {
            f"{split}_{name}": Metric.percent(part[:, i], whole[:, i], empty=0.0 if asked_S[i] else np.nan)
            for i, split in enumerate(self.splits)
            for name, (part, whole) in shares.items()
        }
        return means | parts

    def warnings(self, rows: Sequence[Row]) -> list[str]:
        """Say so where the means are not over all three splits."""
        present = {row["split"] for row in rows}
        if present == set(SPLITS):
            return []
        return [
            f"f1 and accuracy are means over {', '.join(sorted(present))} only, not over POPE's three splits"
        ]

    def export(self, rows: Sequence[Row], folder: Path) -> list[Path]:
        """Write what LLaVA's `eval_pope.py` reads: lines of `question_id`, `prompt` and `text`.

        It pairs answers with labels by their order within a split, which is that of the ids. One file serves LLaVA's
        edition, whose ids differ between splits; where they do not, as on the hub, each split has a file.
        """
        lines: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
        for row in rows:
            key = str(row.get("question_id") or row["id"].rpartition("/")[2])
            question_id = int(key) if key.isdecimal() else key
            line = {"question_id": question_id, "prompt": row.get("question", ""), "text": row["response"]}
            lines[row["split"]].append(line)
        files = {f"answers_{split}.jsonl": _by_id(part) for split, part in lines.items() if part}
        together = [line for part in files.values() for line in part]
        if len({line["question_id"] for line in together}) == len(together):
            files = {"answers.jsonl": together}
        for name, part in files.items():
            (folder / name).write_text(json_lines(part), encoding="utf-8")
        return [folder / name for name in files]


def _first_sentence(response: str) -> str:
    """What the scorer reads of a response: all before the first full stop, without commas."""
    return response.split(".")[0].replace(",", "")


def _by_id(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines in the order of their ids where all are numbers, else as they are."""
    numbered = all(isinstance(line["question_id"], int) for line in lines)
    return sorted(lines, key=lambda line: line["question_id"]) if numbered else lines


def _check_split(split: str, what: str) -> None:
    if split not in SPLITS:
        raise UserError(f"{what} is of split {split!r}; POPE has {', '.join(SPLITS)}")


def _labels(root: Path, split: str, questions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The label rows of a split, checked to be about the same pictures and objects as the questions."""
    path = root / "coco" / f"coco_pope_{split}.json"
    if not path.is_file():
        raise UserError(f"{path} is missing: it holds POPE's labels for llava_pope_test.jsonl")
    numbered = numbered_rows(path)
    for line, row in numbered:
        check_cells(row, f"{path}, line {line}", texts=("image", "text", "label"), keys=("question_id",))
    labels = [row for _, row in numbered]
    asked = [row for row in questions if row["category"] == split]
    if len(labels) != len(asked):
        raise UserError(
            f"{path} has {len(labels)} rows and llava_pope_test.jsonl {len(asked)} of that split: they are of "
            "different editions (LLaVA's has 2,910 random ones); take both from one"
        )
    for question, label in zip(asked, labels, strict=True):
        if (question["image"], _object(question)) != (label["image"], _object(label)):
            raise UserError(
                f"{path}: its question {label['question_id']} is not question {question['question_id']} of "
                "llava_pope_test.jsonl; take both files from one edition"
            )
    return labels


def _object(row: Mapping[str, Any]) -> str:
    """The question without the instruction, and without the misprint that editions differ in."""
    return str(row["text"]).removesuffix(SHORT_ANSWER).strip().replace("imange", "image")
