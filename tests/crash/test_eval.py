"""`python -m blink.eval`, alone and as a multirun, killed: the same command until it is done, and then the same answers."""

import csv
import itertools
import json
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blink.eval import main
from tests.crash.kills import Ended, at_random, command, files_in

SECONDS = 6.0
"""About how long a start and its answers take."""

RUN = ("scenes.images=6", "limit=30", "bench.max_new_tokens=2", "logger=none")

FILES = {  # and how often each is written in a run
    "predictions.jsonl": 2,
    "scores.json": 1,
    "timing.json": 1,
    "config.yaml": 1,
    "inputs.json": 1,
    "provenance.json": 1,
    "example.png": 1,
}
FILES_OF_A_SWEEP = {"[0-9]*.json": 2, "sweep.csv": 1, "sweep.png": 1, "comparison.csv": 1, "multirun.yaml": 1}

MEASURED = (
    "seconds",
    "seconds_waiting_for_pictures",
    "questions_per_second",
    "peak_memory_mb",
    "provenance",
    "made_with",
    "folder",
)
"""What differs from run to run without a kill, too."""


def deaths(
    files: dict[str, int], arguments: tuple[str, ...], temporary: Path, moments: np.random.Generator
) -> Iterator[tuple[str, Ended]]:
    """Start a command again and again: it dies in the writing of each of the files in turn, and at moments between them."""
    temporary.mkdir()
    for turn in itertools.count():
        for name in moments.permutation(list(files)):
            # behind the first row, within it or before it, and of short files within their first line
            bytes_written = int(moments.choice([0, 5, 40, 700 if name == "predictions.jsonl" else 100]))
            time = str(moments.integers(1, files[name] + 1))
            dying = ("-m", "tests.crash.dying", name, time, str(bytes_written), "blink.eval", *arguments)
            yield f"writing {name}", command(*dying, temporary=temporary)
            if turn or moments.integers(2):
                moment = at_random(moments, SECONDS)
                yield "moment", command("-m", "blink.eval", *arguments, until=moment, temporary=temporary)


def finish(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """The command in this process, which lives on."""
    monkeypatch.setattr(sys, "argv", ["blink.eval", *arguments])
    main()


def same(found: Path, whole: Path) -> None:
    """Assert that two `outputs` hold the same files, answers and scores, and that each run knows how long it took."""
    assert files_in(found) == files_in(whole)
    for path in found.rglob("timing.json"):
        assert json.loads(path.read_text())["answered"] > 0
    for path in whole.rglob("predictions.jsonl"):
        assert (found / path.relative_to(whole)).read_bytes() == path.read_bytes()
    for path in whole.rglob("scores.json"):
        assert unmeasured(found / path.relative_to(whole)) == unmeasured(path)
    for path in whole.rglob("*.csv"):
        assert table(found / path.relative_to(whole)) == table(path)


def unmeasured(path: Path) -> dict[str, Any]:
    """Scores without what differs from run to run."""
    return {key: value for key, value in json.loads(path.read_text()).items() if key not in MEASURED}


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a table without what differs from run to run."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: row[key] for key in row if key not in MEASURED} for row in csv.DictReader(file)]


def killed_until_it_is_done(
    files: dict[str, int],
    arguments: tuple[str, ...],
    outputs: Path,
    whole: Path,
    kills: int,
    moments: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kill a command so many times, starting from nothing whenever it was done; then finish it and compare."""
    finish(monkeypatch, *arguments, f"outputs={whole}")
    temporary = outputs.with_name(f"{outputs.name}-tmp")
    mine = (*arguments, f"outputs={outputs}")
    died: dict[str, int] = {}
    for where, ended in itertools.islice(deaths(files, mine, temporary, moments), kills):
        if ended.code == 0:  # it was done before, or sooner than the moment
            same(outputs, whole)
            shutil.rmtree(outputs)
            continue
        assert ended.code in (-signal.SIGKILL, -signal.SIGXFSZ), f"{where}: {ended.said}"
        died[where] = died.get(where, 0) + 1
    finish(monkeypatch, *mine)
    same(outputs, whole)
    assert files_in(temporary) == []
    print(f"killed {sum(died.values())} times: {died}")


def test_an_evaluation(
    tmp_path: Path, kills: int, moments: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch half a row that is read, answers that are lost or asked twice, and halves of files that stay behind."""
    arguments = (*RUN, "method=interp")
    killed_until_it_is_done(
        FILES, arguments, tmp_path / "out", tmp_path / "whole", kills, moments, monkeypatch
    )


@pytest.mark.parametrize("launcher", ["one_pass", "basic"])  # all jobs at once, or one after another
def test_a_multirun(
    launcher: str,
    elsewhere: Path,
    tmp_path: Path,
    kills: int,
    moments: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Would catch a job that is missing from the sweep's table, one that another's rows went to, and torn tables."""
    arguments = (*RUN, "method=vanilla,interp", f"hydra/launcher={launcher}", "--multirun")
    files = {**FILES, **FILES_OF_A_SWEEP}
    most = max(1, kills // 2)
    killed_until_it_is_done(
        files, arguments, elsewhere / "out", tmp_path / "whole", most, moments, monkeypatch
    )
