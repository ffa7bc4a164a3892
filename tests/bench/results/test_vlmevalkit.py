"""VLMEvalKit's files are read back as its scorers read them, and say what the responses said."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openpyxl import load_workbook

from blink.bench import BENCHMARKS, Benchmark, Row, make_row
from blink.bench.results.scoring import score
from blink.bench.results.vlmevalkit import DATASETS, export
from blink.runs.values import UserError


def marked(benchmark: Benchmark, images: int = 3, **changes: Any) -> list[Row]:
    """Rows about scenes whose responses are right for two questions of three."""
    samples = benchmark.from_scenes("test", images)
    rows = []
    for number, sample in enumerate(samples):
        response = sample.label if number % 3 else "no" if sample.label == "yes" else "B"
        rows.append({**make_row(sample, benchmark, response.capitalize(), tokens=2), "score": 0.5, **changes})
    return rows


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a table by the names of its columns."""
    book = load_workbook(path)
    heading, *lines = book.active.iter_rows(values_only=True)
    return [dict(zip(heading, line, strict=True)) for line in lines]


def written(
    name: str, folder: Path, rows: list[Row] | None = None, **keys: Any
) -> tuple[list[Row], list[dict[str, Any]]]:
    """Rows of a benchmark, and the lines of its file."""
    benchmark = BENCHMARKS[name](**keys)
    rows = marked(benchmark) if rows is None else rows
    exported = export(benchmark, rows, folder, "llava-blink")
    assert exported.files[-1] == folder / f"llava-blink_{DATASETS[name]}.xlsx"
    assert len(exported.files) > 1  # the authors' own
    return rows, read(exported.files[-1])


@pytest.mark.parametrize("name", DATASETS)
def test_every_response_is_a_line_with_an_index_of_its_own(name: str, tmp_path: Path) -> None:
    """Would catch rows that are lost or told twice, and columns that VLMEvalKit's scorers look for in vain."""
    rows, lines = written(name, tmp_path)
    assert sorted(line["prediction"] for line in lines) == sorted(row["response"] for row in rows)
    assert len({line["index"] for line in lines}) == len(lines)
    assert all(isinstance(line["index"], int) for line in lines)
    for line in lines:
        assert [*line][:: len(line) - 1] == ["index", "prediction"]
        assert line["question"]
        assert line["answer"]
        assert "image" not in line
        assert "Answer " not in line["question"]


def test_pope_adds_up_as_its_scorer_adds_up(tmp_path: Path) -> None:
    """Would catch answers in other letters than "Yes" and "No", and splits that are not told apart."""
    rows, lines = written("pope", tmp_path)
    assert {line["answer"] for line in lines} == {"Yes", "No"}
    right = [line["answer"].lower() == line["prediction"].lower() for line in lines]
    ours = score(BENCHMARKS["pope"](), rows).metrics
    for split in ("adversarial", "popular", "random"):
        of_split = [hit for hit, line in zip(right, lines, strict=True) if line["category"] == split]
        assert 100 * np.mean(of_split) == pytest.approx(ours[f"{split}_accuracy"].value)


def test_mme_has_pairs(tmp_path: Path) -> None:
    """Would catch questions about one picture that VLMEvalKit counts as two pictures: its accuracy+ needs both."""
    rows, lines = written("mme", tmp_path)
    pairs: dict[tuple[str, str], list[bool]] = {}
    for line in lines:
        hit = line["answer"].lower() == line["prediction"].lower()
        pairs.setdefault((line["category"], line["image_path"]), []).append(hit)
    assert {len(pair) for pair in pairs.values()} == {2}
    of_existence = [pair for (category, _), pair in pairs.items() if category == "existence"]
    points = 100 * np.mean(np.concatenate(of_existence)) + 100 * np.mean([all(pair) for pair in of_existence])
    assert points == pytest.approx(score(BENCHMARKS["mme"](), rows).metrics["existence"].value)


@pytest.mark.parametrize("name", ["mmbench", "mmbench_cn"])
def test_mmbench_keeps_its_indices_and_options(name: str, tmp_path: Path) -> None:
    """Would catch rotations of a question that are torn apart, and options that are part of the question."""
    rows, lines = written(name, tmp_path)
    by_index = {row["index"]: row for row in rows}
    assert [line["index"] for line in lines] == sorted(by_index)
    for line in lines:
        row = by_index[line["index"]]
        assert line["question"] == row["stem"]
        assert {letter: line[letter] for letter in "AB"} == {letter: row[letter] for letter in "AB"}
        assert (line["answer"], line["split"], line["l2-category"]) == (
            row["label"],
            "dev",
            row["l2-category"],
        )


def test_scienceqa_warns_of_its_indices_and_names_its_split(tmp_path: Path) -> None:
    """Would catch the validation split scored as the test split, and options that stay in the question."""
    rows, lines = written("scienceqa", tmp_path)
    assert "\n" not in lines[0]["question"]
    assert lines[0]["A"] == rows[0]["A"]
    benchmark = BENCHMARKS["scienceqa"]()
    exported = export(benchmark, [{**row, "split": "validation"} for row in rows], tmp_path, "m")
    assert exported.files[-1].name == "m_ScienceQA_VAL.xlsx"
    assert "looks labels up by index" in exported.warnings[0]


def test_mmvet_and_gqa(tmp_path: Path) -> None:
    """Would catch capabilities as Python writes a list, and an answer in other letters than the data set's."""
    rows, lines = written("mmvet", tmp_path)
    assert [line["category"] for line in lines] == [",".join(row["capability"]) for row in rows]
    rows, lines = written("gqa", tmp_path)
    assert [line["answer"] for line in lines] == [row["label"] for row in rows]


def test_questions_of_the_users_own_have_no_data_set(tmp_path: Path) -> None:
    """Would catch a file under a name that VLMEvalKit does not know."""
    benchmark = BENCHMARKS["questions"]()
    exported = export(benchmark, marked(benchmark), tmp_path, "m")
    assert [path.name for path in exported.files] == ["answers.jsonl"]


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("=1+1", "=1+1"),
        ('=HYPERLINK("http://x","y")', '=HYPERLINK("http://x","y")'),
        ("+1", "+1"),
        ("@SUM(A1)", "@SUM(A1)"),
        ("#REF!", "#REF!"),
        ("12", "12"),
        ("2024-01-01", "2024-01-01"),
        ("yes\x00\x07 it\x1f is", "yes it is"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("色は? 🎨", "色は? 🎨"),
        ("x" * 40_000, "x" * 32_767),
    ],
)
def test_predictions_stay_text(response: str, expected: str, tmp_path: Path) -> None:
    """Would catch a response that a spreadsheet runs, one that turns into a number or a date, and one that no file can hold."""
    benchmark = BENCHMARKS["pope"]()
    rows = marked(benchmark, 1)
    rows[0]["response"] = rows[0]["question"] = response
    book = load_workbook(export(benchmark, rows, tmp_path, "m").files[-1])
    cells = {cell.value: cell.column for cell in book.active[1]}
    for column in ("prediction", "question"):
        cell = book.active.cell(2, cells[column])
        assert cell.value == expected
        assert cell.data_type == "s"


@pytest.mark.parametrize("model", ["a/b", " ", "a\\b"])
def test_a_name_that_no_file_can_have_is_refused(model: str, tmp_path: Path) -> None:
    """Would catch a file that lands in another folder."""
    with pytest.raises(UserError, match="export_name="):
        export(BENCHMARKS["pope"](), [], tmp_path / "none", model)
    assert not (tmp_path / "none").exists()
