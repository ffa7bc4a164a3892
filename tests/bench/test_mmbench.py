"""MMBench's prompts, CircularEval by hand, its samples from every kind of source, and its submission file."""

import base64
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from PIL import Image

from blink.bench import MMBench, MMBenchCN, Row, Sample, make_row, score
from blink.bench.mmbench import ABILITIES, CATEGORIES
from tests.bench.files import png, write_parquet

LETTER = "Answer with the option's letter from the given choices directly."


def marked(benchmark: MMBench, index: Any, response: str, label: str = "A", **columns: Any) -> Row:
    """A row as an evaluation writes it."""
    row = {
        "id": str(index),
        "index": index,
        "image": "a",
        "split": "dev",
        "label": label,
        "response": response,
    }
    row |= {"A": "ring", "B": "star", "C": "cross", "D": "circle"} | columns
    mark = benchmark.mark(row)
    return row | {"answer": mark.answer, "correct": mark.correct}


def rotations(benchmark: MMBench, group: int, responses: Sequence[str], **columns: Any) -> list[Row]:
    """Rows of one question; each has the answer A."""
    return [
        marked(benchmark, group + turn * 1_000_000, response, **columns)
        for turn, response in enumerate(responses)
    ]


def values(benchmark: MMBench, rows: Sequence[Row]) -> dict[str, float]:
    return {name: estimate.value for name, estimate in score(benchmark, rows).metrics.items()}


def test_a_question_counts_once_and_whole() -> None:
    """Would catch rows averaged instead of questions, a question right by one of its rows, and rows derived from the
    options: question 1 has four options and three rows, all right, question 2 all four and one wrong."""
    benchmark = MMBench()
    rows = [
        *rotations(benchmark, 1, "AAA", image="a"),
        *rotations(benchmark, 2, "AABA", image="a"),
        *rotations(benchmark, 3, "A", image="b", C=None, D=None),
    ]
    found = values(benchmark, rows)
    assert found["accuracy"] == pytest.approx(200 / 3)
    assert found["rows_accuracy"] == pytest.approx(100 * 7 / 8)


def test_parts_are_scored_apart() -> None:
    """Would catch a category counted by rows or under another's name, and one that was not asked scored as 0."""
    benchmark = MMBench()
    fine, cross = "finegrained_perception (instance-level)", "finegrained_perception (cross-instance)"
    rows = [
        *rotations(benchmark, 1, "AA", category="ocr", **{"l2-category": fine}),
        *rotations(benchmark, 2, "BA", category="ocr", **{"l2-category": fine}),
        *rotations(benchmark, 3, "AB", category="object_localization", **{"l2-category": fine}),
        *rotations(benchmark, 4, "AAAA", category="spatial_relationship", **{"l2-category": cross}),
    ]
    found = values(benchmark, rows)
    assert found.pop("rows_accuracy") == pytest.approx(80)
    assert found == pytest.approx(
        {
            "accuracy": 50,
            "ocr_accuracy": 50,
            "object_localization_accuracy": 0,
            "spatial_relationship_accuracy": 100,
            "finegrained_perception_instance_accuracy": 100 / 3,
            "finegrained_perception_cross_accuracy": 100,
        }
    )
    assert (len(CATEGORIES), len(ABILITIES)) == (20, 6)


def test_index_may_be_text() -> None:
    """Would catch rotations torn apart, or an error, where a table's indices are text."""
    benchmark = MMBench()
    rows = [
        marked(benchmark, index, response) for index, response in (("7", "A"), ("1000007", "B"), (8, "A"))
    ]
    assert values(benchmark, rows)["accuracy"] == pytest.approx(50)


def test_options_may_be_unknown() -> None:
    """Would catch letters that are only read where the file lists the options."""
    row = {"id": "1", "index": 1, "label": "D", "response": "D."}
    assert MMBench().mark(row) == ("D", True)
    assert MMBench().mark(row | {"response": "the ring"}) == ("", False)


def test_what_is_lost_is_said() -> None:
    """Would catch silence over unread responses, cut questions, answers beyond the options and strange categories."""
    benchmark = MMBench()
    rows = [
        *rotations(benchmark, 1, ["A", "A", "Z", "what"]),
        *rotations(benchmark, 2, "A", category="cooking"),
    ]
    rows.append(marked(benchmark, 3, "A", label="B", B="none"))
    assert benchmark.warnings(rows) == [
        "1 of 3 questions have fewer rows than options, which makes them easier to get right",
        "1 of 6 rows lack the option that is their answer, and cannot be got right",
        "not MMBench's categories, and so not scored apart: cooking",
    ]
    assert benchmark.warnings(rotations(benchmark, 1, "AAAA")) == []


def test_the_questions_that_the_large_edition_cuts_are_no_news() -> None:
    """Would catch a warning on the authors' own 4,377 rows, of which 53 questions have three for four options."""
    benchmark = MMBench()
    rows = [row for group in range(53) for row in rotations(benchmark, group, "AAA")]
    rows += [row for group in range(53, 1176) for row in rotations(benchmark, group, "AA", C=None)]
    assert benchmark.warnings(rows) == []
    assert len(benchmark.warnings(rows[:-2])) == 1


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"index": None}, "the index of row 5 is None; expected a whole number"),
        ({"label": "Z"}, "question 5 has the label 'Z'; expected one of A, B, C, D, E"),
    ],
)
def test_damaged_rows_are_named(columns: dict[str, Any], message: str) -> None:
    """Would catch rows that no question has, or that nobody can answer."""
    row = {"id": "5", "index": 5, "label": "A", "response": "A"} | columns
    with pytest.raises(ValueError, match=message):
        MMBench().mark(row)


def official(hint: Any = math.nan, last: Any = math.nan) -> list[dict[str, Any]]:
    """Rows with the columns of the authors' table: one question in two rotations and one with three, same picture,
    and a third with another."""
    pictures = [Image.new("RGB", (8, 8), (red, 0, 0)) for red in (10, 10, 20)]
    asked = [
        ("Which?", hint, ["ring", "star"]),
        ("What?", hint, ["one", "two", "3"]),
        ("Who?", "Look.", ["I", "you"]),
    ]
    rows = []
    for turn in range(3):
        for number, (question, said, options) in enumerate(asked):
            if turn < len(options):
                turned = options[turn:] + options[:turn]
                row = {"index": 240 + number + 1_000_000 * turn, "question": question, "hint": said}
                row |= dict(zip("ABCD", [*turned, last, last], strict=False))
                row |= {"answer": "ABC"[-turn % len(options)], "category": "ocr", "image": pictures[number]}
                row |= {"source": "made", "l2-category": "logic_reasoning", "comment": last, "split": "dev"}
                rows.append(row)
    return rows


def check(samples: Sequence[Sample]) -> None:
    """All that the sources have in common."""
    assert [sample.id for sample in samples] == [
        "240", "1000240", "241", "1000241", "2000241", "242", "1000242",
    ]  # fmt: skip
    assert [sample.label for sample in samples] == list("ABACBAB")
    assert len({sample.image for sample in samples[:5]}) == 1
    assert samples[5].image == samples[6].image != samples[0].image
    assert [sample.load_image().getpixel((0, 0)) for sample in samples] == [(10, 0, 0)] * 5 + [(20, 0, 0)] * 2
    assert samples[0].question == f"Which?\nA. ring\nB. star\n{LETTER}"
    assert samples[3].question == f"What?\nA. two\nB. 3\nC. one\n{LETTER}"
    assert samples[5].question == f"Look.\nWho?\nA. I\nB. you\n{LETTER}"
    assert samples[3].details == {
        "index": 1_000_241,
        "stem": "What?",
        "A": "two",
        "B": "3",
        "C": "one",
        "category": "ocr",
        "l2-category": "logic_reasoning",
    }
    assert {sample.split for sample in samples} == {"dev"}


@pytest.mark.usefixtures("arrow_cache")
@pytest.mark.parametrize("text", [False, True])
def test_parquet_of_the_hub(tmp_path: Path, text: bool) -> None:
    """Would catch wrong columns, "nan" asked as a hint or option, indices that stay text, and the other language's
    rows or the test split read along."""
    rows = []
    for row in official(hint="nan", last="nan"):
        named = {("L2-category" if key == "l2-category" else key): value for key, value in row.items()}
        rows.append(named | ({"index": str(row["index"])} if text else {}))
    write_parquet(tmp_path / "en", rows, "dev-00000-of-00001.parquet")
    write_parquet(tmp_path / "en", [row | {"answer": "nan"} for row in rows], "test-00000-of-00001.parquet")
    write_parquet(
        tmp_path / "cn", [row | {"question": "哪个？"} for row in rows], "dev-00000-of-00001.parquet"
    )
    check(MMBench().from_folder(tmp_path))
    check(MMBench().from_folder(tmp_path / "en"))
    chinese = MMBenchCN().from_folder(tmp_path)
    assert chinese[0].question == "哪个？\nA. ring\nB. star\n请直接回答选项字母。"
    (tmp_path / "en" / "dev-00000-of-00001.parquet").rename(tmp_path / "dev.parquet")
    for path in (tmp_path / "en").iterdir():
        path.unlink()
    (tmp_path / "en").rmdir()
    with pytest.raises(ValueError, match="holds no MMBench: put there either the dev parquet files"):
        MMBench().from_folder(tmp_path)


def write_table(path: Path, *, refer: bool, hint: str = "nan") -> None:
    """The authors' table; with `refer`, rotations name the row that has the picture."""
    lines = []
    for row in official(hint=hint, last=""):
        picture = base64.b64encode(png(row["image"])).decode()
        own = not refer or row["index"] < 1_000_000
        row["image"] = picture if own else str(row["index"] % 1_000_000)
        lines.append(row)
    text = ["\t".join(lines[0]), *("\t".join(str(cell) for cell in row.values()) for row in lines)]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")


@pytest.mark.parametrize("refer", [False, True])
@pytest.mark.parametrize(
    ("benchmark", "name"),
    [
        (MMBench(), "mmbench_dev_20230712.tsv"),
        (MMBench(), "MMBench_DEV_EN.tsv"),
        (MMBenchCN(), "mmbench_dev_cn_20231003.tsv"),
        (MMBenchCN(), "MMBench_DEV_CN.tsv"),
    ],
)
def test_table_of_the_authors(tmp_path: Path, benchmark: MMBench, name: str, refer: bool) -> None:
    """Would catch rotations without a picture, missing cells asked as text, and the wrong language's closing."""
    write_table(tmp_path / name, refer=refer)
    samples = benchmark.from_folder(tmp_path)
    if benchmark.language == "cn":
        assert all(sample.question.endswith("\n请直接回答选项字母。") for sample in samples)
    else:
        check(samples)
    assert len(samples) == 7


def test_tables_that_do_not_fit_are_named(tmp_path: Path) -> None:
    """Would catch two editions mixed, the other language's table taken, and a table without answers."""
    write_table(tmp_path / "MMBench_DEV_EN.tsv", refer=False)
    with pytest.raises(
        ValueError, match=r"holds no MMBench-CN: .*mmbench_dev_cn_20231003.tsv, MMBench_DEV_CN.tsv"
    ):
        MMBenchCN().from_folder(tmp_path)
    write_table(tmp_path / "mmbench_dev_20230712.tsv", refer=False)
    with pytest.raises(ValueError, match="holds 2 editions of mmbench"):
        MMBench().from_folder(tmp_path)
    (tmp_path / "mmbench_dev_20230712.tsv").unlink()
    (tmp_path / "MMBench_DEV_EN.tsv").write_text("index\tquestion\timage\n1\tq\ti\n")
    with pytest.raises(ValueError, match="lacks the columns answer, A, B"):
        MMBench().from_folder(tmp_path)


def test_hub_out_of_reach_says_how_to_get_it() -> None:
    """Would catch a configuration that is never passed on, or a stack trace without a network."""
    with pytest.raises(ValueError, match=r"bench.hub_id=nobody/nothing .*cannot be loaded: .*hf download"):
        MMBench(hub_id="nobody/nothing").from_hub()


@pytest.mark.parametrize(
    ("benchmark", "closing"),
    [
        (MMBench(prompt="lmms_eval"), LETTER),
        (MMBenchCN(prompt="lmms_eval"), "请直接使用所提供的选项字母作为答案回答。"),
    ],
)
def test_lmms_evals_words(tmp_path: Path, benchmark: MMBench, closing: str) -> None:
    """Would catch lmms-eval's wording reduced to LLaVA's, and results of the two under one version."""
    write_table(tmp_path / benchmark.tables[0], refer=True)
    samples = benchmark.from_folder(tmp_path)
    assert samples[0].question == f"Which? There are several options:\nA. ring\nB. star\n\n{closing}"
    assert samples[5].question == f"Look. Who? There are several options:\nA. I\nB. you\n\n{closing}"
    assert benchmark.version == f"{benchmark.name}-1+lmms_eval"
    with pytest.raises(ValueError, match="prompt='mine': expected one of llava, lmms_eval"):
        MMBench(prompt="mine")


def test_rotations_that_show_other_files_stay_together(tmp_path: Path) -> None:
    """Would catch a question torn apart into two clusters because its picture was stored twice, in two
    files; the picture that is shown stays each row's own."""
    rows = official(hint="", last="")
    rows[3]["image"] = Image.new("RGB", (8, 8), (11, 0, 0))
    for row in rows:
        row["image"] = base64.b64encode(png(row["image"])).decode()
    text = ["\t".join(rows[0]), *("\t".join(str(cell) for cell in row.values()) for row in rows)]
    (tmp_path / "MMBench_DEV_EN.tsv").write_text("\n".join(text) + "\n")
    benchmark = MMBench()
    samples = benchmark.from_folder(tmp_path)
    assert len({sample.image for sample in samples}) == 3
    written = [make_row(sample, benchmark, sample.label, tokens=1) for sample in samples]
    assert len({row["image"] for row in written if row["index"] % 1_000_000 in (240, 241)}) == 1
    result = score(benchmark, written)
    assert (result.images, result.metrics["accuracy"].value, result.warnings) == (2, 100, [])


def test_submission_file(tmp_path: Path) -> None:
    """Would catch another order of columns or rows, the full prompt sent as the question, the read letter sent
    instead of the response, and a response that Excel takes for a formula or refuses."""
    write_table(tmp_path / "MMBench_DEV_EN.tsv", refer=False)
    benchmark = MMBench()
    said = ["B.", "=1+1", "A\x07", "A", "B", "C", "D"]
    samples = benchmark.from_folder(tmp_path)
    rows = [make_row(sample, benchmark, text, tokens=1) for sample, text in zip(samples, said, strict=True)]
    (path,) = benchmark.export(rows, tmp_path)
    sheet = openpyxl.load_workbook(path).active
    lines = list(sheet.iter_rows(values_only=True))
    assert path.name == "mmbench.xlsx"
    assert lines[:3] == [
        ("index", "question", "A", "B", "C", "D", "prediction", "answer", "split"),
        (240, "Which?", "ring", "star", None, None, "B.", "A", "dev"),
        (241, "What?", "one", "two", "3", None, "A", "A", "dev"),
    ]
    assert [line[0] for line in lines[1:]] == [240, 241, 242, 1000240, 1000241, 1000242, 2000241]
    assert lines[4][6] == "=1+1"
    assert sheet["G5"].data_type == "s"
