"""Predictions as VLMEvalKit keeps them: MODEL_DATASET.xlsx, for its `run.py --mode eval`.

Columns are those of its data sets' tables without the picture, and `prediction`. Its scorers take labels from this table, but
for multiple choice, where they look them up by `index` in their own.

Source: VLMEvalKit's `vlmeval/dataset/image_yorn.py`, `image_mcq.py`, `image_vqa.py`, and the scorers that they call.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from blink.bench.base import SHORT_ANSWER, Benchmark, Row
from blink.bench.choices import OPTION_LETTERS
from blink.bench.readers.tables import cell_number, cell_text, text_of, write_xlsx
from blink.runs.files import make_folder
from blink.runs.values import UserError
from blink.scenes.formats import lettered

DATASETS: Mapping[str, str] = {
    "mme": "MME",
    "gqa": "GQA_TestDev_Balanced",
    "mmbench": "MMBench_DEV_EN",
    "mmbench_cn": "MMBench_DEV_CN",
    "pope": "POPE",
    "scienceqa": "ScienceQA_TEST",
    "mmvet": "MMVet",
}
"""Benchmark -> what VLMEvalKit calls it. It has none for questions of the user's own."""

_VALIDATION = {"scienceqa": "ScienceQA_VAL"}
"""The same for rows of the validation split."""

_FORMATS = frozenset({"xlsx", "xls", "csv", "tsv", "json", "jsonl", "txt"})


class Exported(NamedTuple):
    """Files that were written, and what their readers should know."""

    files: list[Path]
    warnings: list[str]


def export(benchmark: Benchmark, rows: Sequence[Row], folder: Path, model: str) -> Exported:
    """Write marked rows into a folder, which is made: in the format of the benchmark's authors, and in VLMEvalKit's.

    Args:
        model: name by which VLMEvalKit is to know what answered; a part of the file's name.

    Raises:
        UserError: a format cannot hold these rows, or `model` cannot be in a file's name; says why.
    """
    check_name(model)
    make_folder(folder)
    files = benchmark.export(rows, folder)
    if benchmark.name not in DATASETS:
        return Exported(files, [])
    dataset, warnings = DATASETS[benchmark.name], []
    if benchmark.name in _VALIDATION and all(str(row.get("split", "")).startswith("val") for row in rows):
        dataset = _VALIDATION[benchmark.name]
    lines = [
        {"index": number, **_LINES[benchmark.name](row), "prediction": row["response"]}
        for number, row in enumerate(rows)
    ]
    if benchmark.name == "scienceqa":
        warnings.append(
            f"{dataset} of VLMEvalKit looks labels up by index: rows are numbered here from 0 in their order; hold index and "
            "question against its table before its score is believed"
        )
    if benchmark.name.startswith("mmbench"):
        lines.sort(key=lambda line: line["index"])
    columns = list(dict.fromkeys(column for line in lines for column in line if column != "prediction"))
    file = write_xlsx(folder / f"{model}_{dataset}.xlsx", (*columns, "prediction"), lines)
    return Exported([*files, file], warnings)


def check_folder(folder: Path) -> None:
    """Raise UserError for a format, or a file, where a folder is to be named."""
    if str(folder) in _FORMATS or folder.suffix[1:] in _FORMATS or folder.is_file():
        raise UserError(
            f"export={folder}: expected a folder, as in export=exported; it gets the formats of the benchmark's authors and of "
            "VLMEvalKit"
        )


def check_name(model: str) -> None:
    """Raise UserError for a name that cannot be a part of a file's."""
    if not model.strip() or any(mark in model for mark in "/\\\0"):
        raise UserError(f"export_name={model!r}: expected a text that can be in the name of a file")


def _yes_or_no(row: Row) -> dict[str, Any]:
    return {"question": _bare(row), "answer": str(row["label"]).capitalize()}


def _pope(row: Row) -> dict[str, Any]:
    return {**_yes_or_no(row), "category": row["split"]}


def _mme(row: Row) -> dict[str, Any]:
    """Pairs are found by `image_path` within a category."""
    return {
        **_yes_or_no(row),
        "category": row["category"],
        "image_path": str(row.get("question_id") or row["image"]),
    }


def _gqa(row: Row) -> dict[str, Any]:
    return {"question": _bare(row), "answer": row["label"], "question_id": str(row["id"])}


def _mmbench(row: Row) -> dict[str, Any]:
    return {
        "index": cell_number(row["index"], "index"),
        "question": row.get("stem", row.get("question")),
        **_options(row),
        "answer": row["label"],
        "category": text_of(row, "category"),
        "l2-category": text_of(row, "l2-category"),
        "split": row.get("split", "dev"),
    }


def _scienceqa(row: Row) -> dict[str, Any]:
    options = _options(row)
    question = str(row.get("question", ""))
    stem, _, _ = question.partition(f"\n{lettered(tuple(options.values()))}" if options else "\nA. ")
    return {
        "question": stem,
        **options,
        "answer": row["label"],
        "category": text_of(row, "category"),
        "question_id": str(row["id"]),
    }


def _mmvet(row: Row) -> dict[str, Any]:
    given = row["capability"]
    return {
        "question": row.get("question", ""),
        "answer": row.get("label", ""),
        "category": given if isinstance(given, str) else ",".join(given),
        "question_id": str(row["id"]),
    }


_LINES: Mapping[str, Callable[[Row], dict[str, Any]]] = {
    "mme": _mme,
    "gqa": _gqa,
    "mmbench": _mmbench,
    "mmbench_cn": _mmbench,
    "pope": _pope,
    "scienceqa": _scienceqa,
    "mmvet": _mmvet,
}
"""Benchmark -> the cells of a row but for its prediction; those without an index are numbered."""


def _bare(row: Row) -> str:
    """The question without LLaVA's closing line."""
    return str(row.get("question", "")).removesuffix(SHORT_ANSWER)


def _options(row: Row) -> dict[str, str]:
    """Letter -> option, of those that a row has."""
    found = {letter: cell_text(row.get(letter)) for letter in OPTION_LETTERS}
    return {letter: text for letter, text in found.items() if text is not None}
