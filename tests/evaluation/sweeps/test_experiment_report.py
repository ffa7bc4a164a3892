"""The end of an experiment, from runs written by hand: what stands in its files, and what it says about them."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.patches import Rectangle
from omegaconf import OmegaConf
from rich.console import Console

from blink.bench import Pope
from blink.evaluation.sweeps.experiment_report import plot, read_entries, report
from blink.evaluation.sweeps.experiments import Experiment, Line, read_experiment
from blink.evaluation.sweeps.report import note_job
from blink.inference.policy import Policy
from tests.finished_runs import Rule, finish, samples

ROWS = [{"name": name} for name in ("vanilla", "vanilla, other batches", "interp", "blink")]


def experiment(**more: Any) -> Experiment:
    return read_experiment(
        {"title": "Table 1: by hand", "bench": ["pope"], "rows": ROWS, "paper": "table1"} | more
    )


def line(name: str, *overrides: str, against: tuple[str, ...] = ("vanilla",), noise: bool = False) -> Line:
    return Line(name, name, "", "pope", ("bench=pope", *overrides), against, name, noise)


LINES = [
    line("vanilla", "method=vanilla", against=()),
    line("vanilla, other batches", "method=vanilla", "engine.reuse=none", noise=True),
    line("interp", "method=interp"),
    line("blink", "method=blink", against=("vanilla", "interp")),
]
WRONG = [["random/1yes"], ["random/1yes"], ["random/1yes", "random/2yes"], []]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Four finished runs of `LINES`, noted out of order, on a backbone that is not the paper's."""
    for number in (2, 0, 3, 1):
        run = tmp_path / "runs" / str(number)
        settings = {
            "data": "scenes of seed 3",
            "backbone": "tiny",
            "policy": None if number < 2 else Policy([2, 3], tau_exp=0.5, tau_drop=0.4),
        }
        finish(run, Rule(wrong=WRONG[number]), samples(), Pope(), **settings)
        (run / "config.yaml").write_text(OmegaConf.to_yaml({"model": {"family": "tiny"}, "limit": 24}))
        note_job(tmp_path, number, LINES[number].overrides, run)
    return tmp_path


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def said(sweep: Path, **more: Any) -> str:
    """What the report prints, on one line; its files lie in the sweep's folder afterwards."""
    console = Console(width=200, markup=False)
    with console.capture() as capture:
        report(sweep, experiment(**more), LINES, console)
    return " ".join(capture.get().split())


def test_every_score_stands_beside_its_row(sweep: Path) -> None:
    """Would catch runs mixed up where jobs end in another order than they were given, and the paper's POPE beside F1."""
    said(sweep)
    accuracies = {
        row["row"]: float(row["value"])
        for row in read(sweep / "table.csv")
        if row["metric"] == "random_accuracy"
    }
    assert accuracies == {"vanilla": 87.5, "vanilla, other batches": 87.5, "interp": 75, "blink": 100}
    paper = {(row["row"], row["metric"]): row["paper"] for row in read(sweep / "table.csv") if row["paper"]}
    assert paper == {
        ("vanilla", "adversarial_accuracy"): "85.17",
        ("interp", "adversarial_accuracy"): "85.17",
        ("blink", "adversarial_accuracy"): "85.23",
    }
    assert {row["layers"] for row in read(sweep / "table.csv") if row["row"] == "blink"} == {"2 3"}


def test_rows_are_compared_with_baseline_and_reference(sweep: Path) -> None:
    """Would catch gains and losses swapped, a reference left out, and the row of rounding not marked as such."""
    said(sweep)
    found = [
        (row["second"], row["first"], row["gained"], row["lost"], row["noise"])
        for row in read(sweep / "comparison.csv")
    ]
    assert found == [
        ("vanilla, other batches", "vanilla", "0", "0", "True"),
        ("interp", "vanilla", "0", "1", "False"),
        ("blink", "vanilla", "1", "0", "False"),
        ("blink", "interp", "2", "0", "False"),
    ]


def test_what_differs_from_the_paper_is_said_once(sweep: Path) -> None:
    """Would catch the paper's values unmarked beside ours of another backbone, of scenes, or of a few questions."""
    shown = said(sweep)
    reasons = (
        "backbone tiny instead of llava15_7b; scenes of seed 3 instead of the benchmark's own pictures; "
        "the first 24 questions only"
    )
    assert shown.count(f"† Table 1 and these runs on POPE do not compare: {reasons}") == 1
    assert "85.23†‡" in (sweep / "table.md").read_text(encoding="utf-8")
    assert {row["differs_from_paper"] for row in read(sweep / "table.csv")} == {reasons}


def test_brackets_are_explained_where_there_are_any(sweep: Path) -> None:
    """Would catch a table laid on its side whose bracketed numbers nobody can place."""
    assert "in brackets" not in said(sweep)
    assert "- in brackets: Table 1" in said(sweep, transposed=True)
    assert "<br>(85.23†‡)" in (sweep / "table.md").read_text(encoding="utf-8")


def test_a_row_without_a_run_is_named(sweep: Path) -> None:
    """Would catch a table that leaves out a row whose job failed."""
    missing = line("copy", "method=interp", "layer=14")
    with pytest.raises(ValueError, match="the row 'copy' on pope has no finished run"):
        read_entries(sweep, [*LINES, missing])


def test_a_long_title_fits_the_plot(sweep: Path) -> None:
    """Catches a title that is cut off at both sides of a narrow plot."""
    entries = read_entries(sweep, LINES)
    figure = plot(replace(experiment(), title="A title of many words " * 4), entries)
    figure.savefig(sweep / "plot.png")
    [title] = figure.texts
    box = title.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width


def test_plot_shows_every_row_in_order(sweep: Path) -> None:
    """Would catch a row without a point, points under another row's name, and a band that is not the baseline's."""
    entries = read_entries(sweep, LINES)
    [axes] = plot(experiment(), entries).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == [entry.label for entry in LINES]
    heights = [bars[0].get_ydata()[0] for bars in axes.containers]
    f1 = [entry.run.result.metrics["f1"] for entry in entries]
    assert heights == f1
    [band] = axes.patches
    assert isinstance(band, Rectangle)
    low, high = entries[0].run.result.intervals["f1"] or ()
    assert (band.get_y(), band.get_y() + band.get_height()) == pytest.approx((low, high))
