"""The user's own questions: reading, exact match, and a figure for each kind."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from blink.bench import OwnQuestions, make_row, score
from blink.runs.files import read_jsonl
from blink.runs.values import UserError


def write(folder: Path, *rows: Any) -> Path:
    Image.new("RGB", (40, 20), "red").save(folder / "a.png")
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


ASKED = {"image": "a.png", "question": "What colour?", "answer": "Red"}


def test_rows_become_samples_as_they_are(tmp_path: Path) -> None:
    """Would catch an instruction of ours put behind a user's text, a box or kind lost, and ids that are no texts."""
    rows = (ASKED, {**ASKED, "id": 7, "box": [0, 0, 10, 10], "kind": "colour"})
    first, second = OwnQuestions().from_folder(write(tmp_path, *rows))
    assert (first.id, first.question, first.label, first.details) == (
        "1",
        "What colour?",
        "Red",
        {"kind": "", "box": None},
    )
    assert (second.id, second.details) == ("7", {"kind": "colour", "box": [0, 0, 10, 10]})
    assert first.load_image().size == (40, 20)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "a.png", "question": "What?"}, "line 1: there is no answer; expected a text"),
        ({**ASKED, "question": " "}, "line 1: question is ' '; expected a text"),
        ({**ASKED, "box": [0, 0, 41, 10]}, "expected one in the picture, which has 40 x 20 pixels"),
        ({**ASKED, "box": "all"}, "box='all': expected"),
        ({**ASKED, "box": [0.2, 0.1, 0.5, 1.0]}, "expected pixels of the original picture, not shares"),
        ({**ASKED, "kind": 3}, "line 1: kind=3; expected a text"),
        ({**ASKED, "id": []}, "line 1: id=[]; expected a text or a whole number"),
        ({**ASKED, "image": "b.png"}, "b.png"),
    ],
)
def test_rows_that_cannot_be_asked_are_named(tmp_path: Path, row: Any, message: str) -> None:
    """Catches a traceback, or a row that is left out in silence."""
    with pytest.raises(UserError) as error:
        OwnQuestions().from_folder(write(tmp_path, row))
    assert message in str(error.value)


def test_each_kind_has_a_figure(tmp_path: Path) -> None:
    """Would catch a response compared with its case or full stop, and questions of a strange kind that count nowhere."""
    benchmark = OwnQuestions()
    rows = [{**ASKED, "id": kind, "kind": kind} for kind in ("colour", "shape", "weather")]
    samples = benchmark.from_folder(write(tmp_path, *rows))
    said = ["red.", "blue", "RED"]
    marked = [make_row(sample, benchmark, text, tokens=1) for sample, text in zip(samples, said, strict=True)]
    found = score(benchmark, marked).metrics
    assert {name: round(estimate.value, 2) for name, estimate in found.items()} == {
        "accuracy": 66.67,
        "colour": 100.0,
        "shape": 0.0,
    }
    [path] = benchmark.export(marked, tmp_path)
    assert read_jsonl(path)[0] == {"id": "colour", "response": "red."}


def test_the_hub_has_no_data_set_of_its_own() -> None:
    """Catches a question to the hub for a data set without a name."""
    with pytest.raises(UserError, match=r"name yours with data\.id="):
        OwnQuestions().from_hub()
    assert len(OwnQuestions().from_scenes("validation", 3, "hard")) > 12
