"""MME: two yes/no questions about each picture, of which one is to be answered yes, in 14 subtasks.

Prompts are LLaVA's or lmms-eval's; answer reading and points are those of the authors' `calculation.py`. A subtask
gives 100 points times the share of right answers and 100 times the share of pictures with both answers right;
perception is the sum over ten subtasks (at most 2000), cognition over four (at most 800).

Axes: S subtasks, K = 5 S sums in a tally: right answers, questions, pairs with both right, pairs, answers that are
neither yes nor no.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from blink.bench.base import SHORT_ANSWER, Benchmark, Mark, Row, Sample, make_sample
from blink.bench.choices import yes_or_no
from blink.bench.readers.mme_release import CLOSING, find_release, labelled, release_rows
from blink.bench.readers.rows import Entry
from blink.bench.statistics import Floats, Metric
from blink.runs.inputs.pictures import Rules
from blink.runs.values import UserError
from blink.scenes.mme import mme_rows

PERCEPTION = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
SUBTASKS = PERCEPTION + COGNITION
OTHER = "other"
"""What a response is read as that begins neither with yes nor with no: always wrong."""
_SUMS = 5
_IS_PERCEPTION_S = np.array([subtask in PERCEPTION for subtask in SUBTASKS])


class MME(Benchmark):
    """The benchmark. lmms-eval's prompt keeps a space before the line break in the seven questions that have two spaces
    before their closing."""

    name = "mme"
    title = "MME"
    default = "neither yes nor no, which is wrong"
    hub_id = "lmms-lab-encoder/MME"
    max_new_tokens = 128
    wordings_differ = True
    editions: ClassVar[Mapping[int, str]] = {2374: "the authors' and the hub's (1,187 pictures)"}
    headline = ("perception", "cognition", "total")
    main = "total"
    compared = headline
    tabled = (*PERCEPTION, "perception", *COGNITION, "cognition", "total")
    groups: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "MME Perception": (*PERCEPTION, "perception"),
        "MME Cognition": (*COGNITION, "cognition", "total"),
    }
    units = dict.fromkeys((*headline, *SUBTASKS), "points")
    columns = ("question_id", "question", "answer", "category")
    texts = ("question", "answer", "category")
    keys = ("question_id",)
    named_by = "question_id"
    layouts = (
        "the parquet files of HUB_ID (any depth), or the authors' MME_Benchmark_release_version/ with a folder per "
        "subtask, and beside it LLaVA's llava_mme.jsonl if its order of questions is wanted"
    )

    def scene_rows(self, split: str, images: int, difficulty: str | None = None) -> Iterable[Row]:
        """A pair of questions of every subtask a picture."""
        return mme_rows(split, images, difficulty=difficulty)

    def authors_entries(self, root: Path, rules: Rules) -> list[Entry] | None:
        """Rows of the authors' folders; with LLaVA's file its questions in its order, labelled from the folders."""
        release = find_release(root, SUBTASKS)
        if release is None:
            return None
        asked, questions = release_rows(release, SUBTASKS), root / "llava_mme.jsonl"
        if questions.is_file():
            asked = labelled(questions, asked, instruction=SHORT_ANSWER)
        return [
            Entry(row, row["question_id"], partial(rules.reading, picture, str(picture)), where)
            for row, picture, where in asked
        ]

    def samples(self, entries: Iterable[Entry]) -> list[Sample]:
        """Samples of a source's rows; an id is the picture's and the number of the question about it."""
        asked: Counter[str] = Counter()
        numbered = []
        for entry in entries:
            shared = str(entry.row.get("question_id"))
            asked[shared] += 1
            numbered.append(entry._replace(row={**entry.row, "key": f"{shared}/{asked[shared]}"}))
        return super().samples(numbered)

    def sample(self, entry: Entry) -> Sample:
        """One question of a pair."""
        row, key = entry.row, entry.row["key"]
        _check_subtask(row["category"], key)
        return make_sample(
            entry,
            key,
            self._prompt(row["question"]),
            yes_or_no(row["answer"], key),
            "perception" if row["category"] in PERCEPTION else "cognition",
            {"category": row["category"], "question_id": str(row["question_id"])},
        )

    def mark(self, row: Mapping[str, Any]) -> Mark:
        """Read yes, no or other from a response; other is wrong.

        The whole of it in lower case, else its first four characters: "yes" in them, else "no" in them, else other.

        Raises:
            ValueError: the label is neither yes nor no, or the subtask or the picture is unknown; names the row.
        """
        _check_subtask(row["category"], row["id"])
        if row["image"] is None:
            raise UserError(f"question {row['id']} names no image, by which MME's pairs are found")
        label = yes_or_no(row["label"], row["id"])
        start = row["response"].lower()[:4]
        answer = "yes" if "yes" in start else "no" if "no" in start else OTHER
        return Mark(answer, answer == label)

    def unread(self, row: Mapping[str, Any]) -> bool:
        """Whether a response begins neither with yes nor with no."""
        return bool(row["answer"] == OTHER)

    def tally(self, rows: Sequence[Row]) -> Floats:
        """Add up answers and pairs of each subtask, [K]. A pair with an answer missing is not right in both."""
        sums_S5 = np.zeros((len(SUBTASKS), _SUMS))
        for (subtask, _), pair in _pairs(rows).items():
            right = sum(row["correct"] for row in pair)
            both = len(pair) > 1 and right == len(pair)
            other = sum(row["answer"] == OTHER for row in pair)
            sums_S5[SUBTASKS.index(subtask)] += (right, len(pair), both, 1, other)
        return sums_S5.reshape(-1)

    def metrics(self, tally_GK: Floats) -> dict[str, Metric]:
        """Points: of perception, cognition and both, and of each subtask (at most 200). In percent: all questions
        answered right (`accuracy`), and answered neither yes nor no (`other`).

        A subtask without questions is nan, and left out of the sums. Answers count half where they are parts, as both
        about a picture are scored together.
        """
        right, n, both, pairs, other = np.moveaxis(
            tally_GK.reshape(len(tally_GK), len(SUBTASKS), _SUMS), -1, 0
        )
        part_GS2, whole_GS2 = np.stack([right / 2, both], axis=-1), np.stack([n / 2, pairs], axis=-1)
        asked_S = n.sum(axis=0) > 0

        def points(chosen_S: NDArray[np.bool_]) -> Metric:
            return Metric.points(
                *(sums[:, chosen_S].reshape(len(sums), -1) for sums in (part_GS2, whole_GS2))
            )

        parts = {
            "perception": _IS_PERCEPTION_S,
            "cognition": ~_IS_PERCEPTION_S,
            "total": np.ones_like(_IS_PERCEPTION_S),
        }
        totals = {name: points(asked_S & part_S) for name, part_S in parts.items()}
        shares = {
            "accuracy": Metric.percent(right.sum(axis=-1), n.sum(axis=-1)),
            "other": Metric.percent(other.sum(axis=-1), n.sum(axis=-1)),
        }
        only_SS = np.eye(len(SUBTASKS), dtype=bool)
        return totals | shares | {name: points(only_SS[i]) for i, name in enumerate(SUBTASKS)}

    def warnings(self, rows: Sequence[Row]) -> list[str]:
        """Say which subtasks the sums lack, and which pictures have other than two questions."""
        present = {row["category"] for row in rows}
        found = []
        for name, subtasks in (("perception", PERCEPTION), ("cognition", COGNITION)):
            missing = [subtask for subtask in subtasks if subtask not in present]
            if missing:
                found.append(
                    f"{name} and total lack {', '.join(missing)}: of {len(subtasks)} subtasks of {name} "
                    f"{len(subtasks) - len(missing)} were asked"
                )
        counts = {_name(key): len(pair) for key, pair in _pairs(rows).items()}
        for problem, keys in (
            (
                "have one question, not two, and count as not right in both",
                [k for k in counts if counts[k] < 2],
            ),
            (
                "have more than two questions, and count as right if all are",
                [k for k in counts if counts[k] > 2],
            ),
        ):
            if keys:
                shown = f"{', '.join(keys[:3])}{' ...' if keys[3:] else ''}"
                found.append(f"{len(keys)} pairs {problem}: {shown}")
        return found

    def export(self, rows: Sequence[Row], folder: Path) -> list[Path]:
        """Write what the authors' `calculation.py` reads: per subtask a file of lines `image question label response`.

        Fields are parted by tabs and pairs are consecutive lines, so tabs and line breaks in responses become spaces.

        Raises:
            ValueError: a picture has other than two questions, by which all lines after it would be paired wrongly, or
                a row lacks its question.
        """
        for row in rows:
            if not isinstance(row.get("question"), str):
                raise UserError(f"row {row['id']} lacks its question, which MME's files hold")
        pairs = _pairs(rows)
        odd = [_name(key) for key, pair in pairs.items() if len(pair) != 2]
        if odd:
            raise UserError(
                f"{len(odd)} pictures have other than two answers, and MME's files pair consecutive lines: "
                f"{', '.join(odd[:3])}{' ...' if odd[3:] else ''}; answer all questions first"
            )
        paths = []
        for subtask in SUBTASKS:
            lines = [
                _line(row) for (category, _), pair in pairs.items() if category == subtask for row in pair
            ]
            if lines:
                paths.append(folder / f"{subtask}.txt")
                paths[-1].write_text("".join(lines), encoding="utf-8")
        return paths

    def _prompt(self, question: str) -> str:
        """The user's text for a question as MME has it."""
        if self.prompt == "lmms_eval":
            return question.strip().replace(f" {CLOSING}", "") + SHORT_ANSWER
        return question.replace(CLOSING, "").strip() + SHORT_ANSWER


def _pairs(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """Rows by subtask and picture, in order of first appearance."""
    pairs: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        pairs.setdefault((row["category"], row["image"]), []).append(row)
    return pairs


def _name(key: tuple[str, str]) -> str:
    subtask, image = key
    return image if image.startswith(f"{subtask}/") else f"{image} ({subtask})"


def _line(row: Row) -> str:
    """A row as a line of the authors' answer file, the question with its closing again."""
    picture = Path(str(row.get("question_id") or row["image"])).name
    question = row["question"].removesuffix(SHORT_ANSWER)
    if CLOSING not in question:
        question = f"{question} {CLOSING}"
    fields = (picture, question, row["label"].strip().capitalize(), row["response"])
    return "\t".join(re.sub(r"[\t\r\n]+", " ", field) for field in fields) + "\n"


def _check_subtask(subtask: str, key: str) -> None:
    if subtask not in SUBTASKS:
        raise UserError(f"question {key} is of category {subtask!r}; MME has {', '.join(SUBTASKS)}")
