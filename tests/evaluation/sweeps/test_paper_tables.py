"""The paper's layouts, filled with results written by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from blink.bench import BENCHMARKS
from blink.bench.statistics import Estimate, McNemar
from blink.evaluation.compare import Comparison, FinishedRun
from blink.evaluation.result import Result
from blink.evaluation.sweeps.experiments import Line, read_experiment
from blink.evaluation.sweeps.paper import TABLES
from blink.evaluation.sweeps.paper_tables import (
    Difference,
    Entry,
    difference_grid,
    main_grids,
    paper_value,
    what_happened,
)
from blink.evaluation.sweeps.text_tables import Grid

MME = {name: 100.0 + i for i, name in enumerate(BENCHMARKS["mme"].tabled)}
POPE = {
    "f1": 86.0,
    "accuracy": 85.0,
    "adversarial_accuracy": 84.0,
    "popular_accuracy": 85.0,
    "random_accuracy": 86.0,
}


def entry(name: str, bench: str, metrics: dict[str, float], paper: str | None = None, **more: Any) -> Entry:
    """A row whose every score has an interval from 1 below to 2 above."""
    line = Line(name, name, "", bench, (f"bench={bench}",), (), paper or name, False)
    result = Result(
        data="by hand",
        benchmark=bench,
        version=f"{bench}-1",
        edition=None,
        n=200,
        images=100,
        metrics=metrics,
        intervals={key: [value - 1, value + 2] for key, value in metrics.items()},
        units=dict.fromkeys(metrics, "points") if bench == "mme" else {},
        headline=list(metrics),
        expanded=0.25,
        events={},
    )
    return Entry(line, FinishedRun(name, Path("unused"), replace(result, **more)))


def experiment(paper: str | None, **more: Any) -> Any:
    rows = [{"name": "vanilla"}]
    return read_experiment({"title": "T", "bench": [], "rows": rows, "paper": paper} | more)


def flat(grid: Grid) -> list[tuple[str, list[str]]]:
    found = []
    for row in grid.rows:
        found.append((row.label, list(row.cells)))
        if row.below is not None:
            found.append((row.below[0], list(row.below[1])))
    return found


def test_table_1_is_split_as_in_the_paper() -> None:
    """Would catch cognition's subtasks under perception, a lost column, and the paper's value in another's place."""
    entries = [
        entry("vanilla", "mme", MME),
        entry("vanilla", "pope", POPE),
        entry("vanilla", "gqa", {"accuracy": 62.0}),
    ]
    grids = main_grids(experiment("table1"), entries, {"mme": ["x"], "pope": [], "gqa": []})
    assert [len(grid.columns) for grid in grids] == [12, 7, 7]
    assert list(grids[0].columns[:3]) == ["Exist.", "Count", "Pos."]
    assert list(grids[1].columns) == ["CS", "Num", "Text", "Code", "Cogn.", "Total", "expanded"]
    assert list(grids[2].columns[:2]) == ["POPE\nadv. acc.", "POPE\npop. acc."]
    ours, theirs = flat(grids[0])[:2]
    assert ours == ("vanilla", [*(f"{100 + i}.00\n{99 + i}..{102 + i}" for i in range(11)), "25.0 %"])
    assert theirs[0] == "  Table 1"
    assert (theirs[1][0], theirs[1][10], theirs[1][11]) == ("190.00†", "1505.72†", "")
    assert flat(grids[1])[1][1] == ["112.86†", "70.00†", "107.50†", "67.50†", "357.86†", "", ""]
    assert flat(grids[2])[:2] == [
        ("vanilla", ["84.00\n83.0..86.0", "85.00\n84.0..87.0", "86.00\n85.0..88.0", "86.00\n85.0..88.0", "25.0 %", "62.00\n61.0..64.0", "25.0 %"]),
        ("  Table 1", ["85.17‡", "", "", "", "", "61.93", ""]),
    ]  # fmt: skip


def test_rows_of_the_paper_that_none_of_ours_matches_come_last() -> None:
    """Would catch tiny's layers beside the numbers of other layers, and the paper's rows left out."""
    chosen = experiment("table3", metrics={"mme": ["perception", "cognition", "total"]})
    entries = [entry("vanilla", "mme", MME), entry("12-18", "mme", MME), entry("6-9", "mme", MME)]
    [grid] = main_grids(chosen, entries, {"mme": []})
    assert list(grid.columns) == ["Perc.", "Cogn.", "Total", "expanded"]
    assert [label for label, _ in flat(grid)] == [
        "vanilla",
        "  Table 3",
        "12-18",
        "  Table 3",
        "6-9",
        "Table 3: 11-17",
        "Table 3: 13-19",
        "Table 3: 14-20",
    ]
    assert flat(grid)[1][1] == ["1505.72", "357.86", "", ""]
    assert flat(grid)[5][1] == ["1518.20", "364.29", "1882.49", ""]


def test_a_benchmark_of_which_the_paper_has_nothing_has_no_row_of_it() -> None:
    """Would catch empty rows of the paper, and a crash where there is no table at all."""
    pope = [entry("vanilla", "pope", POPE)]
    assert len(flat(main_grids(experiment("table2"), pope, {"pope": []})[0])) == 1
    assert len(flat(main_grids(experiment(None), pope, {"pope": []})[0])) == 1


def test_columns_of_one_benchmark_are_told_apart() -> None:
    """Catches several columns with the benchmark's name alone above each."""
    few = experiment(None, metrics={"pope": ["f1", "accuracy"]})
    [grid] = main_grids(few, [entry("vanilla", "pope", POPE)], {"pope": []})
    assert list(grid.columns) == ["POPE\nmean F1", "POPE\nAccuracy", "expanded"]
    [grid] = main_grids(
        experiment(None, metrics={"gqa": ["accuracy"]}),
        [entry("vanilla", "gqa", {"accuracy": 80.0})],
        {"gqa": []},
    )
    assert list(grid.columns) == ["GQA", "expanded"]


def test_what_happened_gives_shares_per_layer() -> None:
    """Would catch counts shown as percentages, and keep taken for drop."""
    events = {"7": {"expand": 50, "keep": 120, "drop": 30}, "8": {"expand": 0, "keep": 200, "drop": 0}}
    grid = what_happened(
        [
            entry("blink", "pope", POPE, events=events, flops=200 * 1_530_000_000),
            entry("old", "pope", POPE, empty=1, unread=4),
        ]
    )
    assert list(grid.columns)[2:5] == ["empty / unread", "expanded", "GFLOP per question"]
    assert list(grid.rows[0].cells) == ["POPE", "200", "-", "25.0 %", "1.53", "7: 25/60/15   8: 0/100/0"]
    assert list(grid.rows[1].cells) == ["POPE", "200", "1 / 4 (2.0 %)", "25.0 %", "-", "-"]


def test_differences_stand_beside_the_papers() -> None:
    """Would catch a difference taken the wrong way round, gains and losses swapped, and a missing mark."""
    blink, vanilla = entry("blink", "mme", MME), entry("vanilla", "mme", MME)
    found = Comparison(
        "vanilla",
        "blink",
        {"perception": Estimate(4.0, -1.04, 9.0), "total": Estimate(-0.5, float("nan"), float("nan"))},
        McNemar(only_first=3, only_second=8, p=0.2266),
        (0.0, 0.25),
    )
    [row] = difference_grid([Difference(blink, vanilla, found)], TABLES["table1"], {"mme": ["x"]}).rows
    assert row.label == "blink - vanilla"
    assert list(row.cells) == ["MME", "Perc. +4.00 [-1.0, +9.0]\nTotal -0.50", "+14.02†", "8", "3", "0.227"]


@pytest.mark.parametrize(
    ("metric", "value"), [("adversarial_accuracy", 85.17), ("f1", None), ("accuracy", None)]
)
def test_the_papers_one_number_for_pope_is_no_f1(metric: str, value: float | None) -> None:
    """Would catch the paper's POPE, which is an accuracy by its denominator, subtracted from our F1."""
    row = entry("vanilla", "pope", POPE)
    assert paper_value(TABLES["table1"], row.line, metric) == value
