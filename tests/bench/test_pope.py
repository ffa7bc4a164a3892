"""POPE's scorer against published numbers and hand-counted tables, and its samples from every kind of source."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blink.bench import Pope, Row, Sample, score
from blink.bench.base import SHORT_ANSWER
from blink.bench.pope import SPLITS
from tests.bench.files import write_parquet

GOLDEN = Path(__file__).parents[2].parent / "shared" / "golden" / "pope_llava-v1.5-13b.jsonl.gz"


def marked(benchmark: Pope, **columns: Any) -> Row:
    """A row as an evaluation writes it."""
    row = {
        "id": "adversarial/1",
        "split": "adversarial",
        "image": "a",
        "label": "yes",
        "response": "Yes",
    } | columns
    mark = benchmark.mark(row)
    return row | {"answer": mark.answer, "correct": mark.correct}


def outcomes(benchmark: Pope, split: str, tp: int, fp: int, tn: int, fn: int, image: str = "a") -> list[Row]:
    """Rows with so many true and false positives and negatives."""
    kinds = [("yes", "Yes", tp), ("no", "Yes", fp), ("no", "No", tn), ("yes", "No", fn)]
    rows = [(label, response) for label, response, count in kinds for _ in range(count)]
    return [
        marked(benchmark, id=f"{split}/{image}{i}", split=split, image=image, label=label, response=response)
        for i, (label, response) in enumerate(rows)
    ]


@pytest.mark.skipif(not GOLDEN.is_file(), reason=f"{GOLDEN} is not there")
def test_published_answers_give_the_published_scores() -> None:
    """Catches any slip in answer reading, label or F1: LLaVA-1.5-13B's own answers must give its own numbers."""
    benchmark = Pope()
    with gzip.open(GOLDEN, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    result = score(
        benchmark, [marked(benchmark, **row, id=f"{row['split']}/{row['question_id']}") for row in rows]
    )
    f1 = {split: round(result.metrics[f"{split}_f1"].value, 2) for split in SPLITS}
    assert f1 == {"random": 87.14, "popular": 86.25, "adversarial": 84.46}
    assert round(result.metrics["f1"].value, 2) == 85.95
    assert (result.n, result.images, result.warnings) == (8910, 500, [])
    assert result.metrics["f1"].low < 85.95 < result.metrics["f1"].high


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("No", "no"),
        ("no", "no"),
        ("No, there is not.", "no"),
        ("No.", "no"),
        ("There is not a dog", "no"),
        ("NO", "yes"),
        ("None", "yes"),
        ("There is nothing", "yes"),
        ("Yes. No doubt", "yes"),
        ("Yes, there is", "yes"),
        ("I cannot tell", "yes"),
        ("no\nYes", "yes"),
        ("", "yes"),
    ],
)
def test_answers_are_read_as_llava_reads_them(response: str, answer: str) -> None:
    """Catches a friendlier parser: only the words No, no and not before the first full stop mean no."""
    assert Pope().mark({"id": "x", "split": "random", "label": "yes", "response": response}).answer == answer


def test_measures_by_hand() -> None:
    """Catches precision swapped with recall, a yes ratio of the labels, and a mean weighted by size.

    Adversarial: 3 tp, 1 fp, 4 tn, 2 fn. Popular: 1 tp, 1 tn. Random: 2 fp, 2 fn.
    """
    benchmark = Pope()
    rows = [
        *outcomes(benchmark, "adversarial", 3, 1, 4, 2, "a"),
        *outcomes(benchmark, "popular", 1, 0, 1, 0, "b"),
        *outcomes(benchmark, "random", 0, 2, 0, 2, "b"),
    ]
    found = {name: estimate.value for name, estimate in score(benchmark, rows).metrics.items()}
    assert found["adversarial_accuracy"] == pytest.approx(70)
    assert found["adversarial_precision"] == pytest.approx(75)
    assert found["adversarial_recall"] == pytest.approx(60)
    assert found["adversarial_f1"] == pytest.approx(200 / 3)
    assert found["adversarial_yes_ratio"] == pytest.approx(40)
    assert found["popular_f1"] == pytest.approx(100)
    assert found["random_f1"] == found["random_precision"] == found["random_recall"] == 0
    assert found["f1"] == pytest.approx((200 / 3 + 100 + 0) / 3)
    assert found["accuracy"] == pytest.approx((70 + 100 + 0) / 3)


def test_split_that_was_not_asked_is_left_out_and_said() -> None:
    """Catches a mean over two splits passed off as POPE, and a split without questions scored as 0."""
    benchmark = Pope()
    rows = outcomes(benchmark, "adversarial", 1, 0, 1, 0) + outcomes(benchmark, "random", 1, 0, 0, 1)
    result = score(benchmark, rows)
    assert result.metrics["accuracy"].value == pytest.approx(75)
    assert not any(name.startswith("popular") for name in result.metrics)
    assert result.warnings == [
        "f1 and accuracy are means over adversarial, random only, not over POPE's three splits"
    ]


def test_tally_adds_up_over_pictures() -> None:
    """Catches a tally that is not a sum: metrics over pictures would then be wrong."""
    benchmark = Pope()
    first = outcomes(benchmark, "random", 1, 2, 3, 4, "a")
    second = outcomes(benchmark, "popular", 5, 6, 7, 8, "b")
    total = benchmark.tally(first + second)
    np.testing.assert_array_equal(total, benchmark.tally(first) + benchmark.tally(second))
    np.testing.assert_array_equal(total.reshape(3, 4), [[0, 0, 0, 0], [5, 6, 7, 8], [1, 2, 3, 4]])


def test_duplicate_ids_are_named() -> None:
    """Catches a predictions file that counts a question twice."""
    benchmark = Pope()
    with pytest.raises(ValueError, match="1 row ids come more than once: adversarial/1"):
        score(benchmark, [marked(benchmark), marked(benchmark)])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"split": "popluar"}, "adversarial/1 is of split 'popluar'"),
        ({"label": "maybe"}, "adversarial/1 has the label 'maybe'"),
    ],
)
def test_unknown_split_or_label_is_named(columns: dict[str, str], message: str) -> None:
    """Catches rows that would silently leave the denominators, or always be wrong."""
    with pytest.raises(ValueError, match=message):
        marked(Pope(), **columns)


def test_unknown_split_in_the_settings_is_refused() -> None:
    """Catches an empty benchmark from a misspelt split."""
    with pytest.raises(ValueError, match="choose one or more of adversarial, popular, random"):
        Pope(splits=["randon"])


def test_export_is_in_the_order_of_the_labels(tmp_path: Path) -> None:
    """Catches answers in the order of pictures: LLaVA's script pairs them with labels line by line within a split."""
    benchmark = Pope()
    ids = ["random/10000010", "adversarial/20", "random/10000009", "adversarial/3"]
    rows = [
        marked(benchmark, id=key, split=key.split("/")[0], response=f"No, {key}\nnot", question="Is it?")
        for key in ids
    ]
    (path,) = benchmark.export(rows, tmp_path)
    assert path.name == "answers.jsonl"
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"question_id": number, "prompt": "Is it?", "text": f"No, {split}/{number}\nnot"}
        for split, number in (
            ("adversarial", 3),
            ("adversarial", 20),
            ("random", 10000009),
            ("random", 10000010),
        )
    ]


def test_export_of_ids_that_splits_share_is_a_file_per_split(tmp_path: Path) -> None:
    """Catches the hub's ids, 1 to 3000 in each split, in one file: the script would take each for the last split's."""
    benchmark = Pope()
    rows = [marked(benchmark, id=f"{split}/{i}", split=split) for i in (2, 1) for split in SPLITS]
    paths = benchmark.export(rows, tmp_path)
    assert [path.name for path in paths] == [f"answers_{split}.jsonl" for split in SPLITS]
    for path in paths:
        assert [json.loads(line)["question_id"] for line in path.read_text().splitlines()] == [1, 2]


def hub_rows(pictures: int = 2) -> list[dict[str, Any]]:
    """Rows with the hub's columns, ordered by split as there."""
    rows: list[dict[str, Any]] = []
    for split in SPLITS:
        for picture in range(pictures):
            for k, answer in enumerate(("yes", "no")):
                rows.append(
                    {
                        "id": str(len(rows)),
                        "question_id": str(picture * 2 + k + 1),
                        "question": f"Is there a thing{k} in the image?",
                        "answer": answer,
                        "image_source": f"COCO_{picture}",
                        "image": Image.new("RGB", (8, 6), (picture * 10, 0, 0)),
                        "category": split,
                    }
                )
    return rows


def check_hub_samples(samples: list[Sample]) -> None:
    assert len(samples) == 12
    assert [sample.image for sample in samples] == ["COCO_0"] * 6 + ["COCO_1"] * 6
    first = samples[0]
    assert (first.id, first.split, first.label) == ("adversarial/1", "adversarial", "yes")
    assert (
        first.question
        == "Is there a thing0 in the image?\nAnswer the question using a single word or phrase."
    )
    assert samples[6].load_image().getpixel((0, 0)) == (10, 0, 0)
    assert {sample.id for sample in samples[:6]} == {f"{split}/{i}" for split in SPLITS for i in (1, 2)}


@pytest.mark.usefixtures("arrow_cache")
def test_parquet_of_the_hub(tmp_path: Path) -> None:
    """Catches wrong columns, pictures read for every question, questions about a picture torn apart."""
    write_parquet(tmp_path / "data", hub_rows(), "test-00000-of-00001.parquet")
    check_hub_samples(Pope().from_folder(tmp_path))


@pytest.mark.usefixtures("arrow_cache")
def test_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches the data set's former name asked first."""
    monkeypatch.chdir(tmp_path)  # a folder is loaded like a data set of the hub, by owner and name
    write_parquet(tmp_path / "lmms-lab-encoder" / "POPE", hub_rows(), "test-00000-of-00001.parquet")
    check_hub_samples(Pope().from_hub())


@pytest.mark.usefixtures("arrow_cache")
def test_parquet_of_a_whole_hub_snapshot_is_not_read_twice(tmp_path: Path) -> None:
    """Catches the pooled and the per-split files of one data set both counted."""
    write_parquet(tmp_path / "data", hub_rows(), "test-00000-of-00001.parquet")
    for split in SPLITS:
        rows = [row for row in hub_rows() if row["category"] == split]
        write_parquet(tmp_path / "Full", rows, f"{split}-00000-of-00001.parquet")
    assert len(Pope().from_folder(tmp_path)) == 12
    (tmp_path / "data" / "test-00000-of-00001.parquet").unlink()
    assert len(Pope().from_folder(tmp_path)) == 12
    assert {sample.split for sample in Pope(splits=["popular"]).from_folder(tmp_path)} == {"popular"}


@pytest.mark.usefixtures("arrow_cache")
def test_parquet_of_something_else_is_named(tmp_path: Path) -> None:
    """Catches a KeyError for a folder with another benchmark's files."""
    rows = [{key: value for key, value in row.items() if key != "category"} for row in hub_rows()]
    write_parquet(tmp_path, rows, "train.parquet")
    with pytest.raises(ValueError, match="lacks category; it has id, question_id"):
        Pope().from_folder(tmp_path)


@pytest.mark.parametrize("part", ["footer", "pages", "all"])
@pytest.mark.usefixtures("arrow_cache")
def test_damaged_parquet_is_named(tmp_path: Path, part: str) -> None:
    """Catches a traceback, or an error that leaves open which file has to be fetched again."""
    write_parquet(tmp_path, hub_rows(), "test-00000-of-00001.parquet")
    path = tmp_path / "test-00000-of-00001.parquet"
    whole = path.read_bytes()
    damaged = {"footer": whole[:-100], "pages": whole[:4] + bytes(400) + whole[404:], "all": b""}
    path.write_bytes(damaged[part])
    with pytest.raises(ValueError, match=r"cannot read .*test-00000-of-00001.parquet \(.+\)"):
        Pope().from_folder(tmp_path)


def write_llava(root: Path, labels: Mapping[str, list[dict[str, Any]]] | None = None) -> None:
    """LLaVA's layout: a question file with the instruction inside, POPE's labels with ids of their own, pictures."""
    questions = []
    (root / "coco").mkdir(parents=True)
    (root / "val2014").mkdir()
    for number, split in enumerate(SPLITS):
        own = []
        for k, (word, label) in enumerate((("imange", "yes"), ("image", "no"))):
            text = f"Is there a cat in the {word}?"
            name = f"COCO_val2014_{k}.png"
            question_id = number * 10_000_000 + k + 1
            questions.append(
                {"question_id": question_id, "image": name, "text": text + SHORT_ANSWER, "category": split}
            )
            own.append(
                {"question_id": k + 1, "image": name, "text": "Is there a cat in the image?", "label": label}
            )
            Image.new("RGB", (4, 4), (k, 0, 0)).save(root / "val2014" / name)
        lines = "\n".join(json.dumps(row) for row in (labels or {}).get(split, own))
        (root / "coco" / f"coco_pope_{split}.json").write_text(lines)
    (root / "llava_pope_test.jsonl").write_text("\n".join(json.dumps(row) for row in questions) + "\n")


def test_llava_question_file_with_popes_labels(tmp_path: Path) -> None:
    """Catches the instruction asked twice and labels joined by id, which differ between the two files."""
    write_llava(tmp_path)
    samples = Pope().from_folder(tmp_path)
    assert len(samples) == 6
    assert {(sample.image, sample.label) for sample in samples} == {
        ("COCO_val2014_0.png", "yes"),
        ("COCO_val2014_1.png", "no"),
    }
    assert all(sample.question.count("single word or phrase") == 1 for sample in samples)
    assert {sample.id for sample in samples if sample.split == "random"} == {
        "random/20000001",
        "random/20000002",
    }
    assert samples[-1].load_image().getpixel((0, 0)) == (1, 0, 0)


def test_labels_of_another_edition_are_refused(tmp_path: Path) -> None:
    """Catches answers scored against another edition's labels, aligned by chance."""
    shifted = [
        {
            "question_id": k,
            "image": f"COCO_val2014_{1 - k}.png",
            "text": "Is there a cat in the image?",
            "label": "no",
        }
        for k in range(2)
    ]
    write_llava(tmp_path, {"popular": shifted})
    with pytest.raises(ValueError, match=r"coco_pope_popular.json: its question 0 is not question 10000001"):
        Pope().from_folder(tmp_path)


def test_labels_of_another_length_are_refused(tmp_path: Path) -> None:
    """Catches zip() cutting the longer file short."""
    write_llava(tmp_path, {"random": []})
    with pytest.raises(ValueError, match=r"has 0 rows and llava_pope_test.jsonl 2"):
        Pope().from_folder(tmp_path)


def test_missing_picture_is_named(tmp_path: Path) -> None:
    """Catches a run that dies after an hour on a picture that was never there."""
    write_llava(tmp_path)
    (tmp_path / "val2014" / "COCO_val2014_1.png").unlink()
    with pytest.raises(ValueError, match=r"COCO_val2014_1.png is missing; looked in"):
        Pope().from_folder(tmp_path)


def test_broken_picture_is_named(tmp_path: Path) -> None:
    """Catches Pillow's bare error, which names neither the picture nor the question."""
    write_llava(tmp_path)
    (tmp_path / "val2014" / "COCO_val2014_0.png").write_bytes(b"not a picture")
    with pytest.raises(
        ValueError, match=r"cannot read the picture COCO_val2014_0.png of question adversarial/1"
    ):
        Pope().from_folder(tmp_path)[0].load_image()


def test_folder_without_pope_says_what_to_put_there(tmp_path: Path) -> None:
    """Catches an empty benchmark from an empty folder."""
    with pytest.raises(
        ValueError, match="holds no POPE: put there either the parquet files of lmms-lab-encoder/POPE"
    ):
        Pope().from_folder(tmp_path)


def test_hub_out_of_reach_says_how_to_get_it() -> None:
    """Catches a stack trace, or a wait, on a machine without network."""
    with pytest.raises(
        ValueError, match=r"bench.hub_id=nobody/nothing .*cannot be loaded: .*hf download --repo-type dataset"
    ):
        Pope(hub_id="nobody/nothing").from_hub()
