"""Commands: mistakes in one line, and where runs and sweeps lie."""

import errno
import os
import sys
from importlib import import_module
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from blink.runs.command import Job, hydra_command, one_line_errors
from blink.runs.folder import given_folder, open_run
from blink.runs.values import UserError
from tests.processes import python


@pytest.mark.slow
def test_a_command_ends_with_one_line_and_a_failing_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Would catch a command that goes on, a traceback, or a multirun that starts its jobs all the same."""
    ran: list[str] = []
    command = hydra_command("eval")(lambda config, _: ran.append(config.method.name))
    monkeypatch.setattr(sys, "argv", ["blink.eval", "metod=vanilla,interp", "--multirun"])
    with pytest.raises(SystemExit) as stopped:
        command()
    assert "\n" not in str(stopped.value)
    assert "did you mean method" in str(stopped.value)
    assert not ran


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config-name", "nowhere"], "--config-name nowhere: there is no nowhere.yaml in "),
        (["--config-dir", "nowhere"], "--config-dir nowhere: expected a folder of configs"),
        (["--config-path", "nowhere"], "--config-path nowhere: expected a folder of configs"),
        (["--config-path", "."], "--config-path .: expected the whole path"),
        (["--experimental-rerun", "nowhere"], "rerun=FOLDER repeats an evaluation"),
    ],
)
def test_hydras_own_options(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Would catch Hydra's report of several lines, and its traceback."""
    monkeypatch.chdir(tmp_path)
    command = hydra_command("eval")(lambda config, _: None)
    monkeypatch.setattr(sys, "argv", ["blink.eval", *arguments])
    with pytest.raises(SystemExit, match=message) as stopped:
        command()
    assert stopped.value.code == 2


def test_the_flag_of_a_multirun_may_stand_anywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Would catch `layer=2 --multirun seed=3,4` refused as "unrecognized arguments", as Hydra alone does."""
    ran: list[tuple[int, int]] = []
    command = hydra_command("train")(lambda config, _: ran.append((config.layer, config.seed)))
    folder = f"hydra.sweep.dir={tmp_path}"
    monkeypatch.setattr(sys, "argv", ["blink.train", "layer=2", "--multirun", "seed=3,4", folder])
    command()
    assert ran == [(2, 3), (2, 4)]


@pytest.mark.parametrize(
    "launched",
    [
        {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"},
        {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"},
        {"SLURM_PROCID": "1"},
    ],
)
@pytest.mark.parametrize("name", ["analyze", "compare", "demo", "explain", "push", "score", "serve"])
def test_a_command_for_one_process_refuses_to_be_one_of_several(
    name: str, launched: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Catches processes of torchrun or srun that each write the same folder, upload the same files or take the same port."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"blink.{name}", *(["run"] if name == "compare" else [])])
    for key, value in launched.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(SystemExit, match=f"error: python -m blink.{name} works in one process") as stopped:
        import_module(f"blink.{name}").main()
    assert stopped.value.code == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_torchrun_of_a_command_for_one_process(tmp_path: Path) -> None:
    """Catches two figures drawn into the same folder, and a process that waits for another."""
    two = ("-m", "torch.distributed.run", "--nproc-per-node=2")
    ended = python(*two, "-m", "blink.analyze", "samples=2", "scenes.images=2", cwd=tmp_path)
    assert ended.returncode == 1
    assert "error: python -m blink.analyze works in one process" in ended.stderr
    assert "Error executing job" not in ended.stderr
    assert not list(tmp_path.iterdir())


def test_a_users_mistake_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches tracebacks and line breaks in what a user reads about a bad argument, and an exit code of success or of a bug."""
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with pytest.raises(SystemExit) as stopped, one_line_errors():
        raise UserError("layer 40:\n  the model has 16")
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: layer 40: the model has 16\n"


def test_a_bug_keeps_its_traceback() -> None:
    """Catches a ValueError of our own internals, of torch or of NumPy that is told as if the user had made a mistake."""
    with pytest.raises(ValueError, match="expected axis"), one_line_errors():
        raise ValueError("expected axis 3")


def test_a_command_shows_the_traceback_of_a_bug_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Catches a mistake found in the middle of the work that ends with a traceback, and a bug that ends without."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["blink.eval"])
    for error, code, shown in ((UserError, 2, "error: step 3\n"), (ValueError, 1, "Error executing job")):

        def job(config: DictConfig, _: Job, error: type[ValueError] = error) -> None:
            raise error("step 3")

        with pytest.raises(SystemExit) as stopped:
            hydra_command("eval")(job)()
        assert stopped.value.code == code
        assert capsys.readouterr().err.startswith(shown)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.ENOSPC, "make room there"), (errno.EACCES, "the right to it"), (errno.EIO, "disk")],
)
def test_a_place_that_cannot_be_used_is_one_line(
    number: int, remedy: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a traceback where a disk is full or read-only, and one line for a bug that is an OSError."""
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with pytest.raises(SystemExit) as stopped, one_line_errors():
        raise OSError(number, os.strerror(number), "outputs/a.json")
    said = capsys.readouterr().err
    assert stopped.value.code == 1
    assert said.startswith(f"error: outputs/a.json: {os.strerror(number)}; ")
    assert remedy in said
    for bug in (OSError(number, os.strerror(number)), OSError(errno.EBADF, "Bad file descriptor", "a")):
        with pytest.raises(OSError, match=str(bug.strerror)), one_line_errors():
            raise bug


NEEDED = {"train": ("layer=1",), "score": ("bench=pope", "predictions=rows.jsonl")}
"""Command -> overrides that it does nothing without."""


def _places(monkeypatch: pytest.MonkeyPatch, command: str, *overrides: str) -> list[Path | None]:
    """Where the jobs of a command are to lie, as far as the user says so; each leaves a file there if it does."""
    found: list[Path | None] = []

    def task(config: DictConfig, _: Job) -> None:
        given = given_folder(HydraConfig.get())
        found.append(given)
        if given is not None:
            folder = open_run(Path("outputs"), command, [], {"layer": config.get("layer")}, given=given)
            (folder / "result").touch()

    given = {override.partition("=")[0] for override in overrides}
    needed = [override for override in NEEDED.get(command, ()) if override.partition("=")[0] not in given]
    monkeypatch.setattr(sys, "argv", [f"blink.{command}", *needed, *overrides])
    hydra_command(command)(task)()
    return found


@pytest.mark.parametrize("command", ["train", "eval", "analyze", "explain", "score"])
def test_hydras_own_keys_say_where_a_run_lies(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches results below outputs/ although the user named a folder by Hydra's key, and that folder left empty."""
    monkeypatch.chdir(tmp_path)
    assert _places(monkeypatch, command) == [None]
    assert _places(monkeypatch, command, "hydra.run.dir=.") == [None]
    assert not list(tmp_path.iterdir())
    assert _places(monkeypatch, command, "hydra.run.dir=a/b") == [tmp_path / "a" / "b"]
    assert _places(monkeypatch, command, f"hydra.run.dir='{tmp_path}/a b=c'") == [tmp_path / "a b=c"]
    own = ("hydra.output_subdir=.hydra", "hydra/job_logging=default", "hydra.job.chdir=true")
    assert _places(monkeypatch, command, "hydra.run.dir=d", *own) == [tmp_path / "d"]
    for folder in ("a/b", "a b=c", "d"):
        assert {"config.yaml", "result"} <= {path.name for path in (tmp_path / folder).iterdir()}
    assert not (tmp_path / "outputs").exists()


def test_hydras_own_keys_say_where_a_sweep_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches jobs of a sweep that lie elsewhere than their sweep, or all in one folder."""
    monkeypatch.chdir(tmp_path)
    swept, names = ("layer=1,2", "--multirun"), ("layer-1", "layer-2")
    assert _places(monkeypatch, "train", *swept) == [None, None]
    found = _places(monkeypatch, "train", "hydra.sweep.dir=s", *swept)
    assert found == [tmp_path / "s" / name for name in names]
    numbered = ("hydra.sweep.dir=t", "hydra.sweep.subdir=job${hydra.job.num}")
    found = _places(monkeypatch, "train", *numbered, *swept)
    assert found == [tmp_path / "t" / f"job{number}" for number in range(2)]
    for folder in (*(f"s/{name}" for name in names), "t/job0", "t/job1"):
        assert (tmp_path / folder / "result").exists()


def test_a_mistake_leaves_no_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches the folder that Hydra makes before anything is checked."""
    monkeypatch.chdir(tmp_path)

    def task(config: DictConfig, _: Job) -> None:
        raise UserError("tau_exp=9")

    monkeypatch.setattr(sys, "argv", ["blink.eval", "hydra.run.dir=gone"])
    with pytest.raises(SystemExit):
        hydra_command("eval")(task)()
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize(
    "override", ["hydra.run.dir=null", "hydra.sweep.dir=1", "hydra.run.dir=''", "hydra.sweep.subdir=[a]"]
)
def test_hydras_folders_are_texts(override: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a folder that is called None."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=override.partition("=")[0]):
        _places(monkeypatch, "eval", override)
    assert not list(tmp_path.iterdir())
