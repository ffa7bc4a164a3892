"""A multirun in W&B: one group, a run for every point, and a summary run. As a user runs it, and from runs by hand."""

import sys
from pathlib import Path

import pytest

from blink.eval import main
from blink.evaluation.sweeps import report as sweep
from blink.evaluation.sweeps.dashboard import log_sweep
from blink.runs.files import write_csv
from blink.runs.loggers import wandb_logger
from tests.finished_runs import Rule, finish, samples
from tests.told_runs import ToldRun


@pytest.mark.slow
def test_tables_points_and_the_best(tmp_path: Path, told_runs: list[ToldRun]) -> None:
    """Would catch points without their swept values, numbers of a table told as texts, and the worst called the best."""
    asked = samples(2)
    for number, (tau, wrong) in enumerate([("0.4", asked[0].id), ("0.5", ""), ("0.6", asked[3].id)]):
        finish(tmp_path / tau, Rule(wrong=[wrong]), asked)
        sweep.note_job(tmp_path, number, ["bench=pope", f"tau_exp={tau}"], tmp_path / tau)
    jobs = sweep.read_jobs(tmp_path)
    write_csv(
        tmp_path / "sweep.csv", [{"method": "blink", "f1": 1.5, "p": None}, {"method": "7", "f1": 2, "p": 3}]
    )
    sweep.plot(jobs, ["tau_exp"]).savefig(tmp_path / "sweep.png", dpi=30)
    board = wandb_logger(str(tmp_path), "summary", "taus", mode="offline")
    log_sweep(board, jobs, tmp_path)
    board.close()
    [run] = told_runs
    assert (run.identity["job_type"], run.identity["group"]) == ("summary", "taus")
    assert run.axes["points/*"] == "point"
    found = [(row["point"], row["points/tau_exp"]) for row in run.history if "points/score" in row]
    assert found == [(0, 0.4), (1, 0.5), (2, 0.6)]
    assert run.column("points/score")[1] == 100
    assert min(run.column("points/score")) < 100
    assert run.column("points/expanded_percent") == [50] * 3
    assert run.table("sweep/sweep").data == [["blink", 1.5, None], ["7", 2, 3]]
    assert run.column("sweep/sweep_plot")[0].image.size[0] > 0
    points = run.table("sweep/pope").data
    assert sorted(row[0] for row in points) == [0.4, 0.5, 0.6]
    assert (run.summary["best/pope"], run.summary["best/pope_point"]) == (100, "tau_exp=0.5")


def test_jobs_may_lack_what_others_were_given(tmp_path: Path, told_runs: list[ToldRun]) -> None:
    """Catches a dashboard that fails where one row of an experiment names a preset, and the others a method."""
    asked = samples(2)
    for number, given in enumerate(["method=vanilla", "preset=recommended"]):
        finish(tmp_path / given, Rule(), asked, method="vanilla" if number == 0 else "encode")
        sweep.note_job(tmp_path, number, ["bench=pope", given], tmp_path / given)
    jobs = sweep.read_jobs(tmp_path)
    assert [job.label(sweep.swept_keys(jobs)) for job in jobs] == ["vanilla", "encode"]
    board = wandb_logger(str(tmp_path), "summary", "presets", mode="offline")
    log_sweep(board, jobs, tmp_path)
    board.close()
    [run] = told_runs
    assert run.column("points/score") == [100, 100]


@pytest.mark.slow
def test_a_multirun_is_one_group_and_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told_runs: list[ToldRun]
) -> None:
    """Would catch points outside the group, a summary told anew by every return of a finished sweep, a logger that the
    summary does not share with the jobs, and a killed job that goes on as another run."""
    monkeypatch.chdir(tmp_path)
    arguments = [
        "scenes.images=1",
        "bench.splits=[random]",
        "bench.max_new_tokens=2",
        "method=vanilla,interp",
        "logger.mode=offline",
        "logger.project=mine",
        "logger.table_rows=2",
        "--multirun",
    ]

    def command(count: int) -> list[ToldRun]:
        monkeypatch.setattr(sys, "argv", ["blink.eval", *arguments])
        main()
        assert len(told_runs) == count
        assert all(run.ended for run in told_runs)
        return list(told_runs)

    runs = command(3)
    assert sorted(run.identity["job_type"] for run in runs) == ["evaluation", "evaluation", "summary"]
    [sweep_folder] = (tmp_path / "outputs" / "sweeps").iterdir()
    assert {run.identity["group"] for run in runs} == {sweep_folder.name}
    assert {run.identity["project"] for run in runs} == {"mine"}
    points = {run.identity["name"]: run for run in runs if run.identity["job_type"] == "evaluation"}
    interp = next(run for name, run in points.items() if "interp" in name)
    assert interp.config["method"] == "interp"
    assert interp.column("events/expand_percent")
    assert len(interp.table("predictions/table").data) == 2
    assert len(command(3)) == 3

    folder = next(path for path in (tmp_path / "outputs" / "eval").iterdir() if "interp" in path.name)
    (folder / "scores.json").unlink()
    predictions = folder / "predictions.jsonl"
    predictions.write_text(predictions.read_text(encoding="utf-8").splitlines()[0], encoding="utf-8")
    again = [run for run in command(5) if run.identity["job_type"] == "evaluation"]
    assert [run.identity["id"] for run in again].count(interp.identity["id"]) == 2
    assert len({run.identity["id"] for run in again}) == 2
