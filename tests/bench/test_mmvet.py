"""MM-Vet: capabilities and their sets, judges in the version, sources, and the authors' files."""

import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from blink.bench import MMVet, Row, score
from blink.bench.judges import Asked, Grade, StoredGrades

SETS = {
    "rec,know,gen": (62, 17.8),
    "rec": (37, 73.0),
    "ocr,spat": (26, 18.3),
    "ocr,spat,math": (14, 14.3),
    "rec,spat": (12, 58.3),
    "ocr": (12, 46.7),
    "ocr,math": (11, 0.0),
    "rec,know": (9, 27.8),
    "rec,ocr,gen,spat": (8, 46.2),
    "rec,ocr,know,gen": (8, 12.5),
    "rec,ocr,spat": (7, 14.3),
    "rec,ocr": (4, 50.0),
    "ocr,know,spat": (3, 0.0),
    "rec,know,spat": (2, 0.0),
    "ocr,gen,spat": (2, 10.0),
    "rec,ocr,spat,math": (1, 0.0),
}
"""The 16 sets of capabilities, how many questions need each, and what LLaVA-1.5-7B is published to reach there."""

PUBLISHED = {"total": 31.1, "rec": 36.8, "ocr": 21.1, "know": 17.3, "gen": 19.9, "spat": 24.9, "math": 7.7}
"""What it is published to reach in each capability: LLaVA's llava-v1.5-7b_gpt-4-cap-score-3runs.csv."""


def row(number: int, capability: Any, score: float | None, **columns: Any) -> Row:
    """A row as an evaluation writes it."""
    return {
        "id": f"v1_{number}",
        "image": f"{number}.png",
        "question": "What is it?",
        "label": "a cat",
        "response": "a dog",
        "answer": "a dog",
        "capability": capability,
        "score": score,
    } | columns


def test_published_sets_give_the_published_capabilities() -> None:
    """Would catch a capability averaged over sets instead of questions, or over those that need it alone.

    Sets and capabilities are published rounded to 0.1, so they agree to about that.
    """
    rows = [
        row(len(SETS) * number + place, capability, mean / 100)
        for place, (capability, (count, mean)) in enumerate(SETS.items())
        for number in range(count)
    ]
    assert len(rows) == 218
    result = score(MMVet(), rows)
    found = {name: estimate.value for name, estimate in result.metrics.items()}
    assert {name: found[name] for name in PUBLISHED} == pytest.approx(PUBLISHED, abs=0.11)
    sets = {name: value for name, value in found.items() if name.startswith("only_")}
    assert sets == pytest.approx(
        {f"only_{key.replace(',', '_')}": mean for key, (_, mean) in SETS.items()}, abs=1e-9
    )


def test_scores_by_hand() -> None:
    """Would catch sums for means, sets matched as subsets, and capabilities that depend on their order."""
    rows = [
        row(0, ["rec"], 1.0),
        row(1, "spat, rec", 0.5),
        row(2, ["rec", "spat"], 0.0),
        row(3, ["math"], 0.2),
    ]
    found = {name: estimate.value for name, estimate in score(MMVet(), rows).metrics.items()}
    assert found == pytest.approx(
        {
            "total": 42.5,
            "rec": 50,
            "spat": 25,
            "math": 20,
            "only_rec": 100,
            "only_rec_spat": 25,
            "only_math": 20,
        }
    )


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"capability": ["rec", "smell"]}, "question v1_0 needs the capabilities .*MM-Vet's are rec, ocr"),
        ({"capability": []}, "question v1_0 needs the capabilities"),
        ({"score": 1.2}, "question v1_0 has the score 1.2"),
        ({"score": "0.5"}, "question v1_0 has the score '0.5'"),
        ({"score": float("nan")}, "question v1_0 has the score nan"),
    ],
)
def test_what_cannot_be_is_named(columns: dict[str, Any], message: str) -> None:
    """Would catch rows that leave the means in silence, and grades on another scale."""
    with pytest.raises(ValueError, match=message):
        MMVet().mark(row(0, ["rec"], 0.5) | columns)


def test_ungraded_is_not_wrong() -> None:
    """Would catch an answer counted as wrong before anyone graded it; only a full score is right."""
    marks = [MMVet().mark(row(0, ["rec"], value)).correct for value in (None, 0.0, 0.9, 1.0)]
    assert marks == [None, False, False, True]


class Notes:
    """A judge that gives everyone the same and notes what it was asked."""

    caution = None

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[Asked] = []

    def check(self, ids: Sequence[str]) -> None:
        """It grades anything."""

    def grade(self, answers: Sequence[Asked], folder: Path) -> list[Grade]:
        self.asked += answers
        return [Grade(0.3, "0.3 says I", "model") for _ in answers]


def test_grading_asks_the_bare_question_and_each_row_once(tmp_path: Path) -> None:
    """Would catch a judge who sees the prompt's instruction, and rows graded again or by another's grade."""
    judge = Notes("first")
    benchmark = MMVet(judge=judge, prompt="lmms_eval")
    assert benchmark.version == "mmvet-1+lmms_eval, judge first"
    sample = benchmark.from_scenes("validation", 1)[0]
    rows = [
        row(0, ["rec"], None, question=sample.question),
        row(1, ["rec"], 0.7, judge="second"),
        row(2, ["rec"], 0.8, judge="first"),
    ]
    graded = benchmark.grade(rows, tmp_path)
    bare = MMVet().from_scenes("validation", 1)[0].question
    assert judge.asked == [
        Asked("v1_0", bare, "a cat", "a dog"),
        Asked("v1_1", "What is it?", "a cat", "a dog"),
    ]
    assert [one["score"] for one in graded] == [0.3, 0.3, 0.8]
    assert graded[0] | rows[0] | {"score": 0.3} == graded[0]
    assert (graded[0]["judge"], graded[0]["judge_model"], graded[0]["judge_said"]) == (
        "first",
        "model",
        "0.3 says I",
    )
    assert benchmark.grade(graded, tmp_path) == graded
    assert len(judge.asked) == 2


def test_rows_without_a_question_cannot_be_graded(tmp_path: Path) -> None:
    """Would catch a judge asked about "None"."""
    with pytest.raises(ValueError, match="v1_0 cannot be graded without its question and label"):
        MMVet().grade([row(0, ["rec"], None, question=None, label=None)], tmp_path)


def test_authors_files_can_be_read_back(tmp_path: Path) -> None:
    """Would catch an answers file that the evaluator refuses, and grades that do not survive their own format."""
    rows = [row(0, ["rec"], 0.3, judge_model="gpt", judge_said="0.3"), row(1, ["ocr"], 1.0, response="图")]
    answers, grades = MMVet().export(rows, tmp_path)
    assert json.loads(answers.read_text(encoding="utf-8")) == {"v1_0": "a dog", "v1_1": "图"}
    assert json.loads(grades.read_text(encoding="utf-8"))["v1_0"] == {
        "model": ["gpt"],
        "content": ["0.3"],
        "score": [0.3],
    }
    judge = StoredGrades(grades)
    again = MMVet(judge=judge).grade([one | {"score": None} for one in rows], tmp_path)
    assert [one["score"] for one in again] == [0.3, 1.0]


def write_authors(folder: Path, **changes: Any) -> None:
    """The unpacked mm-vet.zip: two questions about one picture, whose name only the mapping tells."""
    (folder / "images").mkdir(parents=True)
    entries = {
        f"v1_{number}": {
            "imagename": "v1_1.png",
            "question": f"What is {number}?",
            "answer": "-1<AND>-5",
            "imagesource": "somewhere",
            "capability": ["spat", "ocr"],
        }
        | changes
        for number in (1, 2)
    }
    Image.new("RGB", (8, 6), (9, 0, 0)).save(folder / "images" / "v1_1.png")
    (folder / "mm-vet.json").write_text(json.dumps(entries), encoding="utf-8")


@pytest.mark.parametrize("inside", [".", "mm-vet"])
def test_authors_source(tmp_path: Path, inside: str) -> None:
    """Would catch pictures named after ids, which v1_2 has none of, and questions with an instruction."""
    write_authors(tmp_path / inside)
    first, second = MMVet().from_folder(tmp_path)
    assert (first.id, first.question, first.label, first.image) == (
        "v1_1",
        "What is 1?",
        "-1<AND>-5",
        "v1_1.png",
    )
    assert (second.id, second.image) == ("v1_2", "v1_1.png")
    assert first.details == {"capability": ["ocr", "spat"]}
    assert second.load_image().getpixel((0, 0)) == (9, 0, 0)
    asked = MMVet(prompt="lmms_eval").from_folder(tmp_path)[0].question
    assert asked == (
        "First please perform reasoning, and think step by step to provide best answer to the following question: "
        "\n\nWhat is 1?"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"imagename": "v1_2.png"}, "the picture v1_2.png is missing; looked in .*images"),
        ({"capability": ["taste"]}, "mm-vet.json, v1_1: question v1_1 needs the capabilities"),
        ({"capability": None}, "mm-vet.json, v1_1: question v1_1 needs the capabilities None"),
        ({"capability": [1]}, "mm-vet.json, v1_1: question v1_1 needs the capabilities"),
        ({"answer": None}, "mm-vet.json, v1_1: answer is None; expected a text"),
        ({"answer": " "}, "mm-vet.json, v1_1: answer is ' '; expected a text"),
        ({"question": 5}, "mm-vet.json, v1_1: question is 5; expected a text"),
        ({"imagename": None}, "mm-vet.json, v1_1: imagename is None; expected a text"),
    ],
)
def test_authors_source_that_does_not_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """Would catch a gap in the download found by a run half-way."""
    write_authors(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        MMVet().from_folder(tmp_path)


def test_empty_folder_says_what_to_put_there(tmp_path: Path) -> None:
    """Would catch an error without a remedy."""
    with pytest.raises(
        ValueError, match=r"holds no MM-Vet: put there either the parquet files of lmms-lab-encoder/MMVet"
    ):
        MMVet().from_folder(tmp_path)


def test_parquet_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch capabilities read letter by letter, and one picture taken for two: its name is its content."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "arrow"))
    pictures = []
    for shade in (1, 1, 2):
        stream = BytesIO()
        Image.new("RGB", (4, 4), (shade, 0, 0)).save(stream, "PNG")
        pictures.append({"bytes": stream.getvalue(), "path": None})
    table = {
        "question_id": ["v1_0", "v1_1", "v1_2"],
        "question": ["a?", "b?", "c?"],
        "answer": ["x", "y", "z"],
        "image_source": ["web", "web", "web"],
        "capability": ["rec", "ocr,math", "rec, know"],
        "image": pictures,
    }
    folder = tmp_path / "hub"
    folder.mkdir()
    made = datasets.Dataset.from_dict(table).cast_column("image", datasets.Image())
    made.to_parquet(folder / "test-00000-of-00001.parquet")
    samples = MMVet().from_folder(folder)
    assert [sample.details["capability"] for sample in samples] == [["rec"], ["ocr", "math"], ["rec", "know"]]
    assert samples[0].image == samples[1].image != samples[2].image
    assert samples[2].load_image().getpixel((0, 0)) == (2, 0, 0)


def test_scenes_are_graded_by_their_own_sentences(tmp_path: Path) -> None:
    """Would catch keys that a right sentence misses, or one that every sentence has."""
    samples = MMVet().from_scenes("validation", 6)
    assert {sample.split for sample in samples} == {"test"}
    assert {name for sample in samples for name in sample.details["capability"]} == {
        "rec",
        "know",
        "gen",
        "spat",
        "math",
    }
    assert all("single word" not in sample.question for sample in samples)
    wrong = [
        row(i, sample.details["capability"], None, label=sample.label, response="I cannot tell.")
        for i, sample in enumerate(samples)
    ]
    assert {one["score"] for one in MMVet().grade(wrong, tmp_path)} == {0.0}
