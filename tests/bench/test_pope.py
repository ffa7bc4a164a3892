"""POPE's scorer against published numbers and hand-counted tables, and what it exports."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blink.bench import Pope, Row, score
from blink.bench.pope import SPLITS

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
