"""MME's samples from the authors' folders, LLaVA's question file and the hub's parquet files."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from blink.bench import MME, Sample
from blink.bench.base import SHORT_ANSWER
from blink.runs.values import UserError
from tests.bench.files import write_parquet


def hub_rows() -> list[dict[str, Any]]:
    """Rows with the hub's columns; a second picture's pair torn apart, one question with two spaces."""
    asked = [
        ("code_reasoning/0020.png", "Is a python code shown in the picture? Please answer yes or no.", "Yes"),
        ("artwork/images/10.jpg", "Is this art?  Please answer yes or no.", "No"),
        ("code_reasoning/0020.png", "Is a c++ code shown in the picture? Please answer yes or no.", "No"),
        ("artwork/images/10.jpg", "Is this a painting? Please answer yes or no.", "Yes"),
    ]
    return [
        {
            "question_id": question_id,
            "image": Image.new("RGB", (6, 4), (len(question_id), 0, 0)),
            "question": question,
            "answer": answer,
            "category": question_id.split("/")[0],
        }
        for question_id, question, answer in asked
    ]


def check_samples(samples: list[Sample], spaces: str = "") -> None:
    by_question = {sample.question: sample for sample in samples}
    assert set(by_question) == {
        "Is a python code shown in the picture?" + SHORT_ANSWER,
        "Is a c++ code shown in the picture?" + SHORT_ANSWER,
        f"Is this art?{spaces}" + SHORT_ANSWER,
        "Is this a painting?" + SHORT_ANSWER,
    }
    assert {question.split("?")[0].split()[-1]: sample.label for question, sample in by_question.items()} == {
        "picture": "no",
        "art": "no",
        "painting": "yes",
    }
    art = by_question["Is this a painting?" + SHORT_ANSWER]
    assert (art.image, art.split) == ("artwork/images/10.jpg", "perception")
    assert (art.details["category"], art.details["question_id"]) == ("artwork", "artwork/images/10.jpg")
    assert art.load_image().getpixel((0, 0)) == (21, 0, 0)
    assert [len(Counter(sample.image for sample in samples[i : i + 2])) for i in (0, 2)] == [1, 1]
    assert len({sample.id for sample in samples}) == 4


@pytest.mark.usefixtures("arrow_cache")
def test_parquet_of_the_hub(tmp_path: Path) -> None:
    """Catches the closing asked twice, pairs torn apart, and a space too many or too few before the line break."""
    write_parquet(tmp_path / "data", hub_rows(), "test-00000-of-00001.parquet")
    check_samples(MME().from_folder(tmp_path))
    check_samples(MME(prompt="lmms_eval").from_folder(tmp_path), spaces=" ")


def write_release(root: Path) -> None:
    """The authors' layout: code_reasoning flat, artwork with a folder each for pictures and texts."""
    for row in hub_rows():
        picture = root / row["question_id"]
        picture.parent.mkdir(parents=True, exist_ok=True)
        row["image"].save(picture.with_suffix(".png"), "PNG")
        picture.with_suffix(".png").rename(picture)
        texts = picture.parent
        if texts.name == "images":
            texts = texts.parent / "questions_answers_YN"
            texts.mkdir(exist_ok=True)
        with (texts / f"{picture.stem}.txt").open("a") as file:
            file.write(f"{row['question']}\t{row['answer']}\n")


def write_llava(root: Path) -> None:
    """LLaVA's question file, in another order than the release."""
    lines = [
        {
            "question_id": row["question_id"],
            "image": row["question_id"],
            "text": row["question"].replace("Please answer yes or no.", "").strip() + SHORT_ANSWER,
            "category": row["category"],
        }
        for row in hub_rows()
    ]
    (root / "llava_mme.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n")


@pytest.mark.parametrize(
    "nested", ["", "MME_Benchmark_release_version", "MME_Benchmark_release_version/MME_Benchmark"]
)
def test_release_of_the_authors(tmp_path: Path, nested: str) -> None:
    """Catches folders with `images/` and flat ones mixed up, and a release found in one place only."""
    write_release(tmp_path / nested)
    check_samples(MME().from_folder(tmp_path))
    assert MME().from_folder(tmp_path)[0].image == "artwork/images/10.jpg"


def test_llava_questions_with_answers_of_the_release(tmp_path: Path) -> None:
    """Catches the question with two spaces left without an answer, and the order of the release kept."""
    write_release(tmp_path / "MME_Benchmark_release_version")
    write_llava(tmp_path)
    samples = MME().from_folder(tmp_path)
    check_samples(samples)
    assert samples[0].image == "code_reasoning/0020.png"
    check_samples(MME(prompt="lmms_eval").from_folder(tmp_path), spaces=" ")


@pytest.mark.parametrize(
    ("pictures", "texts"),
    [
        ("images", ""),
        ("images", "Questions_Answers_YN"),
        ("Images", "QUESTIONS_ANSWERS_YN"),
        ("images", "images"),
        ("", "questions_answers_YN"),
        ("", ""),
    ],
)
@pytest.mark.parametrize("ending", [".jpg", ".PNG", ".webp"])
def test_release_laid_out_otherwise(tmp_path: Path, pictures: str, texts: str, ending: str) -> None:
    """Catches copies of the release whose texts lie beside images/, or whose folders have other capitals, read as empty."""
    folder = tmp_path / "MME_Benchmark_release_version" / "posters"
    for name in (pictures, texts):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in (1, 2):
        Image.new("RGB", (6, 4), (number, 0, 0)).save(folder / pictures / f"{number}{ending}")
        (folder / texts / f"{number}.TXT").write_text("Is it?\tYes\nIs it not?\tNo\n")
    samples = MME().from_folder(tmp_path)
    assert [sample.image for sample in samples] == [
        "/".join(filter(None, ("posters", pictures, f"{number}{ending}"))) for number in (1, 1, 2, 2)
    ]
    assert [sample.label for sample in samples] == ["yes", "no", "yes", "no"]
    assert samples[0].details["category"] == "posters"


def test_release_with_gaps_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Catches a subtask without questions left out, a picture chosen of two, and one whose ending is not known."""
    folder = tmp_path / "posters"
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (6, 4)).save(folder / "images" / "1.jpg")
    with pytest.raises(UserError, match=r"posters has no text files of questions; expected 0001.txt"):
        MME().from_folder(tmp_path)
    (folder / "1.txt").write_text("Is it?\tYes\n")
    Image.new("RGB", (6, 4)).save(folder / "images" / "1.png")
    with pytest.raises(UserError, match=r"1.txt asks about either of .*1.jpg and .*1.png; leave one"):
        MME().from_folder(tmp_path)
    (folder / "images" / "1.png").rename(folder / "images" / "2.png")
    assert len(MME().from_folder(tmp_path)) == 1
    assert "posters: 1 pictures have no questions" in caplog.text
    (folder / "images" / "1.jpg").rename(folder / "images" / "1.jp2")
    with pytest.raises(
        UserError, match=r"1.txt asks about a picture that is missing; .*1.jp2 is not one, by its ending"
    ):
        MME().from_folder(tmp_path)


def test_a_question_may_hold_any_character(tmp_path: Path) -> None:
    """Catches a question that is cut at a character which is no line end."""
    (tmp_path / "count").mkdir()
    Image.new("RGB", (6, 4)).save(tmp_path / "count" / "1.jpg")
    (tmp_path / "count" / "1.txt").write_text("Is it\x85 \u2028one?\tYes\r\n", encoding="utf-8")
    [sample] = MME().from_folder(tmp_path)
    assert sample.question == "Is it\x85 \u2028one?" + SHORT_ANSWER


def test_release_that_does_not_fit_is_named(tmp_path: Path) -> None:
    """Catches a question without answer, a damaged line and a missing picture passed over."""
    release = tmp_path / "MME_Benchmark_release_version"
    write_release(release)
    write_llava(tmp_path)
    text = release / "code_reasoning" / "0020.txt"
    lines = text.read_text().splitlines()
    text.write_text(lines[0] + "\n")
    with pytest.raises(ValueError, match=r"asks 'Is a c\+\+ code shown.*about code_reasoning/0020.png"):
        MME().from_folder(tmp_path)
    text.write_text("Is it? Yes\n")
    with pytest.raises(ValueError, match=r"0020.txt, line 1 is not a question, a tab and an answer"):
        MME().from_folder(tmp_path)
    (release / "code_reasoning" / "0020.png").unlink()
    with pytest.raises(ValueError, match=r"0020.txt asks about a picture that is missing"):
        MME().from_folder(tmp_path)


def test_missing_sources_say_what_to_put_there(tmp_path: Path) -> None:
    """Catches an empty benchmark from an empty folder, and a stack trace without network."""
    with pytest.raises(
        ValueError, match="holds no MME: put there either the parquet files of lmms-lab-encoder/MME"
    ):
        MME().from_folder(tmp_path)
    with pytest.raises(
        ValueError, match=r"bench.hub_id=nobody/nothing .*cannot be loaded: .*hf download --repo-type dataset"
    ):
        MME(hub_id="nobody/nothing").from_hub()
