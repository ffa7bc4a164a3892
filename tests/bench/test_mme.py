"""MME's scorer against hand-counted tables, its questions about scenes, and its answer files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blink.bench import MME, Row, make_row, score
from blink.bench.base import SHORT_ANSWER
from blink.bench.mme import COGNITION, PERCEPTION, SUBTASKS
from blink.bench.statistics import estimates


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
