"""ScienceQA's scorer against published numbers and by hand, its samples from every source, and its result file."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from blink.bench import Row, Sample, ScienceQA, make_row, score
from blink.runs.values import UserError
from tests.bench.files import write_parquet

GOLDEN = Path(__file__).parents[2].parent / "shared" / "golden" / "scienceqa-img_llava-v1.5-13b.jsonl.gz"
LETTER = "Answer with the option's letter from the given choices directly."


def marked(benchmark: ScienceQA, **columns: Any) -> Row:
    """A row as an evaluation writes it."""
    row = {"id": "5", "split": "test", "image": "a", "label": "B", "response": "B"} | columns
    mark = benchmark.mark(row)
    return row | {"answer": mark.answer, "correct": mark.correct}


@pytest.mark.skipif(not GOLDEN.is_file(), reason=f"{GOLDEN} is not there")
def test_published_answers_give_the_published_score() -> None:
    """Would catch any slip in answer reading or label: LLaVA-1.5-13B's own answers must give its own 71.6."""
    benchmark = ScienceQA()
    with gzip.open(GOLDEN, "rt", encoding="utf-8") as lines:
        read = [json.loads(line) for line in lines]
    rows = [marked(benchmark, **row, id=row["question_id"], image=row["question_id"]) for row in read]
    result = score(benchmark, rows)
    assert (sum(row["correct"] for row in rows), result.n) == (1445, 2017)
    assert round(result.metrics["accuracy"].value, 2) == 71.64
    assert list(result.metrics) == ["accuracy"]
    assert result.warnings == []


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("B", "B"),
        ("B. Vermont", "B"),
        ("B.", ""),
        ("B) Vermont", ""),
        ("b", ""),
        ("AB", ""),
        ("", ""),
        ("Because. The answer is C.", "C"),
        ("The answer is C", ""),
        ("The answer is C, I think", "C"),
        ("The answer is C. The answer is C.", ""),
        ("A. The answer is C.", "A"),
        ("The answer is Z.", "Z"),
        ("I see it. The answer is Because", "B"),
    ],
)
def test_three_ways_to_read_an_answer(response: str, answer: str) -> None:
    """Would catch a friendlier parser than LLaVA's, whose third rule takes any character for the full stop and
    fails on two matches, and whose second comes before the third."""
    assert ScienceQA().mark({"id": "5", "label": "A", "response": response}).answer == answer


def test_letter_beyond_the_choices_is_wrong() -> None:
    """Would catch a letter folded back into the choices, and a label that no choice has."""
    benchmark = ScienceQA()
    row = {"A": "one", "B": "two"}
    assert not marked(benchmark, response="C", **row)["correct"]
    assert marked(benchmark, response="B", **row)["correct"]
    with pytest.raises(ValueError, match="question 5 has the label 'C'; expected one of A, B"):
        marked(benchmark, label="C", **row)
    with pytest.raises(ValueError, match="question 5 has the label 'C'; expected one of A, B"):
        marked(benchmark, label="C", question="Context: x\nWhich?\nA. one\nB. two")
    assert marked(benchmark, label="E", response="E")["correct"]


def test_accuracy_by_hand() -> None:
    """Would catch unread responses left out of the denominator, and subjects or grades under another's name."""
    benchmark = ScienceQA()
    rows = [
        marked(benchmark, id="1", subject="natural science", grade="grade6"),
        marked(benchmark, id="2", subject="natural science", grade="grade7", response="well"),
        marked(benchmark, id="3", subject="language science", grade="grade12", response="A"),
        marked(benchmark, id="4"),
    ]
    result = score(benchmark, rows)
    assert {name: estimate.value for name, estimate in result.metrics.items()} == {
        "accuracy": 50,
        "natural_science_accuracy": 50,
        "language_science_accuracy": 0,
        "grades_1_6_accuracy": 100,
        "grades_7_12_accuracy": 0,
    }
    assert (result.empty, result.unread) == (0, 1)


def problem(question: str, choices: list[str], answer: int, hint: str, image: str | None) -> dict[str, Any]:
    told = {"grade": "grade3", "subject": "social science", "topic": "t", "category": "c", "skill": "s"}
    return told | {
        "question": question,
        "choices": choices,
        "answer": answer,
        "hint": hint,
        "image": image,
        "task": "closed choice",
        "lecture": "",
        "solution": "",
    }


PROBLEMS = {
    "5": problem("Which?", ["one", "none"], 1, "Look.\nThere.", "image.png"),
    "6": problem("Text only?", ["yes", "no"], 0, "", None),
    "7": problem("What?", ["a", "b", "c", "d", "e"], 4, "", "image.png"),
    "9": problem("Where?", ["here", "there"], 0, "", "image.png"),
}


def check(samples: Sequence[Sample], ids: Sequence[str]) -> None:
    """All that the sources have in common: 5 and 9 show one picture, 7 another."""
    assert [sample.id for sample in samples] == [ids[0], ids[2], ids[1]]
    assert [sample.label for sample in samples] == ["B", "A", "E"]
    assert samples[0].image == samples[1].image != samples[2].image
    assert [sample.load_image().getpixel((0, 0)) for sample in samples] == [
        (10, 0, 0),
        (10, 0, 0),
        (20, 0, 0),
    ]
    assert samples[0].question == f"Context: Look.\nThere.\nWhich?\nA. one\nB. none\n{LETTER}"
    assert samples[2].question == f"What?\nA. a\nB. b\nC. c\nD. d\nE. e\n{LETTER}"
    assert samples[0].details == {
        "A": "one", "B": "none", "subject": "social science", "grade": "grade3", "category": "c",
    }  # fmt: skip
    row = make_row(samples[0], ScienceQA(), "B", tokens=1)
    assert row["correct"]


def picture(key: str) -> Image.Image:
    return Image.new("RGB", (8, 8), (20 if key == "7" else 10, 0, 0))


@pytest.mark.usefixtures("arrow_cache")
def test_parquet_of_the_hub(tmp_path: Path) -> None:
    """Would catch a choice called "none" lost, the full data set's text questions asked without a picture or read
    beside those with one, and another split's rows."""
    asked = ["5", "7", "9"]
    rows = [PROBLEMS[key] | {"image": picture(key)} for key in asked]
    write_parquet(tmp_path / "ScienceQA-IMG", rows, "test-00000-of-00001.parquet")
    write_parquet(tmp_path / "ScienceQA-IMG", rows[:1], "validation-00000-of-00001.parquet")
    write_parquet(tmp_path / "ScienceQA-FULL", rows, "test-00000-of-00001.parquet")
    check(ScienceQA(prompt="lmms_eval").from_folder(tmp_path), ["hub/0", "hub/1", "hub/2"])
    [sample] = ScienceQA(split="validation").from_folder(tmp_path)
    assert (sample.id, sample.split) == ("hub/0", "validation")
    with pytest.raises(UserError, match=r"the split train: .* no parquet file whose name begins with that"):
        ScienceQA(split="train").from_folder(tmp_path)


@pytest.mark.usefixtures("arrow_cache")
def test_parquet_with_text_questions(tmp_path: Path) -> None:
    """Would catch questions without a picture asked, or numbered so that others change their ids."""
    rows = [row | {"image": picture(key) if row["image"] else None} for key, row in PROBLEMS.items()]
    write_parquet(tmp_path, rows, "test-00000-of-00001.parquet")
    check(ScienceQA().from_folder(tmp_path), ["hub/0", "hub/2", "hub/3"])


def write_problems(root: Path) -> None:
    (root / "problems.json").write_text(json.dumps(PROBLEMS))
    for key in ("5", "7", "9"):
        folder = root / "images" / "test" / key
        folder.mkdir(parents=True)
        picture(key).save(folder / "image.png")


def llava_entries() -> list[dict[str, Any]]:
    """LLaVA's question file, as its authors release it."""
    entries = []
    for key, row in PROBLEMS.items():
        listed = "\n".join(
            f"{letter}. {choice}" for letter, choice in zip("ABCDE", row["choices"], strict=False)
        )
        context = f"Context: {row['hint']}\n" if row["hint"] else ""
        token = "<image>\n" if row["image"] else ""
        said = [{"from": "human", "value": f"{token}{context}{row['question']}\n{listed}"}]
        entry: dict[str, Any] = {
            "id": key,
            "conversations": [*said, {"from": "gpt", "value": "The answer is A."}],
        }
        entries.append(entry | ({"image": f"{key}/image.png"} if row["image"] else {}))
    return entries


def test_problems_of_the_authors(tmp_path: Path) -> None:
    """Would catch questions of other splits or without a picture asked."""
    write_problems(tmp_path)
    splits = {"train": ["11"], "test": ["5", "6", "7", "9"]}
    (tmp_path / "pid_splits.json").write_text(json.dumps(splits))
    check(ScienceQA().from_folder(tmp_path), ["5", "7", "9"])


def test_llavas_question_file(tmp_path: Path) -> None:
    """Would catch the image token left in the question, and labels read from the made-up reply."""
    write_problems(tmp_path)
    (tmp_path / "llava_test_CQM-A.json").write_text(json.dumps(llava_entries()))
    check(ScienceQA().from_folder(tmp_path), ["5", "7", "9"])


def test_parts_that_are_missing_are_named(tmp_path: Path) -> None:
    """Would catch a KeyError, or questions left out, where a file is missing."""
    with pytest.raises(
        ValueError, match="holds no SQA-IMG: put there either the test parquet files of lmms-lab-encoder/"
    ):
        ScienceQA().from_folder(tmp_path)
    write_problems(tmp_path)
    with pytest.raises(ValueError, match=r"neither pid_splits.json nor llava_test_CQM-A.json"):
        ScienceQA().from_folder(tmp_path)
    (tmp_path / "pid_splits.json").write_text(json.dumps({"test": ["5", "8"]}))
    with pytest.raises(ValueError, match=r"problems.json lacks 1 problems, 8 for one"):
        ScienceQA().from_folder(tmp_path)
    (tmp_path / "images" / "test" / "5" / "image.png").unlink()
    (tmp_path / "pid_splits.json").write_text(json.dumps({"test": ["5"]}))
    with pytest.raises(ValueError, match=r"picture 5/image.png is missing"):
        ScienceQA().from_folder(tmp_path)
    (tmp_path / "problems.json").write_text("{")
    with pytest.raises(ValueError, match=r"problems.json is not JSON"):
        ScienceQA().from_folder(tmp_path)


def test_result_file(tmp_path: Path) -> None:
    """Would catch choices numbered from 1, a letter beyond the choices counted as one, and keys that LLaVA's own
    evaluation does not write."""
    benchmark = ScienceQA()
    rows = [
        marked(benchmark, id="1", A="x", B="y"),
        marked(benchmark, id="2", A="x", B="y", response="C"),
        marked(benchmark, id="3", response="what"),
    ]
    (path,) = benchmark.export(rows, tmp_path)
    assert json.loads(path.read_text()) == {
        "acc": pytest.approx(100 / 3),
        "correct": 1,
        "count": 3,
        "results": {"1": 1, "2": -1, "3": -1},
        "outputs": {"1": "B", "2": "C", "3": "what"},
    }
