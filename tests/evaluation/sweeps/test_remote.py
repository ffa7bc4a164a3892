"""Multiruns whose passes are answered by jobs elsewhere, against the same multirun here; killed, and refused."""

import importlib.util
import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hydra._internal.core_plugins.basic_launcher import BasicLauncher

from blink.eval import main
from blink.evaluation.answering import predict
from blink.evaluation.sweeps import remote
from tests.processes import python

SWEPT = (
    *("scenes.images=3", "scenes.split=validation", "bench.max_new_tokens=2", "logger=none"),
    *("engine.pictures=1", "method=vanilla,interp", "layer=1", "tau_exp=0.3,0.6"),
)
TIMED = ("seconds", "seconds_waiting_for_pictures", "questions_per_second", "peak_memory_mb", "folder")


class InTurn(BasicLauncher):
    """Launches jobs one after the other in this process; ends with an error after so many, if a test says so."""

    ends_after: ClassVar[int | None] = None

    def __init__(self, **_: Any) -> None:
        super().__init__()

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Any:
        returned = super().launch(job_overrides[: self.ends_after], initial_job_idx)
        if self.ends_after is not None:
            raise RuntimeError("the cluster is gone")
        return returned


IN_TURN = ("hydra/launcher=joblib", f"hydra.launcher.through={__name__}.InTurn")


def command(monkeypatch: pytest.MonkeyPatch, folder: Path, *overrides: str) -> None:
    """`python -m blink.eval --multirun` in a folder, in this process."""
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["blink.eval", "--multirun", *overrides])
    main()


def left(folder: Path) -> dict[str, Any]:
    """What each run below a folder holds: its rows to the last byte, its files, and its scores but for the clock's."""
    runs = {}
    for run in sorted((folder / "outputs" / "eval").iterdir()):
        scores = json.loads((run / "scores.json").read_text())
        del scores["provenance"]
        runs[run.name] = (
            (run / "predictions.jsonl").read_bytes(),
            sorted(path.name for path in run.iterdir()),
            {key: value for key, value in scores.items() if key not in TIMED},
            json.loads((run / "timing.json").read_text())["answered"],
        )
    return runs


@pytest.fixture(scope="module")
def model(llava_folder: Path) -> str:
    """The override that names a small backbone."""
    return f"model.path={llava_folder}"


@pytest.fixture(scope="module")
def here(model: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The sweep by this process alone."""
    folder = tmp_path_factory.mktemp("here")
    with pytest.MonkeyPatch.context() as patch:
        command(patch, folder, model, *SWEPT)
    return left(folder)


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Takes the pictures of each share that is answered."""
    counts: list[int] = []
    rows_of = predict.rows_of

    def counting(benchmark: Any, answerer: Any, asked: Any, stop: Any) -> Any:
        counts.append(len(asked))
        return rows_of(benchmark, answerer, asked, stop)

    monkeypatch.setattr(predict, "rows_of", counting)
    return counts


@pytest.mark.slow
def test_shares_equal_one_process(
    model: str, here: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answered: list[int]
) -> None:
    """Catches a job per point of the sweep, pictures answered twice, and rows in another order or of another share.

    Vanilla and interpolation share a pass, so there are two shares for all runs; more shares than pictures are one each.
    """
    command(monkeypatch, tmp_path, model, *SWEPT, *IN_TURN)
    assert left(tmp_path) == here
    assert answered == [2, 1]
    command(monkeypatch, tmp_path, model, *SWEPT, "outputs=more", *IN_TURN, "hydra.launcher.shares=9")
    assert answered == [2, 1, 1, 1, 1]
    command(monkeypatch, tmp_path, model, *SWEPT, *IN_TURN)  # done before: no job is started
    assert answered == [2, 1, 1, 1, 1]


@pytest.mark.slow
def test_one_question_at_a_time(
    model: str, here: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answered: list[int]
) -> None:
    """Catches runs that share nothing and are answered by the command itself, on a machine without a GPU."""
    command(
        monkeypatch, tmp_path, model, *SWEPT, *IN_TURN, "engine.reuse=none", "method=interp", "tau_exp=0.3"
    )
    assert answered == [2, 1]


@pytest.mark.slow
def test_what_a_lost_cluster_has_answered_is_kept(
    model: str, here: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answered: list[int]
) -> None:
    """Catches shares that are answered anew, half a share taken for a run, and rows mixed up by another number of shares."""
    monkeypatch.setattr(InTurn, "ends_after", 1)
    with pytest.raises((SystemExit, RuntimeError)):
        command(monkeypatch, tmp_path, model, *SWEPT, *IN_TURN)
    assert answered == [2]
    runs = list((tmp_path / "outputs" / "eval").iterdir())
    assert not any((run / "predictions.jsonl").exists() for run in runs)
    assert all((run / remote.SHARES / "1-of-2" / "predictions.jsonl").stat().st_size for run in runs)
    monkeypatch.setattr(InTurn, "ends_after", None)
    command(monkeypatch, tmp_path, model, *SWEPT, *IN_TURN)
    assert answered == [2, 1]
    assert left(tmp_path) == here


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["hydra/launcher=joblib", "hydra.launcher.through=hydra_plugins.no.Such"],
            "hydra/launcher: hydra_plugins.no.Such is not installed; pip install 'blink-mllm[joblib]'",
        ),
        (
            [*IN_TURN, "hydra.launcher.shares=0"],
            "hydra.launcher.shares=0: expected a whole number of at least 1",
        ),
        (
            [*IN_TURN, "+hydra.launcher.tasks_per_node=2"],
            "hydra.launcher.tasks_per_node=2: expected 1, as several processes share out jobs of blink.train alone",
        ),
        ([*IN_TURN, "layer=77"], "the policy scans layers [77]"),
    ],
)
def test_refused_in_one_line(
    model: str, overrides: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a traceback, or jobs that are started first."""
    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, tmp_path, model, *SWEPT, *overrides)
    assert message in str(stopped.value)
    assert "\n" not in str(stopped.value)


def test_several_processes_start_no_jobs(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches jobs in processes of their own that each take themselves for the first of torchrun's."""
    monkeypatch.setattr("blink.runs.command._team_scope", nullcontext)
    for key, value in {"RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(SystemExit, match="hydra/launcher: 2 processes were started"):
        command(monkeypatch, tmp_path, model, *SWEPT, *IN_TURN)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "package"),
    [
        ("submitit_local", "hydra_plugins.hydra_submitit_launcher"),
        ("joblib", "hydra_plugins.hydra_joblib_launcher"),
    ],
)
def test_real_launchers_equal_one_process(
    launcher: str, package: str, model: str, here: dict[str, Any], tmp_path: Path
) -> None:
    """Catches what does not survive being sent to another process, and jobs that look for files elsewhere."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    ended = python(
        *("-m", "blink.eval", "--multirun", model, *SWEPT, f"hydra/launcher={launcher}"), cwd=tmp_path
    )
    assert ended.returncode == 0, ended.stderr
    assert "4 runs in 1 passes by 2 jobs" in ended.stdout
    assert left(tmp_path) == here
