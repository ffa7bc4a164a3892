"""MME's scorer against hand-counted tables, its samples from every kind of source, and its answer files."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blink.bench import MME, Row, Sample, make_row, score
from blink.bench.base import SHORT_ANSWER
from blink.bench.mme import COGNITION, PERCEPTION, SUBTASKS
from blink.bench.statistics import estimates
from blink.runs.values import UserError
from tests.bench.files import write_parquet


def marked(**columns: Any) -> Row:
    """A row as an evaluation writes it."""
    row = {
        "id": "count/1.png/1",
        "category": "count",
        "image": "count/1.png",
        "label": "yes",
        "response": "Yes",
        "question": "Is it?" + SHORT_ANSWER,
    } | columns
    mark = MME().mark(row)
    return row | {"answer": mark.answer, "correct": mark.correct}


def pair(subtask: str, picture: int, yes: str, no: str) -> list[Row]:
    """Two rows about a picture: what was answered where yes, and where no was right."""
    image = f"{subtask}/{picture}.png"
    return [
        marked(id=f"{image}/1", category=subtask, image=image, label="yes", response=yes),
        marked(id=f"{image}/2", category=subtask, image=image, label="no", response=no),
    ]


def values(rows: list[Row]) -> dict[str, float]:
    return {name: estimate.value for name, estimate in score(MME(), rows).metrics.items()}


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("Yes", "yes"),
        ("no", "no"),
        ("NO.", "no"),
        ("Yes, there is", "yes"),
        ("no yes", "no"),
        ("noyes", "no"),
        ("oyes", "yes"),
        ("not yes", "no"),
        ("Know", "no"),
        ("a yes", "other"),
        ("The answer is no", "other"),
        ("y", "other"),
        ("N", "other"),
        ("", "other"),
        ("Unknown", "other"),
    ],
)
def test_answers_are_read_as_the_authors_read_them(response: str, answer: str) -> None:
    """Catches a search through the whole response, "no" sought before "yes", and lmms-eval's y and n."""
    assert marked(response=response)["answer"] == answer


def test_yes_wins_over_no_in_the_first_four_characters() -> None:
    """Catches the order of the two tests: "ye" and "no" cannot both fit, but "noye" plus "s" must not look further."""
    assert marked(response="noye s")["answer"] == "no"
    assert marked(response="yesn")["answer"] == "yes"


def test_points_by_hand() -> None:
    """Catches acc_plus over questions, "other" left out of the denominator, and a mean in place of the sum.

    Count: 5 of 6 right, 2 of 3 pairs: 83.3 + 66.7 = 150. OCR: one right, one "other": 50 + 0. Code: 100 + 100.
    """
    rows = [
        *pair("count", 1, "Yes", "No"),
        *pair("count", 2, "Yes.", "no"),
        *pair("count", 3, "Yes", "Yes"),
        *pair("OCR", 1, "I see", "No"),
        *pair("code_reasoning", 1, "yes", "no"),
    ]
    found = values(rows)
    assert found["count"] == pytest.approx(150)
    assert found["OCR"] == pytest.approx(50)
    assert found["code_reasoning"] == pytest.approx(200)
    assert found["perception"] == pytest.approx(200)
    assert found["cognition"] == pytest.approx(200)
    assert found["total"] == pytest.approx(400)
    assert found["accuracy"] == pytest.approx(80)
    assert found["other"] == pytest.approx(10)
    assert "existence" not in found


def test_all_right_is_2000_and_800() -> None:
    """Catches a subtask in the wrong sum, or in none."""
    rows = [row for subtask in SUBTASKS for row in pair(subtask, 1, "Yes", "No")]
    found = score(MME(), rows)
    assert {name: found.metrics[name].value for name in MME.headline} == pytest.approx(
        {"perception": 2000, "cognition": 800, "total": 2800}
    )
    assert found.warnings == []
    assert (len(PERCEPTION), len(COGNITION)) == (10, 4)


def test_always_yes_has_half_the_answers_and_no_pair() -> None:
    """Catches pairs credited for one right answer: constant answers must get 50 of 200."""
    rows = [row for picture in range(4) for row in pair("color", picture, "Yes", "Yes")]
    assert values(rows)["color"] == pytest.approx(50)


def test_pairs_are_of_subtask_and_picture() -> None:
    """Catches pairs by picture alone: 0001.png is in several subtasks."""
    rows = pair("count", 1, "Yes", "No") + pair("OCR", 1, "No", "No")
    rows = [row | {"image": "0001.png"} for row in rows]
    found = values(rows)
    assert found["count"] == pytest.approx(200)
    assert found["OCR"] == pytest.approx(50)
    assert score(MME(), rows).images == 1


def test_missing_subtasks_and_halves_of_pairs_are_said() -> None:
    """Catches sums over fewer subtasks passed off as MME's, and a lone right answer counted as a pair."""
    rows = [row for subtask in SUBTASKS if subtask != "OCR" for row in pair(subtask, 1, "Yes", "No")]
    rows = rows[:-1]
    found = score(MME(), rows)
    assert found.metrics["perception"].value == pytest.approx(1800)
    assert found.metrics["code_reasoning"].value == pytest.approx(100)
    assert found.warnings == [
        "perception and total lack OCR: of 10 subtasks of perception 9 were asked",
        "1 pairs have one question, not two, and count as not right in both: code_reasoning/1.png",
    ]
    triple = [*rows, marked(id="3", category="count", image="count/1.png")]
    assert "1 pairs have more than two questions" in score(MME(), triple).warnings[-1]


def test_pictures_of_one_subtask_do_not_narrow_another() -> None:
    """Catches pictures counted for subtasks that they are not of: with one picture a subtask has no interval.

    The sums leave out subtasks that nobody asked.
    """
    benchmark = MME()
    asked = [pair("count", picture, "Yes", "No") for picture in (1, 2)] + [pair("OCR", 1, "Yes", "Yes")]
    found = estimates(benchmark.metrics(np.stack([benchmark.tally(each) for each in asked])))
    assert found["perception"].value == pytest.approx(250)
    assert found["count"].value == pytest.approx(200)
    assert found["count"].low < 200
    assert found["OCR"].value == pytest.approx(50)
    assert np.isnan(found["OCR"].low)
    assert np.isnan(found["color"].value)


def test_intervals_hold_the_value_in_points() -> None:
    """Catches intervals in other units than the value."""
    answers = [("Yes", "No"), ("Yes", "Yes"), ("No", "No"), ("Yes", "No")]
    rows = [
        row
        for subtask in ("count", "color")
        for picture, given in enumerate(answers * 3)
        for row in pair(subtask, picture, *given)
    ]
    found = score(MME(), rows).metrics["perception"]
    assert found.value == pytest.approx(2 * (75 + 50))
    assert 100 < found.low < found.value < found.high < 400


def test_unknown_subtask_or_label_is_named() -> None:
    """Catches rows that would silently leave the sums, or always be wrong; labels may be written Yes or yes."""
    assert marked(label="Yes")["correct"]
    with pytest.raises(ValueError, match=r"count/1.png/1 is of category 'colour'"):
        marked(category="colour")
    with pytest.raises(ValueError, match=r"count/1.png/1 has the label 'maybe'"):
        marked(label="maybe")


def test_rows_that_cannot_be_paired_or_exported_are_named(tmp_path: Path) -> None:
    """Catches rows from elsewhere without a picture, each then half a pair, and a KeyError for one without question."""
    with pytest.raises(ValueError, match=r"count/1.png/1 names no image"):
        marked(image=None)
    bare = [
        {key: value for key, value in row.items() if key != "question"}
        for row in pair("count", 1, "Yes", "No")
    ]
    assert values(bare)["count"] == pytest.approx(200)
    with pytest.raises(ValueError, match=r"row count/1.png/1 lacks its question"):
        MME().export(bare, tmp_path)


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


def test_prompt_is_in_the_version() -> None:
    """Catches results of two wordings compared as one, and a misspelt wording taken for the default."""
    assert (MME().version, MME(prompt="lmms_eval").version) == ("mme-1", "mme-1+lmms_eval")
    with pytest.raises(ValueError, match="prompt='llama': expected one of llava, lmms_eval"):
        MME(prompt="llama")


def test_scenes_are_whole_pairs_by_picture() -> None:
    """Catches pictures named per subtask, whose questions would then share no trunk, and pairs lost on the way."""
    samples = MME().from_scenes("validation", 2)
    assert [sample.image for sample in samples] == sorted(sample.image for sample in samples)
    assert {sample.image for sample in samples} == {"scenes/validation/0", "scenes/validation/1"}
    benchmark = MME()
    rows = [make_row(sample, benchmark, sample.label.capitalize(), tokens=1) for sample in samples]
    result = score(benchmark, rows)
    asked = {row["category"] for row in rows}
    assert result.metrics["total"].value == pytest.approx(200 * len(asked))
    assert not any("pairs" in warning for warning in result.warnings)
    assert all("Please" not in row["question"] and row["difficulty"] for row in rows)


def test_export_pairs_consecutive_lines(tmp_path: Path) -> None:
    """Catches pairs torn apart, line breaks in a response that shift every pair after them, and a lost closing."""
    first, second = pair("count", 1, "Yes", "No,\nthere\tis not"), pair("count", 2, "Yes", "No")
    ocr = pair("OCR", 1, "Yes", "No")
    ocr[0] |= {"question_id": "OCR/0001.jpg", "question": "Is it two? " + SHORT_ANSWER}
    paths = MME().export([first[0], *second, *ocr, first[1]], tmp_path)
    assert [path.name for path in paths] == ["count.txt", "OCR.txt"]
    assert paths[0].read_text() == (
        "1.png\tIs it? Please answer yes or no.\tYes\tYes\n"
        "1.png\tIs it? Please answer yes or no.\tNo\tNo, there is not\n"
        "2.png\tIs it? Please answer yes or no.\tYes\tYes\n"
        "2.png\tIs it? Please answer yes or no.\tNo\tNo\n"
    )
    assert paths[1].read_text().startswith("0001.jpg\tIs it two?  Please answer yes or no.\tYes\tYes\n")
    with pytest.raises(ValueError, match=r"1 pictures have other than two answers.*count/1.png"):
        MME().export([first[0], *second], tmp_path)
