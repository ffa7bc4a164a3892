"""Questions from each kind of source, and sources that cannot be read."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from blink.evaluation.planning.questions import read_questions
from blink.runs.inputs.pictures import Reading, Rules
from blink.runs.values import UserError
from blink.scenes.ask import QUESTION_KINDS
from tests.bench.pope_files import write_llava
from tests.runs.inputs.test_pictures import DEEP, sideways

SCENES: dict[str, Any] = {
    "source": "scenes",
    "location": None,
    "scenes_split": "validation",
    "scenes_images": 2,
    "limit": None,
}


def test_scenes_are_asked_picture_by_picture() -> None:
    """Catches a limit that leaves whole splits out: 18 questions about one picture hold all three."""
    questions = read_questions("pope", (), **SCENES | {"limit": 18})
    assert len(questions.samples) == 18
    assert {sample.image for sample in questions.samples} == {"scenes/validation/0"}
    assert sorted({sample.split for sample in questions.samples}) == ["adversarial", "popular", "random"]
    assert questions.data == "scenes validation, 2 pictures"
    assert questions.samples[0].load_image().size == (192, 192)
    assert "difficulty" in questions.samples[0].details


@pytest.mark.parametrize("name", ["pope", "mme", "gqa", "mmbench", "scienceqa", "mmvet"])
def test_scenes_of_one_difficulty(name: str) -> None:
    """Catches a benchmark that draws mixed scenes where hard ones are asked for, or that mistakes one for the other."""
    hard = read_questions(name, (), **SCENES | {"scenes_images": 6, "scenes_difficulty": "hard"})
    mixed = read_questions(name, (), **SCENES | {"scenes_images": 6})
    assert {sample.details["difficulty"] for sample in hard.samples} == {"hard"}
    assert len({sample.details["difficulty"] for sample in mixed.samples}) > 1
    assert all(sample.details["kind"] in QUESTION_KINDS for sample in hard.samples)
    assert not {sample.image for sample in hard.samples} & {sample.image for sample in mixed.samples}
    assert hard.data == "scenes validation, 6 hard pictures"


def test_settings_reach_the_benchmark() -> None:
    """Catches a split filter or an answer length that is read and forgotten."""
    questions = read_questions("pope", (("splits", ("random",)), ("max_new_tokens", 7)), **SCENES)
    assert len(questions.samples) == 12
    assert questions.benchmark.max_new_tokens == 7
    [alone] = {sample.split for sample in read_questions("pope", (("splits", "random"),), **SCENES).samples}
    assert alone == "random"


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("pope", {"limit": 0}, "pope has no questions left: 36 in scenes validation, 2 pictures, limit=0"),
        ("pope", {"limit": -3}, "no questions left"),
        ("pope", {"scenes_images": 0}, "no questions left: 0 in .*, of which keys of bench may leave out"),
        ("pope", {"source": "local", "location": "/missing"}, "data.root=/missing is not a folder"),
        ("pope", {"source": "local"}, "data.root=None is not a folder"),
        ("pope", {"source": "web"}, "unknown data source 'web'; choose scenes, hub or local"),
        ("pope", {"scenes_split": "train"}, "split"),
        ("poper", {}, "unknown benchmark 'poper'; choose one of .*pope"),
    ],
)
def test_questions_that_cannot_be_read(name: str, changes: dict[str, Any], message: str) -> None:
    """Catches an empty or misnamed source that scores nothing."""
    with pytest.raises(ValueError, match=message):
        read_questions(name, (), **SCENES | changes)


def test_broken_picture_is_found_at_once(tmp_path: Path) -> None:
    """Catches a run that dies half-way on a picture that was broken from the start."""
    write_llava(tmp_path)
    local = SCENES | {"source": "local", "location": str(tmp_path)}
    assert len(read_questions("pope", (), **local).samples) == 6
    (tmp_path / "val2014" / "COCO_val2014_1.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(ValueError, match=r"cannot read the picture COCO_val2014_1.png of question"):
        read_questions("pope", (), **local | {"limit": 6})


def test_a_changed_picture_is_noticed(tmp_path: Path) -> None:
    """Would catch a run continued, or returned, on other pictures of the same names; and one that asks anew for none."""
    write_llava(tmp_path)
    digests = []
    for colour in (None, (0, 9, 0), (0, 0, 0)):  # as written, changed, and as written again
        if colour is not None:
            Image.new("RGB", (4, 4), colour).save(tmp_path / "val2014" / "COCO_val2014_0.png")
        read_questions.cache_clear()
        local = SCENES | {"source": "local", "location": str(tmp_path)}
        digests.append(read_questions("pope", (), **local).pictures)
    assert digests[0] == digests[2] != digests[1]
    assert read_questions("pope", (), **SCENES).pictures is None


def test_home_in_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a ~ that is looked for by that name."""
    write_llava(tmp_path / "POPE")
    monkeypatch.setenv("HOME", str(tmp_path))
    questions = read_questions("pope", (), **SCENES | {"source": "local", "location": "~/POPE"})
    assert len(questions.samples) == 6


def test_a_file_of_another_shape_is_named(tmp_path: Path) -> None:
    """Would catch a traceback where an authors' file lacks a column."""
    (tmp_path / "llava_pope_test.jsonl").write_text(
        '{"question_id": 1, "image": "a.jpg"}\n', encoding="utf-8"
    )
    with pytest.raises(ValueError, match=r"llava_pope_test.jsonl, line 1: there is no text; expected a text"):
        read_questions("pope", (), **SCENES | {"source": "local", "location": str(tmp_path)})


def test_rules_are_for_files_in_the_folder(tmp_path: Path) -> None:
    """Would catch data.exif taken for a data set that it does not turn, and results that do not say that it did."""
    upright = Rules(Reading(upright=True))
    for source in ("scenes", "hub"):
        with pytest.raises(
            UserError, match=f"data.exif and data.allow_outside are for files .* come from data={source}"
        ):
            read_questions("pope", (), **SCENES | {"source": source, "rules": upright})
    write_llava(tmp_path)
    (tmp_path / "val2014" / "COCO_val2014_0.png").write_bytes(sideways("PNG", 6))
    local = SCENES | {"source": "local", "location": str(tmp_path)}
    stored = read_questions("pope", (), **local)
    turned = read_questions("pope", (), **local | {"rules": upright})
    assert (stored.data, turned.data) == (str(tmp_path), f"{tmp_path}, turned by EXIF")
    assert stored.pictures != turned.pictures
    assert turned.samples[0].load_image().size == (3, 6)


def test_saturated_pictures_are_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Would catch white pictures scored without a word, or a word for each question about them."""
    write_llava(tmp_path)
    Image.fromarray(DEEP).save(tmp_path / "val2014" / "COCO_val2014_1.png")
    questions = read_questions("pope", (), **SCENES | {"source": "local", "location": str(tmp_path)})
    assert len(questions.samples) == 6
    assert caplog.messages == [
        "pictures of more than 8 bits a channel, saturated, as by the authors' code: 1, such as COCO_val2014_1.png "
        "(I;16 from 1000 to 5000)"
    ]
