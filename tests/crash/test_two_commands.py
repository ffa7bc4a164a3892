"""Two equal commands at once, and commands of which another process has one of the folders."""

import importlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from blink.runs.lock import lock, lock_file, lock_scope
from blink.runs.names import run_name
from tests import models
from tests.processes import holding, inherited

EVAL = ("scenes.images=1", "limit=2", "bench.max_new_tokens=2", "logger=none", "method=vanilla")

COMMANDS = {
    "eval": EVAL,
    "train": (
        "layer=1",
        "images=4",
        "held_out=2",
        "logger=none",
        "workers=0",
        "trainer.enable_progress_bar=false",
    ),
    "analyze": ("figure=attention_ratio", "scenes.images=1", "samples=1"),
    "explain": ("image=picture.png", "question='Is it red?'", "method=interp", "max_new_tokens=2"),
    "score": ("bench=pope", "predictions=rows.jsonl"),
}

ROW = {"id": "1", "response": "yes", "label": "yes", "split": "popular", "image": "a"}


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder with a picture and rows to score."""
    monkeypatch.chdir(tmp_path)
    models.picture(0, (40, 30)).save("picture.png")
    Path("rows.jsonl").write_text(json.dumps(ROW) + "\n")


def run(monkeypatch: pytest.MonkeyPatch, command: str, *overrides: str) -> None:
    """A command with these overrides, in this process."""
    monkeypatch.setattr(sys, "argv", [f"blink.{command}", *overrides])
    importlib.import_module(f"blink.{command}").main()


def folder_of(command: str, overrides: tuple[str, ...]) -> Path:
    """What a command writes to."""
    if command == "score":
        return Path("rows.scores.json")
    return Path("outputs", command, run_name(overrides))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_in_use_is_left_alone(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Would catch a command that writes where another process does, and one that does not say which process that is."""
    target = folder_of(command, COMMANDS[command])
    for fresh in ("fresh=false", "fresh=true"):
        with holding(target) as other:
            with pytest.raises(
                SystemExit, match=f"^error: .* is in use by process {other.pid} .*wait=true"
            ) as ended:
                run(monkeypatch, command, *COMMANDS[command], *([fresh] if command != "score" else []))
            assert ended.value.code == 2
            assert not target.exists()
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("command", ["eval", "analyze", "explain", "score"])
def test_waits_and_goes_on(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch wait=true that is another run, that is not heeded, or that leaves a lock."""
    target = folder_of(command, COMMANDS[command])
    with holding(target) as other:
        started = time.monotonic()
        ends = threading.Timer(2, other.kill)
        ends.start()
        run(monkeypatch, command, *COMMANDS[command], "wait=true")
        assert time.monotonic() - started > 2
    assert target.exists()
    assert not list(Path().rglob("*.lock*"))


@pytest.mark.parametrize("swept", ["seed=0,1", "seed=0,1 hydra/launcher=basic"])
@pytest.mark.parametrize("in_use", ["sweep", "job"])
def test_a_multirun_locks_its_folder_and_those_of_its_jobs(
    in_use: str, swept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch two sweeps in one folder, a sweep that goes into a job's run that is going on, and one that locks itself out."""
    overrides = (*EVAL, *swept.split())
    job = Path("outputs", "eval", run_name((*EVAL, "seed=1")))
    target = Path("outputs", "sweeps", run_name((*EVAL, "seed=0,1"))) if in_use == "sweep" else job
    with holding(target), pytest.raises(SystemExit, match=f"{re.escape(target.name)} is in use by process"):
        run(monkeypatch, "eval", *overrides, "--multirun")
    assert not list(Path().rglob("sweep.csv"))
    run(monkeypatch, "eval", *overrides, "--multirun")
    assert len(list(Path().rglob("sweep.csv"))) == 1
    assert not list(Path().rglob("*.lock*"))


def test_multiruns_of_the_other_commands_lock_their_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a multirun whose folder is locked for blink.eval alone."""
    for command in ("analyze", "explain", "train"):
        swept = (*COMMANDS[command], "seed=0,1")
        target = Path("outputs", "sweeps", run_name(swept))
        with (
            holding(target),
            pytest.raises(SystemExit, match=f"{re.escape(target.name)} is in use by process"),
        ):
            run(monkeypatch, command, *swept, "--multirun")
    assert {path.suffix for path in Path("outputs").rglob("*") if path.is_file()} == {
        ".lock"
    }  # of the killed


def test_equal_commands_at_once_are_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a file with the answers of two processes, and results that differ from those of one command alone."""
    arguments = (*EVAL, "limit=12")
    both = (*arguments, "outputs=both", "wait=true")
    process = subprocess.Popen(
        [sys.executable, "-m", "blink.eval", *both],
        env={**os.environ, **inherited()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    run(monkeypatch, "eval", *arguments, "outputs=alone")
    while not list(Path().glob("both/eval/*.lock")) and process.poll() is None:
        time.sleep(0.01)
    run(monkeypatch, "eval", *both)
    shown = process.communicate(timeout=300)
    assert process.returncode == 0, shown
    [one], [other] = (list(Path(root).rglob("predictions.jsonl")) for root in ("alone", "both"))
    assert one.read_bytes() == other.read_bytes()
    assert not list(Path("both").rglob("*.lock*"))


def test_a_run_is_locked_by_its_first_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch the further processes of a training that find the folder locked by their first one."""
    from blink.runs.folder import lock_run

    monkeypatch.setenv("LOCAL_RANK", "1")
    with holding(Path("outputs", "train", "layer-1")):
        assert lock_run(Path("outputs"), "train", ["layer=1"]) == Path("outputs", "train", "layer-1")
    with lock_scope():
        lock(Path("outputs", "train", "layer-1"))
        assert lock_file(Path("outputs", "train", "layer-1").resolve()).exists()
