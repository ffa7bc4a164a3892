"""Trackio's own store on this machine: what a board puts there, a run that was killed and goes on, and one that fails."""

import importlib.util
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from PIL import Image

from blink.runs.boards.board import Axis, Chart
from blink.runs.config.groups import CONF_DIR
from blink.runs.loggers import trackio_logger

needs_trackio = pytest.mark.skipif(not importlib.util.find_spec("trackio"), reason="trackio is not installed")


@pytest.fixture
def project(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    """A project of its own, in a store that is not the user's: Trackio reads where it is once in a process."""
    if "trackio" not in sys.modules:
        os.environ["TRACKIO_DIR"] = str(tmp_path_factory.mktemp("trackio"))
    for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return f"test-{uuid.uuid4().hex}"


def runs_of(project: str) -> list[Any]:
    """The runs of a project, as Trackio's public interface reads them."""
    import trackio

    return list(trackio.Api().runs(project))


def rows_of(project: str, run: Any) -> list[dict[str, Any]]:
    """All that a run logged, in that order, without times."""
    from trackio.sqlite_storage import SQLiteStorage

    return [
        {name: value for name, value in row.items() if name != "timestamp"}
        for row in SQLiteStorage.get_logs(project, run.name, run_id=run.id)
    ]


@needs_trackio
def test_everything_that_is_told_is_in_the_store(
    tmp_path: Path, project: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Would catch numbers without their step, nan drawn as a value, tables without their pictures, and words on stdout."""
    board = trackio_logger(str(tmp_path), "evaluation", "taus", project=project, table_rows=4, table_pixels=8)
    assert board.shows_pictures
    assert board.shows_tables
    red = Image.new("RGB", (8, 4), "red")
    board.settings({"layer": [2, 3], "optimizer": {"rate": 0.5}})
    board.axis("layer", "events")
    board.best("train/loss", "min", "step")
    for layer, share in ((2, 10.0), (3, 20.0)):
        board.numbers({"events/expand": share, "events/drop": float("nan")}, Axis("layer", layer))
    board.pictures({"features/layer_2": red}, Axis("step", 7), caption="red")
    board.histogram("ratios/all", [0.1, 0.3, 0.3, 7.0], [0.0, 0.25, 0.5])
    board.table("predictions/table", ["id", "picture", "tokens"], [["a", red, 2], ["b", red, None]])
    board.chart("sweep/pope", Chart("f1", "tau_exp", {"blink": [(0.4, 90.0), (0.5, 91.0)]}))
    board.summary({"best/pope": 91.0, "best/pope_point": "tau_exp=0.5"})
    board.close()
    assert board.logger is not None, "nothing failed"
    assert capfd.readouterr().out == ""

    [run] = runs_of(project)
    assert run.config.items() >= {"layer": [2, 3], "optimizer": {"rate": 0.5}, "kind": "evaluation"}.items()
    assert run.config["_Group"] == "taus"
    assert run.name.startswith(f"{tmp_path.name} ")
    rows = rows_of(project, run)
    assert rows[:2] == [
        {"layer": 2, "events/expand": 10, "step": 2},
        {"layer": 3, "events/expand": 20, "step": 3},
    ]
    by_name = {name: value for row in rows for name, value in row.items()}
    assert by_name["ratios/all"]["values"] == [1, 2]
    assert rows[2]["step"] == 7
    store = Path(os.environ["TRACKIO_DIR"]) / "media"
    with Image.open(store / by_name["features/layer_2"]["file_path"]) as picture:
        assert picture.size == (8, 4)
    table = by_name["predictions/table"]["_value"]
    assert [(row["id"], row["tokens"]) for row in table] == [("a", 2), ("b", None)]
    assert all((store / row["picture"]["file_path"]).is_file() for row in table)
    assert by_name["sweep/pope"]["_value"][1] == {"line": "blink", "tau_exp": 0.5, "f1": 91}
    assert (by_name["best/pope"], by_name["best/pope_point"]) == (91, "tau_exp=0.5")


@needs_trackio
def test_a_run_that_goes_on_is_the_same_and_another_has_its_own(tmp_path: Path, project: str) -> None:
    """Would catch folders of one name in two places that share a run, and points of a sweep that are no runs of it."""
    other = tmp_path / "elsewhere" / tmp_path.name
    other.mkdir(parents=True)
    for number, (folder, group) in enumerate(
        [(tmp_path, None), (tmp_path, None), (tmp_path, "sweep"), (other, None)]
    ):
        board = trackio_logger(str(folder), "evaluation", group, project=project)
        board.numbers({"scores/f1": float(number)})
        board.close()
    scores = {run.name: [row["scores/f1"] for row in rows_of(project, run)] for run in runs_of(project)}
    assert sorted(scores.values()) == [[0, 1], [2], [3]]
    assert len({run.id for run in runs_of(project)}) == 3


def test_without_the_package_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a traceback of the import, or a folder left behind."""
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(ValueError, match=r"^logger=trackio needs pip install 'blink-mllm\[trackio\]'"):
        trackio_logger(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_sizes_out_of_range_and_projects_without_a_name(tmp_path: Path) -> None:
    """Would catch a run left behind by a mistake, and a key of the config that the function does not take."""
    config = OmegaConf.to_container(OmegaConf.load(CONF_DIR / "logger" / "trackio.yaml"))
    assert isinstance(config, dict)
    assert config.pop("_target_") == "blink.runs.loggers.trackio_logger"
    for key, value in (("table_rows", -1), ("pictures_every", 0.5), ("project", "")):
        with pytest.raises(ValueError, match=rf"logger.{key}={value!r}: expected"):
            trackio_logger(str(tmp_path), **{**config, key: value})
    assert list(tmp_path.iterdir()) == []


PROGRAM = """
import logging, os, signal, sys, time
from blink.runs.loggers import trackio_logger
from blink.runs.boards.board import Axis

logging.basicConfig(stream=sys.stdout, format="%(message)s")
board = trackio_logger(sys.argv[1], project="killed")
for step in range(3):
    board.numbers({"train/loss": 1.0 / (step + 1)}, Axis("step", step))
if sys.argv[2] == "dies":
    time.sleep(2)
    os.kill(os.getpid(), signal.SIGKILL)
board.close()
print("done")
"""


def program(folder: Path, store: str, how: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a process says that logs three numbers."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), how],
        env={**os.environ, "TRACKIO_DIR": store, "HF_HUB_DISABLE_TELEMETRY": "1", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


@needs_trackio
@pytest.mark.slow
def test_a_killed_process_goes_on_as_the_same_run(tmp_path: Path) -> None:
    """Would catch numbers that are kept in memory until the end, a lock that a killed process leaves, and a second run."""
    store = str(tmp_path / "store")
    folder = tmp_path / "run"
    folder.mkdir()
    assert program(folder, store, "dies").returncode == -signal.SIGKILL
    again = program(folder, store, "ends")
    assert (again.returncode, again.stdout, again.stderr) == (0, "done\n", "")
    read = (
        "import json, trackio; from trackio.sqlite_storage import SQLiteStorage as S;"
        "print(json.dumps([[row['step'] for row in S.get_logs('killed', run.name, run_id=run.id)]"
        " for run in trackio.Api().runs('killed')]))"
    )
    steps = subprocess.run(
        [sys.executable, "-c", read], env={**os.environ, "TRACKIO_DIR": store}, capture_output=True, text=True
    )
    assert steps.stdout == "[[0, 1, 2, 0, 1, 2]]\n"


@needs_trackio
@pytest.mark.slow
def test_a_store_that_cannot_be_written_costs_the_dashboard_alone(tmp_path: Path) -> None:
    """Would catch a run that ends, waits or says nothing where Trackio can write no file or reach no Space."""
    no_store = tmp_path / "file"
    no_store.write_text("")
    for store, environment in (
        (str(no_store / "store"), {}),
        (str(tmp_path / "store"), {"TRACKIO_SERVER_URL": "http://127.0.0.1:9/?write_token=no"}),
    ):
        folder = tmp_path / f"run{len(environment)}"
        folder.mkdir()
        found = program(folder, store, "ends", **environment)
        assert found.returncode == 0, found
        *warned, end = found.stdout.splitlines()
        assert end == "done"
        assert len(warned) == 1, found  # further words are Trackio's own, from its threads, on stderr
