"""Questions from a file or from the command, and the regions that boxes belong to."""

import codecs
import json
import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from blink.analysis.cases import as_seen, choose_cases, folder_cases, one_case, spread_out, tell_unseen
from blink.bench import Sample
from blink.model.views import ViewMaker
from blink.runs.inputs.pictures import Reading, Rules
from blink.runs.values import UserError
from tests import models
from tests.analysis.figures.conftest import questions
from tests.runs.inputs.test_pictures import DEEP, sideways


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (40, 20), "red").save(tmp_path / "a.png")
    (tmp_path / "broken.png").touch()
    return tmp_path


def write(folder: Path, *rows: Any) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_box_moves_with_the_padding() -> None:
    """Would catch a box of a wide picture placed as if the picture were not padded: its middle row is no longer 0."""
    processor = models.processor(models.llava(grid=6, layers=1))
    processor.image_processor.do_pad = True
    sample = Sample(
        "s", "i", "Q?", "", "", lambda: Image.new("RGB", (80, 40)), {"box": [0.0, 0.0, 20.0, 10.0]}
    )
    shown = as_seen(sample, ViewMaker(processor, grid=(6, 6)), 2)
    assert shown.picture.size == (80, 80)
    assert shown.box == (0, 20, 20, 30)
    assert shown.right == 0
    wide = as_seen(sample, ViewMaker(processor, grid=(8, 8)), 4)
    assert wide.right == 4  # 25 of 80 pixels down: the second of four rows


def test_box_that_is_cropped_away_has_no_region(caplog: pytest.LogCaptureFixture) -> None:
    """Would catch objects that the backbone never saw counted as looked at wrongly, or left out in silence."""
    processor = models.processor(models.llava(grid=6, layers=1))
    processor.image_processor.do_center_crop = True
    processor.image_processor.size = {"shortest_edge": 24}
    views = ViewMaker(processor, grid=(6, 6))  # of 80 x 40 pixels, 20 to 60 are seen
    boxes = {"gone": [0, 0, 10, 10], "half": [10, 5, 30, 10], "middle": [45, 5, 50, 10]}
    shown = [
        as_seen(Sample(name, "i", "Q?", "", "", lambda: Image.new("RGB", (80, 40)), {"box": box}), views, 2)
        for name, box in boxes.items()
    ]
    assert [case.right for case in shown] == [None, 0, 1]
    tell_unseen(shown[1:])
    assert not caplog.records
    tell_unseen(shown)
    assert caplog.messages == [
        "1 of 3 boxes lie outside what the backbone sees of their pictures, such as that of gone, [0, 0, 10, 10]: no region "
        "counts as right for these"
    ]


def test_folder_of_questions(folder: Path) -> None:
    """Would catch optional keys that are needed, and boxes lost."""
    path = write(
        folder,
        {"image": "a.png", "question": "What?", "box": [1, 2, 3, 4], "id": "x", "answer": "red"},
        {"image": "a.png", "question": "Where?"},
    )
    first, second = folder_cases(path)
    assert (first.id, first.label, first.details) == ("x", "red", {"box": [1, 2, 3, 4]})
    assert (second.id, second.label, second.details) == ("2", "", {"box": None})
    assert first.load_image().size == (40, 20)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "a.png"}, "line 1: there is no question; expected a text"),
        ([1], "line 1 is no JSON object"),
        ({"image": "b.png", "question": "What?"}, "line 1: the picture b.png is missing; looked in"),
        ({"image": "a.png", "question": " "}, "question is ' '; expected a text"),
        (
            {"image": "a.png", "question": "What?", "box": [3, 2, 1, 4]},
            r"line 1: box=\[3, 2, 1, 4\]: expected \[left, .* left below right and top below bottom$",
        ),
        ({"image": "a.png", "question": "What?", "box": "left"}, "box='left': expected"),
        ({"image": "a.png", "question": "What?", "box": [0, 0, 1, True]}, "box=.*: expected"),
        ({"image": "a.png", "question": "What?", "box": [0, 0, 1, math.nan]}, "box=.*: expected"),
        (
            {"image": "a.png", "question": "What?", "box": [0, 0, 41, 9]},
            "expected one in the picture, which has 40 x 20 pixels",
        ),
        ({"image": "a.png", "question": "What?", "box": [-1, 0, 9, 9]}, "expected one in the picture"),
        ({"image": "a.png", "question": "What?", "box": [50, 30, 60, 40]}, "expected one in the picture"),
        ({"image": "broken.png", "question": "What?", "box": [0, 0, 1, 1]}, "broken.png: an empty file"),
        ({"image": "../a.png", "question": "What?"}, r"line 1: '../a.png' leads out of the data folder"),
        ({"image": "a.png", "question": "What?", "id": 1.5}, "id=1.5; expected a text or a whole number"),
        ({"image": "a.jpg", "question": "What?"}, "a.png has another ending"),
    ],
)
def test_bad_rows_are_named(folder: Path, row: Any, message: str) -> None:
    """Would catch a mistake in a file that surfaces as a crash in the middle of a run."""
    with pytest.raises(ValueError, match=message):
        folder_cases(write(folder, row))


def test_lines_are_counted_as_in_the_file(folder: Path) -> None:
    """Would catch messages and ids that are one too low for every empty line before."""
    row = {"image": "a.png", "question": "What?"}
    path = folder / "questions.jsonl"
    path.write_bytes(codecs.BOM_UTF8 + f"\r\n{json.dumps(row)}\r\n\r\n{json.dumps(row)}\r\n".encode())
    assert [sample.id for sample in folder_cases(path)] == ["2", "4"]
    path.write_text(f"{json.dumps(row)}\n\n\n{json.dumps(row | {'question': ' '})}\n")
    with pytest.raises(UserError, match=r"questions.jsonl, line 4: question is ' '; expected a text"):
        folder_cases(path)
    path.write_text(f"{json.dumps(row | {'id': None, 'answer': None})}\n")
    [sample] = folder_cases(path)
    assert (sample.id, sample.label) == ("1", "")


def test_boxes_count_in_the_picture_as_it_is_read(folder: Path) -> None:
    """Would catch a box of a turned picture held against the stored one, and the other way round."""
    (folder / "a.jpg").write_bytes(sideways("JPEG", 6))  # stored 6 x 3
    path = write(folder, {"image": "a.jpg", "question": "What?", "box": [0, 0, 3, 6]})
    turned = Rules(Reading(upright=True))
    [sample] = folder_cases(path, rules=turned)
    assert sample.load_image().size == (3, 6)
    with pytest.raises(UserError, match="which has 6 x 3 pixels"):
        folder_cases(path)
    [sample] = one_case(folder / "a.jpg", "What?", [0, 0, 3, 6], turned)
    assert sample.load_image().size == (3, 6)


def test_own_pictures_are_scaled(folder: Path) -> None:
    """Would catch a picture of 16 bits shown white all over."""
    Image.fromarray(DEEP).save(folder / "deep.png")
    [sample] = folder_cases(write(folder, {"image": "deep.png", "question": "What?"}))
    for case in (sample, *one_case(folder / "deep.png", "What?")):
        assert case.load_image().getextrema() == ((0, 255),) * 3


def test_names_may_lead_out_where_that_is_allowed(folder: Path) -> None:
    """Would catch a key that changes nothing, and a picture refused that the command itself names."""
    (folder / "inner").mkdir()
    path = write(folder / "inner", {"image": "../a.png", "question": "What?"})
    assert folder_cases(path, rules=Rules(outside=True))[0].load_image().size == (40, 20)
    assert one_case(folder / "inner" / ".." / "a.png", "What?")[0].load_image().size == (40, 20)


def test_missing_files_are_named(folder: Path) -> None:
    """Would catch a traceback for a mistyped path."""
    with pytest.raises(ValueError, match=r"questions=nowhere.jsonl is not a file"):
        folder_cases(Path("nowhere.jsonl"))
    with pytest.raises(ValueError, match=r"image=nowhere.png is not a file"):
        one_case(Path("nowhere.png"), "What?")
    (folder / "empty.jsonl").touch()
    with pytest.raises(ValueError, match="holds no questions"):
        folder_cases(folder / "empty.jsonl")


def test_one_case(folder: Path) -> None:
    """Would catch a box of the command that is dropped."""
    [sample] = one_case(folder / "a.png", "What?", [1, 2, 3, 4])
    assert (sample.id, sample.question, sample.details["box"]) == ("a", "What?", [1, 2, 3, 4])


def test_cases_are_of_different_pictures_and_have_boxes() -> None:
    """Would catch a figure of one picture four times, or of questions about absent objects."""
    asked = questions(6)
    assert [sample.id for sample in choose_cases(asked, 2, None)] == ["s0", "s2"]
    assert [sample.id for sample in choose_cases(asked, 9, None)][:3] == ["s0", "s2", "s4"]
    assert [sample.id for sample in choose_cases(asked, 1, ["s3"])] == ["s3"]
    with pytest.raises(ValueError, match=r"figure.ids=\['x'\]: not among the 6 questions"):
        choose_cases(asked, 1, ["s1", "x"])


def test_samples_are_spread_out() -> None:
    """Would catch the first pictures alone, an order that changes, and more samples than there are."""
    asked = questions(6)
    drawn = spread_out(asked, 3, seed=0)
    assert len(drawn) == 3
    assert drawn == sorted(drawn, key=lambda sample: sample.id)
    assert drawn == spread_out(asked, 3, seed=0)
    assert spread_out(asked, 9, seed=0) == asked
