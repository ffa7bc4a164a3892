"""MM-Vet: free answers to questions that need several capabilities at once, graded in [0, 1] by a judge.

Question files, official judge and tables are those of yuweihao/MM-Vet. All figures are percentages: `total` over all
questions, each capability over those that need it, and each set of capabilities over those that need just these.
The version names the judge, since scores by different judges do not compare.

Axes: I = 63 sets of capabilities, as bits, K = 2 I sums in a tally: scores and questions of each set.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from blink.bench.base import Graded, Mark, Row, Sample, make_sample
from blink.bench.judges import UNNAMED, Asked, Grade, Judge, LocalJudge
from blink.bench.judges.official import read_score
from blink.bench.readers.rows import Entry, check_cells, read_objects
from blink.bench.statistics import Floats, Metric
from blink.runs.files import write_json
from blink.runs.inputs.pictures import Rules
from blink.runs.values import UserError
from blink.scenes.formats import STEPS
from blink.scenes.mmvet import mmvet_rows

CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")
"""Recognition, reading text, knowledge, language generation, spatial awareness, arithmetic."""

_SETS = range(1, 2 ** len(CAPABILITIES))
_NEEDS_IC = np.array([[bool(members & 1 << bit) for bit in range(len(CAPABILITIES))] for members in _SETS])


class MMVet(Graded):
    """The benchmark. LLaVA's prompt is the bare question; lmms-eval's asks for reasoning first.

    Args:
        judge: grades the answers; None is the local one.
        common: what every `Benchmark` takes.

    Raises:
        ValueError: an unknown prompt.
    """

    name = "mmvet"
    title = "MM-Vet"
    default = "what the judge makes of it, and 0 where its reply is no score"
    hub_id = "lmms-lab-encoder/MMVet"
    max_new_tokens = 1024
    wordings_differ = True
    editions: ClassVar[Mapping[int, str]] = {218: "v1"}
    headline = ("total", *CAPABILITIES)
    main = "total"
    compared = tabled = ("total",)
    columns = ("question_id", "question", "answer", "image_source", "capability")
    texts = ("question", "answer")
    keys = ("question_id",)
    layouts = (
        "the parquet files of HUB_ID (any depth), or the authors' unpacked mm-vet.zip, which has mm-vet.json and the "
        "pictures in images/"
    )

    def __init__(self, *, judge: Judge | None = None, **common: Any) -> None:
        super().__init__(**common)
        self.judge = LocalJudge() if judge is None else judge
        self.version = f"{self.version}, judge {self.judge.name}"

    def scene_rows(self, split: str, images: int, difficulty: str | None = None) -> Iterable[Row]:
        """Up to seven questions a picture; lmms-eval's `lead` in the words that the tiny backbone knows."""
        return ({**row, "lead": f"{STEPS} "} for row in mmvet_rows(split, images, difficulty=difficulty))

    def authors_entries(self, root: Path, rules: Rules) -> list[Entry] | None:
        """Rows of mm-vet.json; it says which picture a question is about, which its id does not."""
        folder = next((f for f in (root, root / "mm-vet") if (f / "mm-vet.json").is_file()), None)
        if folder is None:
            return None
        path = folder / "mm-vet.json"
        entries = []
        for key, row in read_objects(path).items():
            where = f"{path}, {key}"
            check_cells(row, where, texts=("imagename", "question", "answer"))
            picture = rules.opener((folder / "images", folder), row["imagename"], where)
            entries.append(Entry(row | {"question_id": key}, row["imagename"], picture, where))
        return entries

    def sample(self, entry: Entry) -> Sample:
        """One question, with the capabilities that it needs."""
        row = entry.row
        key = str(row["question_id"])
        key = f"v1_{key}" if key.isdigit() else key
        _members({"id": key, "capability": row.get("capability")})
        capability = row["capability"]
        listed = capability.split(",") if isinstance(capability, str) else capability
        details = {"capability": sorted((name.strip() for name in listed), key=CAPABILITIES.index)}
        lead = row.get("lead", f"{STEPS} \n\n") if self.prompt == "lmms_eval" else ""
        return make_sample(entry, key, lead + row["question"], row["answer"], "test", details)

    def mark(self, row: Mapping[str, Any]) -> Mark:
        """Take the response as it is; right is what has the full score, and nothing is before it is graded.

        Raises:
            ValueError: the score is not in [0, 1], or a capability is unknown; names the row.
        """
        _members(row)
        score = row.get("score")
        if score is None:
            return Mark(row["response"], None)
        if type(score) not in (int, float) or not 0 <= score <= 1:
            raise UserError(f"question {row['id']} has the score {score!r}; expected a number in [0, 1]")
        return Mark(row["response"], score == 1)

    def unread(self, row: Mapping[str, Any]) -> bool:
        """Whether a response is empty, or its judge replied with no score, which the official procedure takes for 0."""
        reply = str(row.get("judge_said") or "")
        return super().unread(row) or (row.get("score") == 0 and bool(reply) and read_score(reply) is None)

    def check_gradable(self, ids: Sequence[str]) -> None:
        """Raise a ValueError if the judge has grades of its own and lacks some of these questions."""
        self.judge.check(ids)

    def grade(self, rows: Sequence[Row], folder: Path) -> list[Row]:
        """Have the judge grade what it has not graded before: adds `score`, `judge`, `judge_model`, `judge_said`.

        Raises:
            ValueError: a row lacks its question or its right answer.
        """
        name = self.judge.name
        todo = [row for row in rows if row.get("score") is None or row.get("judge", UNNAMED) != name]
        grades = self.judge.grade([_asked(row) for row in todo], folder)
        graded = {row["id"]: _graded(row, grade, name) for row, grade in zip(todo, grades, strict=True)}
        return [graded.get(row["id"], row) for row in rows]

    def tally(self, rows: Sequence[Row]) -> Floats:
        """Add up scores and questions of each set of capabilities, [K]."""
        sums_2I = np.zeros((2, len(_SETS)))
        for row in rows:
            sums_2I[:, _members(row) - 1] += (row["score"], 1)
        return sums_2I.reshape(-1)

    def metrics(self, tally_GK: Floats) -> dict[str, Metric]:
        """Mean scores in percent: `total`, the six capabilities, and `only_rec_know_gen` and the like for each set.

        A capability or set without questions is nan.
        """
        scores_GI, questions_GI = np.moveaxis(tally_GK.reshape(len(tally_GK), 2, len(_SETS)), 1, 0)
        means = {"total": Metric.percent(scores_GI.sum(axis=-1), questions_GI.sum(axis=-1))}
        for capability, needs_I in zip(CAPABILITIES, _NEEDS_IC.T, strict=True):
            means[capability] = Metric.percent(scores_GI @ needs_I, questions_GI @ needs_I)
        for members in _SETS:
            alone = Metric.percent(scores_GI[:, members - 1], questions_GI[:, members - 1])
            means["_".join(("only", *_names(members)))] = alone
        return means

    def warnings(self, rows: Sequence[Row]) -> list[str]:
        """The judge's caution."""
        return [] if self.judge.caution is None else [self.judge.caution]

    def export(self, rows: Sequence[Row], folder: Path) -> list[Path]:
        """Write the answers as MM-Vet's evaluator takes them, {id: text}, and the grades as it writes them."""
        answers, grades = folder / "mm-vet_answers.json", folder / "mm-vet_grades.json"
        write_json(answers, {row["id"]: row["response"] for row in rows})
        write_json(
            grades,
            {
                row["id"]: {
                    "model": [row.get("judge_model", row.get("judge", UNNAMED))],
                    "content": [row.get("judge_said") or json.dumps(row["score"])],
                    "score": [row["score"]],
                }
                for row in rows
            },
        )
        return [answers, grades]


def _members(row: Mapping[str, Any]) -> int:
    """A row's capabilities as bits; they come as a list, or in the hub's text with commas."""
    given = row["capability"]
    listed = given.split(",") if isinstance(given, str) else given
    names = [str(name).strip() for name in listed] if isinstance(listed, list | tuple) else []
    if not names or any(name not in CAPABILITIES for name in names):
        raise UserError(
            f"question {row['id']} needs the capabilities {given!r}; MM-Vet's are {', '.join(CAPABILITIES)}"
        )
    return sum(1 << CAPABILITIES.index(name) for name in set(names))


def _names(members: int) -> list[str]:
    return [name for bit, name in enumerate(CAPABILITIES) if members & 1 << bit]


def _asked(row: Row) -> Asked:
    """A row as the judge gets it: the question without lmms-eval's lead."""
    missing = [name for name in ("question", "label") if not isinstance(row.get(name), str)]
    if missing:
        raise UserError(f"question {row['id']} cannot be graded without its {' and '.join(missing)}")
    question: str = row["question"]
    bare = question.removeprefix(STEPS).lstrip() if question.startswith(STEPS) else question
    return Asked(row["id"], bare, row["label"], row["response"])


def _graded(row: Row, grade: Grade, judge: str) -> Row:
    graded = {"score": grade.score, "judge": judge, "judge_model": grade.model, "judge_said": grade.content}
    return row | graded | {"correct": grade.score == 1}
