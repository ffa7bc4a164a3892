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
from typing import Any

import numpy as np

from blink.bench.base import Mark, Row, Sample, check_prompt, of_scene, percent, side_by_side
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
from blink.bench.sources import (
    Opener,
    hub_table,
    in_memory,
    parquet_files,
    parquet_table,
    picture_names,
    rows_and_pictures,
)
from blink.bench.statistics import Floats
from blink.bench.tables import base64_pictures, cell_number, cell_text, read_tsv, write_xlsx
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
_SHORT_QUESTIONS = (53, 1176)
"""How many questions of the 4,377-row edition have fewer rows than options, and how many it has."""


class MMBench:
    """The English edition.

    Args:
        prompt: "llava" or "lmms_eval": whose words the questions are put in.
        hub_id: data set on the Hugging Face hub.
        revision: its revision; None is the newest.
        max_new_tokens: how long an answer may get.

    Raises:
        ValueError: an unknown prompt.
    """

    name = "mmbench"
    language = "en"
    closings: Mapping[str, str] = {"llava": LETTER, "lmms_eval": LETTER}
    tables: tuple[str, ...] = (
        "mmbench_dev_20230712.tsv",
        "mmbench_dev_en_20231003.tsv",
        "MMBench_DEV_EN.tsv",
    )

    def __init__(
        self,
        *,
        prompt: str = "llava",
        hub_id: str = "lmms-lab/MMBench",
        revision: str | None = None,
        max_new_tokens: int = 1024,
    ) -> None:
        self.prompt = check_prompt(prompt)
        self.hub_id = hub_id
        self.revision = revision
        self.max_new_tokens = max_new_tokens
        self.version = f"{self.name}-1" + ("" if prompt == "llava" else f"+{prompt}")
        self.headline: tuple[str, ...] = ("accuracy", "rows_accuracy")

    def from_scenes(self, split: str, images: int) -> list[Sample]:
        """The rotations of 4 questions about each of `images` generated pictures of the world's `split`."""
        rows = list(mmbench_rows(split, images))
        names = [row["image_source"] for row in rows]
        return self._samples(rows, names, [in_memory(row["image"]) for row in rows])

    def from_hub(self) -> list[Sample]:
        """All rows of the hub data set's dev split, its pictures read when they are needed.

        Raises:
            ValueError: the data set cannot be reached; says how to get it.
        """
        return self._from_table(hub_table(self.hub_id, self.revision, "dev", self.language))

    def from_folder(self, root: Path) -> list[Sample]:
        """The hub's parquet files, or one of the authors' tables, below `root`.

        Raises:
            ValueError: the folder holds neither, or more than one edition, or a damaged one; says which.
        """
        parquet = self._parquet_files(root)
        tables = sorted(path for path in root.rglob("*.tsv") if path.name in self.tables)
        editions = [*map(str, tables), *(["parquet files"] if parquet else [])]
        if len(editions) > 1:
            raise ValueError(
                f"{root} holds {len(editions)} editions of {self.name} ({', '.join(editions)}), which differ in their "
                "questions; leave one of them there"
            )
        if parquet:
            return self._from_table(parquet_table(parquet))
        if tables:
            rows = read_tsv(tables[0])
            _check_columns(rows, tables[0])
            return self._samples(rows, *base64_pictures(rows))
        raise ValueError(
            f"{root} holds no {self.name}: put there either the dev parquet files of {self.hub_id} (the folder "
            f"{self.language}/), or the authors' table, one of {', '.join(self.tables)} (with answers and base64 "
            "pictures)"
        )

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

    def tally(self, rows: Sequence[Row]) -> Floats:
        """Count right rows, and the questions all of whose rows are right, overall and in each part, [K]."""
        counts_P2 = np.zeros((1 + len(_PARTS), 2))
        for question in by_question(rows).values():
            parts = {_part(question[0], "l2-category"), _part(question[0], "category")}
            places = [0, *(1 + _PARTS.index(part) for part in parts if part in _PARTS)]
            counts_P2[places] += (all(row["correct"] for row in question), 1)
        right = sum(row["correct"] for row in rows)
        return np.concatenate([[right, len(rows)], counts_P2.reshape(-1)])

    def metrics(self, tally_K: Floats) -> dict[str, Floats]:
        """CircularEval accuracy, overall and in each part that was asked, and the rows' own accuracy, in percent."""
        counts = tally_K.reshape(*tally_K.shape[:-1], 2 + len(_PARTS), 2)
        right, asked = np.moveaxis(counts, -1, 0)
        share = np.where(asked > 0, percent(right, asked), np.nan)
        names = [f"{ABILITIES.get(part, part)}_accuracy" for part in _PARTS]
        found = {name: share[..., place] for place, name in enumerate(("rows_accuracy", "accuracy", *names))}
        return {"accuracy": found.pop("accuracy")} | found

    def warnings(self, rows: Sequence[Row]) -> list[str]:
        """Say what is lost: responses that name no option, questions without some rows, options and parts."""
        found = []
        lost = sum(row["answer"] in (UNDECIDED, REFUSED) for row in rows)
        if lost:
            found.append(
                f"{lost} of {len(rows)} responses name no option: counted as wrong, no judge was asked"
            )
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
        strange = {_part(row, name) for row in rows for name in ("category", "l2-category")} - {"", *_PARTS}
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

    def _from_table(self, table: Any) -> list[Sample]:
        """Samples of a `datasets` table with the hub's columns."""
        needed = ("index", "question", "answer", "A", "B")
        optional = ("hint", "C", "D", "E", "category", "l2-category", "L2-category", "split")
        rows, openers = rows_and_pictures(table, needed, "image", optional)
        return self._samples(rows, [str(name) for name in picture_names(table, "image")], openers)

    def _samples(
        self, rows: Iterable[Mapping[str, Any]], names: Iterable[str], openers: Iterable[Opener]
    ) -> list[Sample]:
        """Samples of rows with the official columns, the rotations of a question side by side."""
        read = list(zip(rows, names, openers, strict=True))
        indices = [cell_number(row["index"], "index") for row, _, _ in read]
        groups = [index % ROTATION for index in indices]
        clusters = clusters_of(groups, [name for _, name, _ in read])
        samples = []
        for (row, name, open_image), index, cluster in zip(read, indices, clusters, strict=True):
            options = options_of(row)
            check_label(row["answer"], str(index))
            samples.append(
                Sample(
                    id=str(index),
                    image=name,
                    question=self._question(str(row["question"]), cell_text(row.get("hint")), options),
                    label=row["answer"],
                    split=cell_text(row.get("split")) or "dev",
                    open_image=open_image,
                    details={
                        "index": index,
                        "stem": str(row["question"]),
                        **options,
                        "category": _part(row, "category"),
                        "l2-category": _part(row, "l2-category") or _part(row, "L2-category"),
                        **of_scene(row),
                        **({} if cluster == name else {"image": cluster}),
                    },
                )
            )
        first_seen = {group: place for place, group in enumerate(dict.fromkeys(groups))}
        samples.sort(key=lambda sample: first_seen[sample.details["index"] % ROTATION])
        return side_by_side(samples)

    def _question(self, stem: str, hint: str | None, options: Mapping[str, str]) -> str:
        listed, closing = lettered(tuple(options.values())), self.closings[self.prompt]
        if self.prompt == "llava":
            head = f"{hint}\n" if hint else ""
            return f"{head}{stem}\n{listed}\n{closing}"
        head = f"{hint} " if hint else ""
        return f"{head}{stem} {SEVERAL}\n{listed}\n\n{closing}"

    def _parquet_files(self, root: Path) -> list[Path]:
        """The dev files of this language's folder; where no folder is named after one, of all."""
        of_language = root / self.language
        named = [path.name for path in root.iterdir() if path.name in ("en", "cn", "cc")]
        if named and not of_language.is_dir():
            return []
        return parquet_files(of_language if named else root, "dev")


class MMBenchCN(MMBench):
    """The Chinese edition."""

    name = "mmbench_cn"
    language = "cn"
    closings: Mapping[str, str] = {"llava": LETTER_ZH, "lmms_eval": LETTER_ZH_LMMS}
    tables: tuple[str, ...] = ("mmbench_dev_cn_20231003.tsv", "MMBench_DEV_CN.tsv")


def _part(row: Mapping[str, Any], column: str) -> str:
    return cell_text(row.get(column)) or ""


def _check_columns(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    needed = ("index", "question", "image", "answer", "A", "B")
    missing = [name for name in needed if not rows or name not in rows[0]]
    if missing:
        raise ValueError(f"{path} has no rows, or lacks the columns {', '.join(missing)}")
