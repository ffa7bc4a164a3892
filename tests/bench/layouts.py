"""Every benchmark's data, small: as its authors publish it, and as rows of the hub's tables. One picture each.

The content is plain data, so that tests can change any part of it before it is written.
"""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blink.bench import GQA, MME, Benchmark, MMBench, MMBenchCN, MMVet, OwnQuestions, Pope, ScienceQA
from blink.bench.base import SHORT_ANSWER

PICTURE = "PICTURE"
"""Stands for the picture: as a file's content for its bytes, in a cell of a table for them in base64."""


@dataclass(frozen=True)
class Layout:
    """A benchmark and its data.

    Attributes:
        make: the benchmark, which a test can make for itself.
        files: path below the folder -> content: a list of objects for JSON lines, a dict with "json" for JSON, with "table"
            for tab-separated text and with "parquet" for a table, a text, or the picture.
        names: path of a file and of the value in it that names the picture; None where no file does.
    """

    make: Callable[[], Benchmark]
    files: Mapping[str, Any]
    named: tuple[Any, ...] | None = None


def write(root: Path, files: Mapping[str, Any], picture: bytes) -> None:
    """Write a layout's files."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict) and "parquet" in content:
            _write_parquet(path, content["parquet"], picture)
        else:
            path.write_bytes(picture if content == PICTURE else _text(content, picture).encode())


def texts(files: Mapping[str, Any]) -> list[str]:
    """The files that are text."""
    return [name for name, content in files.items() if content != PICTURE and not _is_parquet(content)]


def _is_parquet(content: Any) -> bool:
    return isinstance(content, dict) and "parquet" in content


def _text(content: Any, picture: bytes) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(json.dumps(row) + "\n" for row in content)
    if "json" in content:
        return json.dumps(content["json"])
    rows = [
        {key: base64.b64encode(picture).decode() if value == PICTURE else value for key, value in row.items()}
        for row in content["table"]
    ]
    return "".join("\t".join(map(str, line)) + "\n" for line in (rows[0], *(row.values() for row in rows)))


def _write_parquet(path: Path, rows: list[dict[str, Any]], picture: bytes) -> None:
    import pyarrow
    import pyarrow.parquet

    cell = {"bytes": picture, "path": None}
    columns = {key: [cell if row[key] == PICTURE else row[key] for row in rows] for key in rows[0]}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


_POPE = {"question_id": 1, "image": "a.jpg", "text": f"Is there a cat?{SHORT_ANSWER}", "category": "random"}
_GQA = {
    "imageId": "a",
    "question": "Is it red?",
    "answer": "yes",
    "isBalanced": True,
    "types": {"structural": "verify"},
}
_MMBENCH = {
    "index": "7",
    "question": "Which?",
    "hint": "",
    "A": "one",
    "B": "two",
    "answer": "A",
    "category": "ocr",
}
_SCIENCEQA = {
    "question": "Which?",
    "choices": ["one", "two"],
    "answer": 1,
    "hint": "Look.",
    "subject": "social science",
}
_MMVET = {"imagename": "a.jpg", "question": "What?", "answer": "a cat", "capability": ["rec"]}
_SAID = [{"from": "human", "value": "<image>\nWhich?\nA. one\nB. two"}]
_OWN = {"image": "a.jpg", "question": "What?", "answer": "a cat", "kind": "shape"}
_RELEASE = "MME_Benchmark_release_version/"


def _pope() -> Benchmark:
    return Pope(splits="random")


AUTHORS = {
    "pope": Layout(
        _pope,
        {
            "llava_pope_test.jsonl": [_POPE],
            "coco/coco_pope_random.json": [
                {"question_id": 1, "image": "a.jpg", "text": "Is there a cat?", "label": "yes"}
            ],
            "val2014/a.jpg": PICTURE,
        },
        ("llava_pope_test.jsonl", 0, "image"),
    ),
    "mme": Layout(
        MME,
        {
            f"{_RELEASE}count/a.txt": "Is it one? Please answer yes or no.\tYes\nIs it two? Please answer yes or no.\tNo\n",
            f"{_RELEASE}count/a.jpg": PICTURE,
            "llava_mme.jsonl": [
                {"question_id": "count/a.jpg", "text": f"Is it {n}?{SHORT_ANSWER}", "category": "count"}
                for n in ("one", "two")
            ],
        },
    ),
    "gqa": Layout(
        GQA,
        {
            "testdev_balanced_questions.json": {"json": {"q1": _GQA}},
            "llava_gqa_testdev_balanced.jsonl": [
                {"question_id": "q1", "image": "a.jpg", "text": f"Is it red?{SHORT_ANSWER}"}
            ],
            "images/a.jpg": PICTURE,
        },
        ("testdev_balanced_questions.json", "json", "q1", "imageId"),
    ),
    "mmbench": Layout(MMBench, {"mmbench_dev_20230712.tsv": {"table": [_MMBENCH | {"image": PICTURE}]}}),
    "mmbench_cn": Layout(MMBenchCN, {"MMBench_DEV_CN.tsv": {"table": [_MMBENCH | {"image": PICTURE}]}}),
    "scienceqa": Layout(
        ScienceQA,
        {
            "problems.json": {"json": {"5": _SCIENCEQA | {"image": "a.jpg"}}},
            "llava_test_CQM-A.json": {"json": [{"id": "5", "image": "5/a.jpg", "conversations": _SAID}]},
            "images/test/5/a.jpg": PICTURE,
        },
        ("problems.json", "json", "5", "image"),
    ),
    "scienceqa without LLaVA's file": Layout(
        ScienceQA,
        {
            "problems.json": {"json": {"5": _SCIENCEQA | {"image": "a.jpg"}}},
            "pid_splits.json": {"json": {"test": ["5"]}},
            "images/test/5/a.jpg": PICTURE,
        },
        ("problems.json", "json", "5", "image"),
    ),
    "mmvet": Layout(
        MMVet,
        {"mm-vet.json": {"json": {"v1_0": _MMVET}}, "images/a.jpg": PICTURE},
        ("mm-vet.json", "json", "v1_0", "imagename"),
    ),
    "questions": Layout(
        OwnQuestions, {"questions.jsonl": [_OWN], "a.jpg": PICTURE}, ("questions.jsonl", 0, "image")
    ),
}
"""As the authors publish them."""

_ASKED = {"question_id": "1", "question": "Is it?", "answer": "yes", "image": PICTURE}
_TESTDEV = "testdev_balanced"

HUB = {
    "pope": Layout(
        _pope,
        {"data/test-0.parquet": {"parquet": [_ASKED | {"image_source": "a", "category": "random"}]}},
    ),
    "mme": Layout(
        MME,
        {"data/test-0.parquet": {"parquet": [_ASKED | {"question_id": "count/a.jpg", "category": "count"}]}},
    ),
    "gqa": Layout(
        GQA,
        {
            f"{_TESTDEV}_instructions/testdev-0.parquet": {"parquet": [{"id": "q1"} | _GQA]},
            f"{_TESTDEV}_images/testdev-0.parquet": {"parquet": [{"id": "a", "image": PICTURE}]},
        },
    ),
    "mmbench": Layout(
        MMBench, {"en/dev-0.parquet": {"parquet": [_MMBENCH | {"index": 7, "image": PICTURE}]}}
    ),
    "scienceqa": Layout(
        ScienceQA, {"ScienceQA-IMG/test-0.parquet": {"parquet": [_SCIENCEQA | {"image": PICTURE}]}}
    ),
    "mmvet": Layout(
        MMVet,
        {"data/test-0.parquet": {"parquet": [_ASKED | {"image_source": "web", "capability": "rec,ocr"}]}},
    ),
    "questions": Layout(OwnQuestions, {"train-0.parquet": {"parquet": [_OWN | {"image": PICTURE}]}}),
}
"""As tables of the hub."""

ALL = {f"{name} of the authors": layout for name, layout in AUTHORS.items()} | {
    f"{name} of the hub": layout for name, layout in HUB.items()
}
