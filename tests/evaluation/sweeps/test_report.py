"""The report of a multirun, from runs written by hand."""

import csv
import json
from itertools import product
from pathlib import Path

import pytest
from rich.console import Console

from blink.evaluation.sweeps.report import method_pairs, note_job, plot, read_jobs, report, swept_keys
from blink.inference.policy import Policy
from blink.runs.style import look
from tests.drawings import faults
from tests.finished_runs import Rule, finish, samples

WRONG = [f"random/{picture}yes" for picture in range(4)]


def sweep_over(folder: Path, *, backbone: str | None = None, **values: list[str]) -> Path:
    """A sweep folder whose jobs cover the product of the values; the n-th job has n % 4 wrong answers."""
    for number, combination in enumerate(product(*values.values())):
        overrides = [f"{key}={value}" for key, value in zip(values, combination, strict=True)]
        run = folder / "runs" / str(number)
        method = dict(zip(values, combination, strict=True)).get("method", "blink")
        policy = None if method == "vanilla" else Policy([2, 3], tau_exp=0.5, tau_drop=0.4)
        rule = Rule(wrong=WRONG[: number % 4])
        finish(run, rule, samples(), method=method, policy=policy, backbone=backbone)
        note_job(folder, number, [*overrides, "limit=24"], run)
    return folder


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_report_writes_table_plot_and_comparison(tmp_path: Path) -> None:
    """Catches a job lost from the table, and pairs made across different thresholds."""
    sweep = sweep_over(tmp_path, method=["vanilla", "blink"], tau_exp=["0.4", "0.6"])
    console = Console(width=140, markup=False)
    with console.capture() as capture:
        report(sweep, console)
    rows = read_csv(sweep / "sweep.csv")
    assert [(row["method"], row["tau_exp"]) for row in rows] == list(
        product(("vanilla", "blink"), ("0.4", "0.6"))
    )
    assert [float(row["random_accuracy"]) for row in rows] == [100, 87.5, 75, 62.5]
    assert float(rows[1]["f1_low"]) <= float(rows[1]["f1"]) <= float(rows[1]["f1_high"])
    assert (rows[0]["used_layers"], rows[2]["used_layers"]) == ("", "2 3")
    assert (rows[0]["used_positions"], rows[2]["used_positions"]) == ("", "append")
    assert rows[2]["expanded"] == "0.5"
    assert (rows[2]["empty"], rows[2]["unread"]) == ("0", "0")
    pairs = read_csv(sweep / "comparison.csv")
    assert [(row["tau_exp"], row["first"], row["second"], row["lost"]) for row in pairs] == [
        ("0.4", "vanilla", "blink", "2"),
        ("0.6", "vanilla", "blink", "2"),
    ]
    assert (sweep / "sweep.png").read_bytes().startswith(b"\x89PNG")
    printed = capture.get()
    assert "vanilla tau_exp=0.4" in printed
    assert "blink - vanilla tau_exp=0.6" in printed


def test_swept_keys_are_those_that_differ(tmp_path: Path) -> None:
    """Catches constant overrides listed as swept."""
    jobs = read_jobs(sweep_over(tmp_path, patches=["2", "3"], tau_exp=["0.5"]))
    assert swept_keys(jobs) == ["patches"]
    assert method_pairs(jobs, ["patches"]) == []


def test_a_search_is_drawn_as_points(tmp_path: Path) -> None:
    """Would catch a legend with a line for every job that a searching sweeper chose."""
    sweep = tmp_path
    for number in range(7):
        run = tmp_path / "runs" / str(number)
        finish(run, Rule(), samples(), method="interp", policy=None)
        note_job(sweep, number, [f"tau_exp=0.{number}1", f"tau_drop=0.{number}2"], run)
    jobs = read_jobs(sweep)
    axes = plot(jobs, swept_keys(jobs)).axes[0]
    [points] = axes.containers
    assert list(points[0].get_xdata()) == pytest.approx([number / 10 + 0.01 for number in range(7)])
    assert points[0].get_linestyle() == "None"
    assert axes.get_legend() is None


def test_half_a_note_is_no_note(tmp_path: Path) -> None:
    """Would catch what a killed job had begun to write taken for a job, or left lying beside the whole note."""
    (tmp_path / "jobs").mkdir()
    for number in (0, 1):
        (tmp_path / "jobs" / f"000{number}.json.77.partial").write_text("{")
    finish(tmp_path / "run", Rule(), samples())
    note_job(tmp_path, 0, ["layer=1"], tmp_path / "run")
    assert len(read_jobs(tmp_path)) == 1
    assert sorted(path.name for path in (tmp_path / "jobs").iterdir()) == [
        "0000.json",
        "0001.json.77.partial",
    ]


def test_plot_puts_numbers_to_scale_and_other_keys_in_lines(tmp_path: Path) -> None:
    """Catches thresholds drawn as evenly spaced names, and methods joined into one line."""
    jobs = read_jobs(sweep_over(tmp_path, method=["interp", "blink"], tau_exp=["0.2", "0.3", "0.9"]))
    axes = plot(jobs, swept_keys(jobs)).axes[0]
    lines = [container[0] for container in axes.containers]
    for line, aside in zip(lines, (-0.0025, 0.0025), strict=True):  # of 0.1 between neighbours
        assert list(line.get_xdata()) == pytest.approx([x + aside for x in (0.2, 0.3, 0.9)])
    assert axes.get_xlabel() == "tau_exp (lines side by side)"
    assert axes.get_legend_handles_labels()[1] == ["interp", "blink"]
    recall = [100, 75, 50]
    f1 = [100 * 2 * r / (r + 100) for r in recall]
    expected = [(100 + 100 + value) / 3 for value in f1]
    assert list(lines[0].get_ydata()) == pytest.approx(expected)


def test_plot_of_names_is_categorical(tmp_path: Path) -> None:
    """Catches float("12-18"), and a line drawn between names."""
    jobs = read_jobs(sweep_over(tmp_path, layer=["12", "12-18", "[2,3]"]))
    axes = plot(jobs, ["layer"]).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["12", "12-18", "[2,3]"]
    assert axes.containers[0][0].get_linestyle() == "None"


def test_single_job_is_a_sweep_too(tmp_path: Path) -> None:
    """Catches max() of nothing when --multirun is given one value."""
    sweep = sweep_over(tmp_path, tau_exp=["0.5"])
    console = Console(width=140, markup=False)
    with console.capture():
        report(sweep, console)
    assert len(read_csv(sweep / "sweep.csv")) == 1


def test_sweep_without_jobs_is_an_error(tmp_path: Path) -> None:
    """Catches an empty table."""
    with pytest.raises(ValueError, match="no job of the sweep"):
        read_jobs(tmp_path)


def test_benchmarks_of_a_sweep_have_tables_and_panels_of_their_own(tmp_path: Path) -> None:
    """Would catch a sweep over benchmarks scored by the first one's metrics, and methods compared across benchmarks."""
    sweep = sweep_over(tmp_path, bench=["pope", "mme"], method=["vanilla", "blink"])
    jobs = read_jobs(sweep)
    for job in jobs:
        if job.overrides["bench"] == "mme":
            scores = job.run.result.written() | {
                "benchmark": "mme",
                "headline": ["accuracy"],
                "units": {"accuracy": "points"},
            }
            (job.run.folder / "scores.json").write_text(json.dumps(scores))
    jobs = read_jobs(sweep)
    panels = plot(jobs, swept_keys(jobs)).axes
    assert [panel.get_ylabel() for panel in panels] == [
        "pope f1 (%), 95 % interval",
        "mme accuracy (points), 95 % interval",
    ]
    assert [label.get_text() for label in panels[0].get_xticklabels()] == ["vanilla", "blink"]


@pytest.mark.parametrize("content", ["", "\0", "[]", "{}", '{"overrides": "a", "folder": "b"}'])
def test_a_damaged_note_is_named(content: str, tmp_path: Path) -> None:
    """Would catch a traceback, or a job left out of the table in silence."""
    sweep = sweep_over(tmp_path, tau_exp=["0.4", "0.6"])
    (sweep / "jobs" / "0001.json").write_text(content)
    with pytest.raises(ValueError, match=r"0001\.json is damaged"):
        read_jobs(sweep)


def test_the_plot_says_what_it_shows(tmp_path: Path) -> None:
    """Would catch a plot that nobody can place once it is out of its folder, and texts or bars that cover each other."""
    for values in (
        {"method": ["vanilla", "interp", "blink"]},
        {"patches": ["2", "3"], "tau_exp": ["0.4", "0.5", "0.6"]},
        {"method": ["vanilla", "interp", "blink"], "tau_exp": [f"0.{n}" for n in range(1, 6)]},
        {"layer": [f"a_rather_long_name_{n}" for n in range(7)], "method": ["interp", "blink"]},
        {"tau_exp": ["0.4"]},
    ):
        jobs = read_jobs(sweep_over(tmp_path / "-".join(values), backbone="a backbone", **values))
        keys = swept_keys(jobs)
        with look():
            figure = plot(jobs, keys, method_pairs(jobs, keys))
            assert faults(figure) == [], values
        title = figure.get_suptitle()
        along = next((key for key in values if key != "method"), "method")
        assert "POPE on a backbone: f1 against " in title
        assert "24 questions" in title
        assert len(figure.axes) == 1 + ("method" in values)
        assert all(axes.get_xlabel() for axes in figure.axes), along
        assert all("95 % interval" in axes.get_ylabel() for axes in figure.axes)


def test_lines_that_coincide_are_told_apart(tmp_path: Path) -> None:
    """Would catch a legend of four lines over a plot of two."""
    for number, (drop, exp) in enumerate(product(("0.2", "0.3", "0.4"), ("0.5", "0.6", "0.7", "0.8"))):
        wrong = number % 4 - (number == 11)
        run = tmp_path / "runs" / str(number)
        finish(run, Rule(wrong=WRONG[:wrong]), samples())
        note_job(tmp_path, number, [f"tau_exp={exp}", f"tau_drop={drop}"], run)
    jobs = read_jobs(tmp_path)
    axes = plot(jobs, swept_keys(jobs)).axes[0]
    legend = axes.get_legend()
    assert legend is not None
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["tau_drop=0.2", "tau_drop=0.3 = tau_drop=0.2", "tau_drop=0.4"]
    lines = [container[0] for container in axes.containers]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 3
    assert len({tuple(line.get_xdata()) for line in lines}) == 3


def test_over_methods_the_paired_differences_are_drawn(tmp_path: Path) -> None:
    """Would catch intervals of single scores alone, which overlap, differences to another run, and a turned sign."""
    jobs = read_jobs(sweep_over(tmp_path, method=["vanilla", "interp", "blink"], tau_exp=["0.4", "0.6"]))
    pairs = method_pairs(jobs, swept_keys(jobs))
    scores, differences = plot(jobs, swept_keys(jobs), pairs).axes
    assert len(scores.containers) == 3
    drawn = {container.get_label(): container for container in differences.containers}
    assert list(drawn) == ["interp", "blink"]
    for method, container in drawn.items():
        expected = [
            pair.comparison.differences["f1"] for pair in pairs if pair.comparison[:2] == ("vanilla", method)
        ]
        assert list(container[0].get_ydata()) == pytest.approx([found.value for found in expected])
        ends = [segment[:, 1].tolist() for segment in container[2][0].get_segments()]
        assert ends == [pytest.approx([found.low, found.high]) for found in expected]
    assert "less that of vanilla" in differences.get_ylabel()
    assert "percentage points" in differences.get_ylabel()
