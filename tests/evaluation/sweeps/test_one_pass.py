"""A multirun in one pass against the same multirun job by job, and killed on the way."""

import csv
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

from blink import TokenSR, save_token_sr
from blink.eval import main
from blink.evaluation.sweeps.one_pass import without_fresh

SMALL = ("scenes.images=2", "scenes.split=validation", "bench.max_new_tokens=2", "logger=none")
TIMED = ("seconds", "seconds_waiting_for_pictures", "questions_per_second", "peak_memory_mb", "folder")


@pytest.fixture(scope="module")
def arguments(llava_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """A small backbone with modules for two layers."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("modules")
    save_token_sr({1: TokenSR(32), 2: TokenSR(32)}, folder, backbone="b")
    return (f"model.path={llava_folder}", f"token_sr={folder}", *SMALL)


def command(monkeypatch: pytest.MonkeyPatch, folder: Path, *overrides: str) -> dict[str, dict[str, Any]]:
    """`python -m blink.eval --multirun` in a folder, in this process: what it left of each run, by the run's name."""
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["blink.eval", "--multirun", *overrides])
    main()
    return left(folder)


def left(folder: Path) -> dict[str, dict[str, Any]]:
    """Rows and scores of each run below a folder, ratios rounded, without what follows from the clock."""
    runs = {}
    for run in sorted((folder / "outputs" / "eval").iterdir()):
        scores = json.loads((run / "scores.json").read_text())
        for record in (scores["provenance"], *scores["provenance"]["earlier"]):
            del record["started_as"]
        rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
        for row in rows:
            for event in row["events"]:
                event["ratio"] = pytest.approx(event["ratio"], abs=1e-4)
        runs[run.name] = {
            "rows": rows,
            "files": sorted(path.name for path in run.iterdir()),
            "scores": {key: value for key, value in scores.items() if key not in TIMED},
        }
    return runs


def table(folder: Path) -> list[dict[str, str]]:
    """The lines of the one sweep's table, without what follows from the clock."""
    [path] = (folder / "outputs" / "sweeps").glob("*/sweep.csv")
    with path.open() as file:
        return [{key: line[key] for key in line if key not in TIMED} for line in csv.DictReader(file)]


@pytest.mark.slow
def test_one_pass_leaves_what_job_by_job_leaves(
    arguments: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Would catch rows in another job's folder, jobs of other data in one pass, and settings that a pass loses.

    Methods, random choices and two sets of questions.
    """
    sweep = (
        *arguments,
        "method=vanilla,blink",
        "patches=3",
        "layer=1-2",
        "tau_exp=0.4",
        "schedule=threshold,random",
        "selector=random",
        "bench.splits=random,popular",
    )
    together = command(monkeypatch, tmp_path / "together", *sweep)
    said = capsys.readouterr().out
    assert said.count("4 runs over 12 questions in one pass") == 2
    assert "HYDRA" not in said
    assert "Launching" not in said
    logged = re.findall(r"^\[\d\d:\d\d:\d\d\] (.*)", said, flags=re.MULTILINE)
    points = [line for line in logged if re.match(r"  \d of 8: ", line)]
    assert len(points) == 8
    assert points[0] == "  1 of 8: method=vanilla schedule=threshold bench.splits=random"
    assert logged.index(points[-1]) < logged.index("4 runs over 12 questions in one pass")
    assert sum("12 questions" in line and "POPE on " in line for line in logged) == 1
    assert logged[-1].startswith("written to ")
    alone = command(monkeypatch, tmp_path / "alone", *sweep, "hydra/launcher=basic")
    assert "in one pass" not in capsys.readouterr().out
    assert len(together) == 8
    assert together == alone
    assert table(tmp_path / "together") == table(tmp_path / "alone")
    events = {
        json.dumps([event["action"] for event in row["events"]])
        for run in together.values()
        for row in run["rows"]
    }
    assert len(events) >= 3


@pytest.mark.slow
def test_killed_sweep_goes_on(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch rows lost, doubled or asked again when a process dies in the middle of a pass."""
    sweep = (*arguments, "scenes.images=4", "method=interp", "layer=1-2", "tau_exp=0.3,0.5")
    killed = tmp_path / "killed"
    killed.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "blink.eval", "--multirun", *sweep],
        cwd=killed,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size for path in killed.glob("outputs/eval/*/predictions.jsonl")):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline, "nothing was answered"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(killed.glob("outputs/sweeps/*/sweep.csv"))
    begun = {path: path.read_bytes() for path in killed.glob("outputs/eval/*/predictions.jsonl")}
    resumed = command(monkeypatch, killed, *sweep)
    assert resumed == command(monkeypatch, tmp_path / "whole", *sweep)
    assert table(killed) == table(tmp_path / "whole")
    for path, content in begun.items():
        pictures = content.count(b"\n") // 18
        kept = b"".join(content.splitlines(keepends=True)[: 18 * pictures])
        assert path.read_bytes().startswith(kept)


class Rounds(Sweeper):
    """Hands over a batch of jobs, looks at what they return, and hands over another, as sweepers that search do."""

    returned: ClassVar[list[float]] = []

    def __init__(self, **settings: Any) -> None:
        """Hydra passes the settings of the sweeper that it is named in place of."""

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        for first, low in ((0, 0.2), (2, 0.6)):
            jobs = [[*arguments[:-1], f"tau_exp={tau}"] for tau in (low, low + 0.1)]
            done = self.launcher.launch(jobs, initial_job_idx=first)
            Rounds.returned += [job.return_value for job in done]


def test_sweepers_that_search(
    arguments: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Would catch batches that are not one pass each, jobs that return another's score or none, and a report that
    wants to list the jobs beforehand.
    """
    module: Any = ModuleType("hydra_plugins.rounds")  # Hydra takes plugins from there alone
    module.Rounds = Rounds
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(Rounds, "__module__", module.__name__)
    monkeypatch.setattr(Rounds, "returned", [])
    Plugins.instance().register(Rounds)
    sweeper = "hydra.sweeper._target_=hydra_plugins.rounds.Rounds"
    search = ("scenes.images=1", "method=interp", "layer=1", "tau_exp=interval(0,1)")
    runs = command(monkeypatch, tmp_path, sweeper, *arguments, *search)
    assert capsys.readouterr().out.count("2 runs over 18 questions in one pass") == 2
    lines = table(tmp_path)
    assert [float(line["tau_exp"]) for line in lines] == pytest.approx([0.2, 0.3, 0.6, 0.7])
    assert Rounds.returned == pytest.approx([float(line["f1"]) for line in lines], abs=1e-3)
    assert len(runs) == 4


@pytest.mark.slow
def test_fresh_sweep_begins_each_run_once(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch answers thrown away between the pass and the job that should score them."""
    sweep = (*arguments, "scenes.images=1", "method=interp", "layer=1", "tau_exp=0.3,0.5")
    command(monkeypatch, tmp_path, *sweep)
    runs = command(monkeypatch, tmp_path, *sweep, "fresh=true")
    assert sum(".old1" in name for name in runs) == 2
    assert len(runs) == 4
    assert without_fresh(["fresh=true", "layer=1"]) == ["fresh=false", "layer=1"]


def test_mistake_in_one_job_answers_none(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a traceback, or half of a sweep answered before its mistake is found."""
    with pytest.raises(SystemExit, match=r"error: tau_exp=2: expected a number in \[0, 1\]"):
        command(monkeypatch, tmp_path, *arguments, "method=interp", "layer=1", "tau_exp=0.3,2")
    assert not (tmp_path / "outputs" / "eval").exists()
