"""MMBench, English and Chinese: multiple choice, each question asked once per rotation of its options.

Prompts are LLaVA's (`llava/eval/model_vqa_mmbench.py`) or lmms-eval's, answer reading is VLMEvalKit's without a judge
(`blink.bench.choices`): a response that names no option is a miss. The score is CircularEval: a question counts as
right if all of its rows are, and rows belong to one question if their indices agree modulo a million. Rotations are
rows of the data set; how many a question has never follows from its options, as 53 questions of the 4,377-row
edition have four options and three rows.

Axes: K = 2 + 2 (1 + P) sums in a tally: right rows and rows, then for all questions and each of P parts of the
benchmark, right questions and questions.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from blink.bench.base import Benchmark, Mark, Row, Sample, check_unique, make_sample
from blink.bench.choices import (
    OPTION_LETTERS,
    REFUSED,
    UNDECIDED,
    by_question,
    check_label,
    clusters_of,
    infer,
    options_of,
)
from blink.bench.readers.rows import Entry
from blink.bench.readers.sources import parquet_files
from blink.bench.readers.tables import base64_pictures, cell_number, cell_text, read_tsv, text_of, write_xlsx
from blink.bench.statistics import Floats, Metric
from blink.runs.inputs.names import files_below
from blink.runs.inputs.pictures import AS_AUTHORS, Rules
from blink.runs.values import UserError
from blink.scenes.formats import LETTER, LETTER_ZH, LETTER_ZH_LMMS, SEVERAL, lettered
from blink.scenes.mmbench import ROTATION, mmbench_rows

CATEGORIES = (
    "image_style", "image_topic", "image_scene", "image_emotion", "image_quality",
    "object_localization", "attribute_recognition", "celebrity_recognition", "ocr",
    "spatial_relationship", "attribute_comparison", "action_recognition",
    "physical_property_reasoning", "function_reasoning", "identity_reasoning",
    "social_relation", "nature_relation", "physical_relation",
    "structuralized_imagetext_understanding", "future_prediction",
)  # fmt: skip
ABILITIES = {
    "coarse_perception": "coarse_perception",
    "finegrained_perception (instance-level)": "finegrained_perception_instance",
    "finegrained_perception (cross-instance)": "finegrained_perception_cross",
    "attribute_reasoning": "attribute_reasoning",
    "relation_reasoning": "relation_reasoning",
    "logic_reasoning": "logic_reasoning",
}
"""MMBench's l2-categories, and what their metrics are called."""

_PARTS = (*ABILITIES, *CATEGORIES)
_FEWEST_OPTIONS = 2
_SHORT_QUESTIONS = (53, 1176)
"""How many questions of the 4,377-row edition have fewer rows than options, and how many it has."""


class MMBench(Benchmark):
    """The English edition.

    Attributes:
        language: folder of the hub's parquet files, and its configuration.
        closings: the last line of the prompt, by wording.
        tables: names of the authors' tables.
    """

    name = "mmbench"
    title = "MMBench"
    default = "no option, which is wrong"
    language: ClassVar[str] = "en"
    closings: ClassVar[Mapping[str, str]] = {"llava": LETTER, "lmms_eval": LETTER}
    tables: ClassVar[tuple[str, ...]] = (
        "mmbench_dev_20230712.tsv",
        "mmbench_dev_en_20231003.tsv",
        "MMBench_DEV_EN.tsv",
    )
    hub_id = "lmms-lab-encoder/MMBench"
    hub_split = "dev"
    hub_config = language
    max_new_tokens = 1024
    wordings_differ = True
    editions: ClassVar[Mapping[int, str]] = {
        4329: "v1.0 dev, as on the hub (1,164 questions)",
        4377: "dev 20230712, LLaVA's (1,176 questions)",
    }
    headline = ("accuracy", "rows_accuracy")
    main = "accuracy"
    compared = tabled = ("accuracy",)
    columns = ("index", "question", "answer", "A", "B")
    optional = ("hint", "C", "D", "E", "category", "l2-category", "L2-category", "split")
    texts = ("question", "answer")
    keys = ("index",)
    layouts = (
        f"the dev parquet files of HUB_ID (the folder {language}/), or the authors' table, one of "
        f"{', '.join(tables)} (with answers and base64 pictures)"
    )

    def from_folder(self, root: Path, rules: Rules = AS_AUTHORS) -> list[Sample]:
        """The hub's parquet files, or one of the authors' tables, below `root`.

        Raises:
            ValueError: the folder holds neither, or more than one edition, or a damaged one; says which.
        """
        parquet = ["parquet files"] if self.find_parquet(root) else []
        editions = [*map(str, self._find_tables(root)), *parquet]
        if len(editions) > 1:
            raise UserError(
                f"{root} holds {len(editions)} editions of {self.name} ({', '.join(editions)}), which differ in their "
                "questions; leave one of them there"
            )
        return super().from_folder(root, rules)

    def scene_rows(self, split: str, images: int, difficulty: str | None = None) -> Iterable[Row]:
        """The rotations of 4 questions a picture."""
        return mmbench_rows(split, images, difficulty=difficulty)

    def find_parquet(self, root: Path) -> list[Path]:
        """The dev files of this language's folder; where no folder is named after a language, of all."""
        of_language = root / self.language
        named = [path.name for path in root.iterdir() if path.name in ("en", "cn", "cc")]
        if named and not of_language.is_dir():
            return []
        return parquet_files(of_language if named else root, "dev")

    def authors_entries(self, root: Path, rules: Rules) -> list[Entry] | None:
        """Rows of the authors' table."""
        tables = self._find_tables(root)
        if not tables:
            return None
        path = tables[0]
        numbered = read_tsv(path)
        rows = [row for _, row in numbered]
        missing = [name for name in (*self.columns, "image") if not rows or name not in rows[0]]
        if missing:
            raise UserError(f"{path} has no rows, or lacks the columns {', '.join(missing)}")
        names, openers = base64_pictures(rows, str(path), rules.reading)
        return [
            Entry(row, name, opener, f"{path}, line {line}")
            for (line, row), name, opener in zip(numbered, names, openers, strict=True)
        ]

    def samples(self, entries: Iterable[Entry]) -> list[Sample]:
        """Samples of a source's rows, the rotations of a question side by side and in one cluster."""
        read = list(entries)
        questions = [
            cell_number(entry.row.get("index"), f"{entry.where}: the index") % ROTATION for entry in read
        ]
        clusters = clusters_of(questions, [str(entry.image) for entry in read])
        tied = [
            entry._replace(row={**entry.row, "cluster": cluster})
            for entry, cluster in zip(read, clusters, strict=True)
        ]
        first_seen = {question: i for i, question in enumerate(dict.fromkeys(questions))}
        order = sorted(range(len(tied)), key=lambda i: first_seen[questions[i]])
        return super().samples(tied[i] for i in order)

    def sample(self, entry: Entry) -> Sample:
        """One rotation of a question."""
        row = entry.row
        index = cell_number(row["index"], "index")
        options = options_of(row)
        if len(options) < _FEWEST_OPTIONS:
            raise UserError(
                f"question {index} has {len(options)} of at least {_FEWEST_OPTIONS} options, A and B"
            )
        check_label(row["answer"], str(index))
        details = {
            "index": index,
            "stem": str(row["question"]),
            **options,
            "category": text_of(row, "category"),
            "l2-category": text_of(row, "l2-category") or text_of(row, "L2-category"),
            **({} if row["cluster"] == str(entry.image) else {"image": row["cluster"]}),
        }
        question = self._question(str(row["question"]), cell_text(row.get("hint")), options)
        split = cell_text(row.get("split")) or "dev"
        return make_sample(entry, str(index), question, row["answer"], split, details)

    def mark(self, row: Mapping[str, Any]) -> Mark:
        """Read a letter from a response; without options in the row, their texts are not looked for.

        Raises:
            ValueError: the index is not a whole number, or the label no letter; names the row.
        """
        cell_number(row.get("index"), f"the index of row {row['id']}")
        options = options_of(row) or dict.fromkeys(OPTION_LETTERS[:4], "")
        check_label(row["label"], row["id"])
        answer = infer(row["response"], options)
        return Mark(answer, answer == row["label"])

    def unread(self, row: Mapping[str, Any]) -> bool:
        """Whether a response names no option: no judge is asked which it means."""
        return row["answer"] in (UNDECIDED, REFUSED)

    def tally(self, rows: Sequence[Row]) -> Floats:
        """Count right rows, and the questions all of whose rows are right, overall and in each part, [K]."""
        counts_P2 = np.zeros((1 + len(_PARTS), 2))
        for question in by_question(rows).values():
            parts = {text_of(question[0], "l2-category"), text_of(question[0], "category")}
            counted = [0, *(1 + _PARTS.index(part) for part in parts if part in _PARTS)]
            counts_P2[counted] += (all(row["correct"] for row in question), 1)
        right = sum(row["correct"] for row in rows)
        return np.concatenate([[right, len(rows)], counts_P2.reshape(-1)])

    def metrics(self, tally_GK: Floats) -> dict[str, Metric]:
        """CircularEval accuracy, overall and in each part that was asked, and the rows' own accuracy, in percent."""
        right, asked = np.moveaxis(tally_GK.reshape(len(tally_GK), 2 + len(_PARTS), 2), -1, 0)
        names = [f"{ABILITIES.get(part, part)}_accuracy" for part in _PARTS]
        found = {
            name: Metric.percent(right[:, i], asked[:, i])
            for i, name in enumerate(("rows_accuracy", "accuracy", *names))
        }
        return {"accuracy": found.pop("accuracy")} | found

    def clusters(self, rows: Sequence[Row], pictures: Sequence[str]) -> list[str]:
        """Rows of one question are one cluster, whatever their pictures are called.

        Raises:
            ValueError: an index comes twice.
        """
        indices = [cell_number(row["index"], "index") for row in rows]
        check_unique(list(map(str, indices)), "indices")
        return clusters_of([index % ROTATION for index in indices], pictures)

    def warnings(self, rows: Sequence[Row]) -> list[str]:
        """Count questions that lack rows, and rows that lack options; name unknown categories."""
        found = []
        questions = by_question(rows)
        short = sum(len(question) < len(options_of(question[0])) for question in questions.values())
        if short and (short, len(questions)) != _SHORT_QUESTIONS:
            found.append(
                f"{short} of {len(questions)} questions have fewer rows than options, which makes them easier to get "
                "right"
            )
        beyond = sum(bool(options_of(row)) and row["label"] not in options_of(row) for row in rows)
        if beyond:
            found.append(
                f"{beyond} of {len(rows)} rows lack the option that is their answer, and cannot be got right"
            )
        strange = {text_of(row, name) for row in rows for name in ("category", "l2-category")} - {"", *_PARTS}
        if strange:
            found.append(f"not MMBench's categories, and so not scored apart: {', '.join(sorted(strange))}")
        return found

    def export(self, rows: Sequence[Row], folder: Path) -> list[Path]:
        """Write MMBench's submission table, as LLaVA's `scripts/convert_mmbench_for_submission.py` does."""
        columns = ("index", "question", *OPTION_LETTERS[:4], "prediction", "answer", "split")
        lines = [
            {
                **row,
                "index": cell_number(row["index"], "index"),
                "question": row.get("stem", row.get("question")),
                "prediction": row["response"],
                "answer": row["label"],
                "split": row.get("split", "dev"),
            }
            for row in rows
        ]
        lines.sort(key=lambda line: line["index"])
        return [write_xlsx(folder / f"{self.name}.xlsx", columns, lines)]

    def _question(self, stem: str, hint: str | None, options: Mapping[str, str]) -> str:
        listed, closing = lettered(tuple(options.values())), self.closings[self.prompt]
        if self.prompt == "llava":
            head = f"{hint}\n" if hint else ""
            return f"{head}{stem}\n{listed}\n{closing}"
        head = f"{hint} " if hint else ""
        return f"{head}{stem} {SEVERAL}\n{listed}\n\n{closing}"

    def _find_tables(self, root: Path) -> list[Path]:
        return files_below(root, lambda name: name in self.tables)


class MMBenchCN(MMBench):
    """The Chinese edition."""

    name = "mmbench_cn"
    title = "MMBench-CN"
    language = "cn"
    hub_config = language
    closings: ClassVar[Mapping[str, str]] = {"llava": LETTER_ZH, "lmms_eval": LETTER_ZH_LMMS}
    tables = ("mmbench_dev_cn_20231003.tsv", "MMBench_DEV_CN.tsv")
    layouts = (
        f"the dev parquet files of HUB_ID (the folder {language}/), or the authors' table, one of "
        f"{', '.join(tables)} (with answers and base64 pictures)"
    )
