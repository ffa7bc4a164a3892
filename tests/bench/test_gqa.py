"""GQA's scorer by hand, its samples from every kind of source, and its prediction file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blink.bench import GQA, Row, Sample, make_row, score
from blink.bench.base import SHORT_ANSWER
from tests.bench.files import write_parquet

INSTRUCTIONS, IMAGES = "testdev_balanced_instructions", "testdev_balanced_images"


def marked(**columns: Any) -> Row:
    """A row as an evaluation writes it."""
    row = {"id": "1", "image": "n1", "label": "yes", "response": "Yes", "question": "Is it?"} | columns
    mark = GQA().mark(row)
    return row | {"answer": mark.answer, "correct": mark.correct}


@pytest.mark.parametrize(
    ("response", "label", "correct"),
    [
        ("Yes", "yes", True),
        ("yes...", "yes", True),
        ("Traffic light.", "traffic light", True),
        ("yes.no", "yes", False),
        ("yes, it is", "yes", False),
        ("a dog", "dog", False),
        ("t-shirt", "t shirt", False),
        ("yes!", "yes", False),
        ("yes. ", "yes", False),
        ("tv", "TV", False),
        ("", "yes", False),
    ],
)
def test_answers_are_compared_as_llava_and_gqa_do(response: str, label: str, correct: bool) -> None:
    """Catches a kinder match: punctuation removed on both sides, articles dropped, labels in lower case."""
    assert marked(response=response, label=label)["correct"] is correct


def test_measures_by_hand() -> None:
    """Catches a mean over types, questions of unknown type lost, and binary taken for verify alone.

    verify 1/2, choose 1/1, query 0/1, unknown 1/1: all 3/5, binary 2/3, open 0/1.
    """
    rows = [
        marked(id="1", structural="verify"),
        marked(id="2", structural="verify", response="no"),
        marked(id="3", structural="choose", image="n2"),
        marked(id="4", structural="query", response="cat", image="n2"),
        marked(id="5", image="n3"),
    ]
    found = {name: estimate.value for name, estimate in score(GQA(), rows).metrics.items()}
    assert found == pytest.approx(
        {"accuracy": 60, "binary": 200 / 3, "open": 0, "verify": 50, "choose": 100, "query": 0}
    )


def test_tally_adds_up_over_pictures() -> None:
    """Catches a tally that is not a sum: metrics over pictures would then be wrong."""
    first, second = [marked(structural="logical")], [marked(structural="compare", response="no"), marked()]
    benchmark = GQA()
    np.testing.assert_array_equal(
        benchmark.tally(first + second), benchmark.tally(first) + benchmark.tally(second)
    )
    assert benchmark.metrics(benchmark.tally(second)[None])["accuracy"].value == 50


def entries() -> dict[str, dict[str, Any]]:
    """GQA's own file: id -> question; one of them is not of the balanced set."""
    asked = [
        ("201", "n1", "Is it overcast?", "no", True, "verify"),
        ("202", "n2", "Who is wearing the dress?", "woman", True, "query"),
        ("203", "n1", "Is it sunny?", "yes", False, "verify"),
        ("204", "n1", "Is the sky blue or gray?", "blue", True, "choose"),
    ]
    return {
        key: {
            "imageId": image,
            "question": question,
            "answer": answer,
            "fullAnswer": f"It is {answer}.",
            "isBalanced": balanced,
            "types": {"structural": structural, "semantic": "attr", "detailed": "x"},
        }
        for key, image, question, answer, balanced, structural in asked
    }


def picture(name: str) -> Image.Image:
    return Image.new("RGB", (6, 4), (10 * int(name[1:]), 0, 0))


def check_samples(samples: list[Sample]) -> None:
    assert [(sample.id, sample.image, sample.label) for sample in samples] == [
        ("201", "n1", "no"),
        ("204", "n1", "blue"),
        ("202", "n2", "woman"),
    ]
    assert samples[0].question == "Is it overcast?\nAnswer the question using a single word or phrase."
    assert [sample.details["structural"] for sample in samples] == ["verify", "choose", "query"]
    assert samples[1].load_image().getpixel((0, 0)) == (10, 0, 0)
    assert samples[2].load_image().getpixel((0, 0)) == (20, 0, 0)


def write_hub(root: Path, images: tuple[str, ...] = ("n2", "n1")) -> None:
    """The hub's two configurations, as a snapshot has them."""
    questions = [{"id": key, **row} for key, row in entries().items()]
    write_parquet(root / INSTRUCTIONS, questions, "testdev-00000-of-00001.parquet")
    pictures = [{"id": name, "image": picture(name)} for name in images]
    write_parquet(root / IMAGES, pictures, "testdev-00000-of-00001.parquet")


@pytest.mark.usefixtures("arrow_cache")
def test_parquet_of_the_hub(tmp_path: Path) -> None:
    """Catches pictures joined by position, unbalanced questions asked, and other configurations read, too."""
    write_hub(tmp_path)
    write_parquet(tmp_path / "train_all_instructions", [{"id": "9"}], "train-00000-of-00001.parquet")
    check_samples(GQA().from_folder(tmp_path))
    check_samples(GQA(prompt="lmms_eval").from_folder(tmp_path))


@pytest.mark.usefixtures("arrow_cache")
@pytest.mark.parametrize("owner", ["lmms-lab-encoder", "lmms-lab"])
def test_data_set_of_the_hub(owner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches one of the two configurations that is not asked for, and a cache under the data set's former name unused."""
    monkeypatch.chdir(tmp_path)  # folders are loaded like data sets of the hub, by owner and name
    write_hub(tmp_path / owner / "GQA")
    configs = [
        f"- config_name: {name}\n  data_files:\n  - split: testdev\n    path: {name}/testdev-*"
        for name in (INSTRUCTIONS, IMAGES)
    ]
    (tmp_path / owner / "GQA" / "README.md").write_text("\n".join(["---", "configs:", *configs, "---", ""]))
    check_samples(GQA().from_hub())


@pytest.mark.usefixtures("arrow_cache")
def test_question_without_picture_is_named(tmp_path: Path) -> None:
    """Catches a KeyError, or questions dropped in silence, where the two tables do not belong together."""
    write_hub(tmp_path, images=("n1",))
    with pytest.raises(ValueError, match="the picture n2 of question 202 is missing"):
        GQA().from_folder(tmp_path)


def write_gqa(root: Path, llava: bool) -> None:
    """GQA's answers and pictures, and LLaVA's question file."""
    (root / "data" / "images").mkdir(parents=True)
    (root / "data" / "testdev_balanced_questions.json").write_text(json.dumps(entries()))
    for name in ("n1", "n2"):
        picture(name).save(root / "data" / "images" / f"{name}.jpg", "PNG")
    if llava:
        asked = [
            {
                "question_id": key,
                "image": f"{row['imageId']}.jpg",
                "text": row["question"] + SHORT_ANSWER,
                "category": "default",
            }
            for key, row in reversed(entries().items())
        ]
        lines = "\n".join(json.dumps(row) for row in asked)
        (root / "llava_gqa_testdev_balanced.jsonl").write_text(lines)


def test_files_of_gqa(tmp_path: Path) -> None:
    """Catches unbalanced questions asked, and pictures looked for by the wrong name."""
    write_gqa(tmp_path, llava=False)
    check_samples(GQA().from_folder(tmp_path))


def test_llava_question_file_with_answers_of_gqa(tmp_path: Path) -> None:
    """Catches the instruction asked twice, and answers joined by position."""
    write_gqa(tmp_path, llava=True)
    samples = GQA().from_folder(tmp_path)
    assert [sample.id for sample in samples] == ["204", "201", "202"]
    check_samples([samples[i] for i in (1, 0, 2)])


def test_files_that_do_not_belong_together_are_named(tmp_path: Path) -> None:
    """Catches answers of another edition, a damaged file, and a missing picture found after an hour."""
    write_gqa(tmp_path, llava=True)
    answers = tmp_path / "data" / "testdev_balanced_questions.json"
    other = entries()
    other["201"]["question"] = "Is it raining?"
    answers.write_text(json.dumps(other))
    with pytest.raises(
        ValueError, match=r"question 201 of llava_gqa.* is 'Is it overcast\?' .*'Is it raining\?'"
    ):
        GQA().from_folder(tmp_path)
    del other["201"]
    answers.write_text(json.dumps(other))
    with pytest.raises(ValueError, match="has no question 201, which llava_gqa"):
        GQA().from_folder(tmp_path)
    answers.write_text("{")
    with pytest.raises(ValueError, match=r"testdev_balanced_questions.json is not JSON"):
        GQA().from_folder(tmp_path)
    answers.write_text(json.dumps(entries()))
    (tmp_path / "data" / "images" / "n2.jpg").unlink()
    with pytest.raises(ValueError, match=r"n2.jpg is missing; looked in"):
        GQA().from_folder(tmp_path)


def test_missing_sources_say_what_to_put_there(tmp_path: Path) -> None:
    """Catches an empty benchmark from an empty folder, and a stack trace without network."""
    with pytest.raises(
        ValueError, match="holds no GQA: put there either the parquet files of lmms-lab-encoder/GQA"
    ):
        GQA().from_folder(tmp_path)
    with pytest.raises(
        ValueError, match=r"bench.hub_id=nobody/nothing .*cannot be loaded: .*hf download --repo-type dataset"
    ):
        GQA(hub_id="nobody/nothing").from_hub()
    with pytest.raises(ValueError, match="prompt='llama': expected one of"):
        GQA(prompt="llama")


def test_scenes_answered_rightly_score_100() -> None:
    """Catches labels that a backbone's "Yes" cannot match, and open or closed questions left out."""
    benchmark = GQA()
    samples = benchmark.from_scenes("validation", 3)
    rows = [make_row(sample, benchmark, sample.label.capitalize() + ".", tokens=1) for sample in samples]
    found = score(benchmark, rows).metrics
    assert {
        name: found[name].value for name in (*GQA.headline, "verify", "query", "choose")
    } == dict.fromkeys((*GQA.headline, "verify", "query", "choose"), 100)
    assert {row["image"] for row in rows} == {f"scenes/validation/{i}" for i in range(3)}


def test_export_is_what_gqa_reads(tmp_path: Path) -> None:
    """Catches raw responses in place of predictions, and other keys than GQA's."""
    (path,) = GQA().export([marked(id="201", response="Yes."), marked(id="7", response="A Dog")], tmp_path)
    assert path.name == "testdev_balanced_predictions.json"
    assert json.loads(path.read_text()) == [
        {"questionId": "201", "prediction": "yes"},
        {"questionId": "7", "prediction": "a dog"},
    ]
