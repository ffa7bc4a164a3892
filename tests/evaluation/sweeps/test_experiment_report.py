"""The end of an experiment, from runs written by hand: what stands in its files, and what it says about them."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.patches import Rectangle
from omegaconf import OmegaConf
from rich.console import Console

from blink.bench import Pope
from blink.evaluation.sweeps.experiment_report import compared, plot, read_entries, report
from blink.evaluation.sweeps.experiments import Experiment, Line, read_experiment
from blink.evaluation.sweeps.report import note_job
from blink.inference.policy import Policy
from blink.runs.style import look
from tests.drawings import faults
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


@pytest.mark.parametrize("title", ["Table 1: by hand", "A title of many words " * 4])
def test_the_plot_can_be_read(title: str, sweep: Path) -> None:
    """Catches a title that is cut off, names of rows that lie on each other, and a plot that does not say of what it is."""
    entries = read_entries(sweep, LINES)
    with look():
        figure = plot(replace(experiment(), title=title), entries, compared(entries))
        assert faults(figure) == []
    assert " ".join(figure.get_suptitle().split()).startswith(title.strip())
    assert "tiny, scenes of seed 3, 24 questions" in figure.get_suptitle()
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "POPE: f1 (%)",
        "less vanilla's, in pairs (percentage points)",
    ]
    assert "95 % intervals" in figure.get_supxlabel()


def test_plot_shows_every_row_in_order_with_its_interval(sweep: Path) -> None:
    """Would catch a row without a point or bar, points under another row's name, and a band that is not the baseline's."""
    entries = read_entries(sweep, LINES)
    found = compared(entries)
    scores, differences = plot(experiment(), entries, found).axes
    assert [label.get_text() for label in scores.get_yticklabels()] == [entry.label for entry in LINES]
    assert [bars[0].get_xdata()[0] for bars in scores.containers] == [
        entry.run.result.metrics["f1"] for entry in entries
    ]
    ends = [bars[2][0].get_segments()[0][:, 0].tolist() for bars in scores.containers]
    assert ends == [pytest.approx(entry.run.result.intervals["f1"]) for entry in entries]
    [band] = scores.patches
    assert isinstance(band, Rectangle)
    low, high = entries[0].run.result.intervals["f1"] or ()
    assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx((low, high))
    to_vanilla = [one.found.differences["f1"] for one in found if one.other.line.name == "vanilla"]
    shown = [bars[0].get_xdata()[0] for bars in differences.containers]
    assert np.isnan(shown[0])
    assert shown[1:] == pytest.approx([estimate.value for estimate in to_vanilla])
    ends = [bars[2][0].get_segments()[0][:, 0].tolist() for bars in differences.containers[1:]]
    assert ends == [pytest.approx([estimate.low, estimate.high]) for estimate in to_vanilla]


def test_a_score_without_an_interval_is_said_to_have_none(sweep: Path) -> None:
    """Would catch a plot that names intervals and shows none."""
    entries = read_entries(sweep, LINES)
    scores = entries[3].run.folder / "scores.json"
    written = json.loads(scores.read_text())
    scores.write_text(json.dumps(written | {"intervals": written["intervals"] | {"f1": None}}))
    axes = plot(experiment(), read_entries(sweep, LINES)).axes[0]
    assert axes.get_xlabel() == "POPE: f1 (%); bars where there is an interval"
