"""POPE's samples from every kind of source: the hub's parquet files and LLaVA's question file with POPE's labels."""

from pathlib import Path

import pytest

from blink.bench import Pope, Sample
from blink.bench.pope import SPLITS
from tests.bench.files import write_parquet
from tests.bench.pope_files import hub_rows, write_llava


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
