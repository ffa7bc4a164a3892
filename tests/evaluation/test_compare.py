"""Runs side by side and in pairs, against differences counted by hand."""

import json
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from rich.console import Console
from rich.table import Table

from blink.bench import MME, Benchmark, MMBench, Pope, Row
from blink.bench.statistics import PRIOR_FLIP_CORRELATION, PRIOR_GROUPS
from blink.compare import main
from blink.evaluation.answering.rows import resume
from blink.evaluation.compare import (
    FinishedRun,
    compare,
    comparison_record,
    comparison_table,
    read_run,
    score_table,
    told_apart,
)
from blink.evaluation.evaluate import evaluate
from blink.evaluation.result import Setup
from blink.evaluation.scores import score_rows
from tests.finished_runs import Rule, finish, samples


def text(table: Table) -> str:
    """A table as it is printed."""
    console = Console(width=140, markup=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two runs of 24 questions: three and two wrong answers, one of them the same."""
    finish(
        tmp_path / "a", Rule(wrong=["random/0yes", "random/1yes", "random/2yes"]), samples(), method="vanilla"
    )
    finish(tmp_path / "b", Rule(wrong=["random/0yes", "popular/0no"]), samples(), method="blink")
    return tmp_path / "a", tmp_path / "b"


def test_difference_by_hand(folders: tuple[Path, Path]) -> None:
    """Catches a difference taken the wrong way round and flips swapped.

    The first run has random accuracy 5/8, the second 7/8 and popular 7/8. Two answers are gained, one is lost.
    """
    pair = compare(*map(read_run, folders))
    assert (pair.first, pair.second) == ("vanilla", "blink")
    assert pair.differences["random_accuracy"].value == pytest.approx(25)
    assert pair.differences["popular_accuracy"].value == pytest.approx(-12.5)
    assert pair.differences["accuracy"].value == pytest.approx(12.5 / 3)
    low, high = pair.differences["random_accuracy"][1:]
    assert -100 <= low < 25 < high <= 100
    assert low + high == pytest.approx(50)
    assert pair.flips == (1, 2, 1.0)
    assert pair.expanded == (0.5, 0.5)


def test_record_is_flat(folders: tuple[Path, Path]) -> None:
    """Catches columns of a CSV file that hold tuples, or gains and losses swapped."""
    record = comparison_record(compare(*map(read_run, folders)))
    assert (record["gained"], record["lost"], record["mcnemar_p"]) == (2, 1, 1.0)
    assert record["random_accuracy"] == 25
    assert record["random_accuracy_low"] <= 25 <= record["random_accuracy_high"]
    assert all(isinstance(value, str | int | float) for value in record.values())


def test_tables_show_value_interval_and_share(folders: tuple[Path, Path]) -> None:
    """Catches a score printed without its interval or without the share that expanded."""
    runs = [read_run(folder) for folder in folders]
    shown = text(score_table(runs))
    assert "vanilla" in shown
    assert "87.50 [" in shown
    assert "91.67 [" in shown
    assert shown.count("50.0 %") == 2
    pairs = text(comparison_table([compare(*runs)], runs[0].result))
    assert "blink - vanilla" in pairs
    assert "+4.17 [" in pairs
    assert "-0.0" not in pairs


def test_tables_say_what_fell_to_the_default(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Catches scores whose empty responses, each a yes of POPE, nobody sees: on screen, in files, beside another run."""
    silent = ["random/0yes", "popular/1yes"]
    finish(tmp_path / "s", Rule(silent=silent), samples(), method="interp")
    runs = [read_run(folders[0]), read_run(tmp_path / "s")]
    assert (runs[1].result.empty, runs[1].result.unread, runs[1].result.unread_as) == (2, 2, "yes")
    assert "2 of 24 responses (8.3 %, 2 of them empty)" in runs[1].result.warnings[-1]
    for shown in (text(score_table(runs)), text(score_table(runs * 3))):
        assert "empty / unread" in shown
        assert "0 / 0" in shown
        assert "2 / 2 (8.3 %)" in shown
        assert "reads nothing counts as yes" in shown
    record = comparison_record(compare(*runs))
    assert (record["first_unread"], record["second_unread"]) == (0, 2)


def test_tables_say_what_was_answered_without_blink(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Catches scores of Blink, a part of which the backbone alone made, and a heading where there is nothing to say."""
    finish(tmp_path / "n", Rule(narrow=[(4, 4)]), samples(), method="interp")
    runs = [read_run(folders[0]), read_run(tmp_path / "n")]
    for shown in (text(score_table(runs)), text(score_table(runs * 3))):
        cells = [line.strip("│ ").split("│") for line in shown.splitlines()]
        found = [row[-1].strip() for row in cells if row[0].strip() in ("answered without Blink", "interp")]
        assert set(found) == {"24"}
    assert "without Blink" not in text(score_table(runs[:1]))


def test_results_of_earlier_versions_can_be_shown(folders: tuple[Path, Path]) -> None:
    """Catches a zero for what was not counted, and a result that cannot be read any more."""
    path = folders[0] / "scores.json"
    old = {
        key: value
        for key, value in json.loads(path.read_text()).items()
        if "unread" not in key and key != "empty"
    }
    path.write_text(json.dumps(old))
    assert "0 / 0" not in text(score_table([read_run(folders[0])]))


def test_many_runs_become_lines(folders: tuple[Path, Path]) -> None:
    """Catches a sweep's table too wide for any screen."""
    runs = [read_run(folders[0], f"tau_exp=0.{i}") for i in range(6)]
    shown = text(score_table(runs))
    assert all(f"tau_exp=0.{i}" in shown for i in range(6))
    assert "random recall" not in shown


def test_other_questions_do_not_compare(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Catches runs of another limit compared as if in pairs."""
    finish(tmp_path / "c", Rule(), samples(3))
    with pytest.raises(ValueError, match=r"\(24 rows\).*\(18 rows\) are not about the same questions"):
        compare(read_run(folders[0]), read_run(tmp_path / "c"))


def test_other_version_does_not_compare(folders: tuple[Path, Path]) -> None:
    """Catches scores of different prompts or scorers set against each other."""
    first, second = map(read_run, folders)
    old = second._replace(result=replace(second.result, version="pope-0"))
    with pytest.raises(ValueError, match=r"version pope-1 and .* pope-0"):
        compare(first, old)


def test_folder_without_a_finished_run_is_named(tmp_path: Path) -> None:
    """Catches a FileNotFoundError for a run that was killed."""
    with pytest.raises(ValueError, match=r"holds no scores.json"):
        read_run(tmp_path)


def test_command_prints_both_tables(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a command that forgets the pairs."""
    main([str(folder) for folder in folders])
    shown = capsys.readouterr().out
    assert "24 questions" in shown
    assert "McNemar" in shown


def test_command_tells_runs_of_one_method_apart(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches two columns of the same name."""
    finish(tmp_path / "b2", Rule(), samples(), method="blink")
    main([str(folders[1]), str(tmp_path / "b2")])
    assert "b2 - b" in capsys.readouterr().out


def test_command_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    """Catches a traceback for a mistyped folder."""
    with pytest.raises(SystemExit, match=r"^error: .*holds no scores.json"):
        main([str(tmp_path / "nothing")])


def test_units_of_a_benchmark_reach_its_result(tmp_path: Path) -> None:
    """Would catch MME's points written down as percentages."""

    class Points(Pope):
        units: ClassVar[dict[str, str]] = {"f1": "points"}

    rows = resume(tmp_path, samples(), inputs={})
    result = evaluate(Points(), samples(), rows, lambda: Rule(), tmp_path, setup=Setup(data="by hand")).result
    assert result.units == {"f1": "points"}
    assert finish(tmp_path / "pope", Rule(), samples()).units == {}


def run_by_hand(folder: Path, benchmark: Benchmark, rows: list[Row]) -> FinishedRun:
    """A finished run of these rows, marked by the benchmark."""
    marked = []
    for row in rows:
        mark = benchmark.mark(row)
        marked.append(row | {"answer": mark.answer, "correct": mark.correct})
    folder.mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in marked)
    (folder / "predictions.jsonl").write_text(lines, encoding="utf-8")
    result = score_rows(benchmark, marked, Setup(method=folder.name, data="by hand"))
    return FinishedRun(folder.name, folder, result)


def test_pairs_of_mme_stay_whole(tmp_path: Path) -> None:
    """Would catch MME compared in percent, and the two questions of a picture drawn apart.

    Four pictures; the second run gets one more question right in the first, and so its pair: 100/8 + 100/4 points.
    Taken whole, the first picture is the only one that flipped: its share of 200 points is the rate of flips, 3/16,
    residuals are 3/4 of it and three times 1/4 the other way, and (3/16)^2 (9/16 + 3/16) 4/3 is the variance, so A = 3/16.
    """

    def rows(wrong: set[int]) -> list[Row]:
        return [
            {
                "id": f"{i}",
                "image": f"{i // 2}.jpg",
                "category": "count",
                "split": "count",
                "label": label,
                "response": "maybe" if i in wrong else label,
            }
            for i, label in enumerate(["yes", "no"] * 4)
        ]

    runs = [run_by_hand(tmp_path / name, MME(), rows(wrong)) for name, wrong in (("a", {0}), ("b", set()))]
    found = compare(*runs)
    assert found.differences["perception"].value == pytest.approx(37.5)
    value, low, high = found.differences["total"]
    rate = seen = 37.5 / 200
    prior = (1 - PRIOR_FLIP_CORRELATION) * 4 * 2 * (1 / 8) ** 2 + PRIOR_FLIP_CORRELATION * 4 * (1 / 4) ** 2
    spread = (2.776445**2 * seen + PRIOR_GROUPS * 1.959964**2 * prior) / (1 + PRIOR_GROUPS)
    assert value - low == pytest.approx(200 * (rate * spread + spread**2) ** 0.5, rel=1e-5)
    assert high == 200  # more than all points cannot be gained
    assert found.flips[:2] == (0, 1)


def test_rotations_of_mmbench_stay_whole(tmp_path: Path) -> None:
    """Would catch a question of MMBench counted by rows: one rotation of four lost loses all of its question."""
    options = {"A": "red", "B": "blue", "C": "green", "D": "grey"}

    def rows(wrong: set[int]) -> list[Row]:
        return [
            {
                "id": f"{turn * 1_000_000 + question}",
                "index": turn * 1_000_000 + question,
                "image": f"{question}",
                "category": "color",
                "split": "dev",
                "label": "A",
                "response": "B" if turn == 2 and question in wrong else "A",
                **options,
            }
            for question in range(5)
            for turn in range(4)
        ]

    runs = [
        run_by_hand(tmp_path / name, MMBench(), rows(wrong)) for name, wrong in (("a", set()), ("b", {3}))
    ]
    found = compare(*runs)
    assert found.differences["accuracy"].value == pytest.approx(-20)
    assert found.differences["rows_accuracy"].value == pytest.approx(-5)
    assert found.flips[:2] == (1, 0)


def test_a_damaged_run_is_named(tmp_path: Path) -> None:
    """Would catch a comparison over the rows that are left, and a traceback for files of another kind."""
    folder = tmp_path / "run"
    finish(folder, Rule(), samples())
    predictions, scores = folder / "predictions.jsonl", folder / "scores.json"
    rows, result = predictions.read_bytes(), scores.read_text()
    predictions.write_bytes(rows[: len(rows) // 2])
    with pytest.raises(ValueError, match=r"predictions\.jsonl has 1\d whole rows.* of 24"):
        read_run(folder).rows()
    predictions.unlink()
    with pytest.raises(ValueError, match=r"holds no predictions\.jsonl"):
        read_run(folder).rows()
    for content in ("", "[]", "\0", result.replace('"n": 24', '"n": null')):
        scores.write_text(content)
        with pytest.raises(ValueError, match=r"scores\.json is damaged"):
            read_run(folder)
    scores.write_text(result.replace('"benchmark": "pope"', '"benchmark": "hope"'))
    with pytest.raises(ValueError, match="benchmark='hope'"):
        read_run(folder)


def test_runs_of_one_method_are_named_by_what_differs(tmp_path: Path) -> None:
    """Would catch eight columns that all begin with the benchmark, and are cut off before they differ."""
    ours = ["bench-pope+patches-2+tau_exp-0.4", "bench-pope+patches-3+tau_exp-0.4", "bench-pope+tau_exp-0.5"]
    for name in ours:
        finish(tmp_path / name, Rule(), samples())
    runs = [read_run(tmp_path / name) for name in ours]
    assert [run.label for run in told_apart(runs)] == [
        "patches-2 tau_exp-0.4",
        "patches-3 tau_exp-0.4",
        "tau_exp-0.5",
    ]
    assert [run.label for run in told_apart(runs[:1])] == [runs[0].label]
    assert [run.label for run in told_apart([runs[0], runs[0]])] == [ours[0]] * 2
    assert [run.label for run in told_apart([runs[0]._replace(label="a"), runs[1]])] == ["a", runs[1].label]
