"""Checkpoints: which one a run continues from, what a killed or signalled run leaves, and that it ends like any other."""

import logging
import os
import re
import resource
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from blink.runs.signals import Stopped, ending_on_signals
from blink.runs.values import UserError
from blink.training.checkpoints import checkpoint_to_continue
from blink.training.module import TokenSRTraining
from tests.training_runs import common, folder_of, run, same_weights

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),  # Lightning's use of torch
]

SHAPES = {"token_sr.1.weight": (2, 3)}

Kill = Callable[[int, Callable[[], None]], None]


def checkpoint(path: Path, **other: Any) -> Path:
    """A file that holds what is looked at before a run continues from it."""
    path.parent.mkdir(exist_ok=True)
    weights = {"token_sr.1.weight": torch.zeros(2, 3)}
    torch.save({"state_dict": weights, "loops": {}, "PairData": {}, "pad": torch.rand(4096), **other}, path)
    return path


def damage(path: Path, how: str) -> None:
    """Do to a checkpoint what a power failure or a bad disk does."""
    content = bytearray(path.read_bytes())
    if how == "zeros":
        middle = len(content) // 2
        content[middle : middle + 512] = bytes(512)
    damaged = {"empty": b"", "cut": bytes(content[:-100]), "garbage": b"no archive"}
    path.write_bytes(damaged.get(how, bytes(content)))


@pytest.mark.parametrize("how", ["empty", "cut", "garbage", "zeros"])
def test_a_damaged_newest_is_passed_over(how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Would catch a run that never starts again after a power failure, or that goes on from zeros."""
    before, newest = (checkpoint(tmp_path / f"step-{step}.ckpt") for step in (9, 10))
    assert checkpoint_to_continue(tmp_path, "last", SHAPES) == newest
    damage(newest, how)
    with caplog.at_level(logging.INFO, logger="blink"):
        assert checkpoint_to_continue(tmp_path, "last", SHAPES) == before
    passed, continued = (record.getMessage() for record in caplog.records[-2:])
    assert passed.startswith(str(newest))
    assert passed.endswith("continuing from the one before")
    assert "\n" not in passed
    assert continued == "continuing from step 9"
    damage(before, how)
    with pytest.raises(UserError, match=rf"{re.escape(str(before))}.*; delete it to begin anew"):
        checkpoint_to_continue(tmp_path, "last", SHAPES)


def test_a_run_continues_from_its_own_newest_checkpoint(tmp_path: Path) -> None:
    """Catches step-8 taken for newer than step-100, and a named file that a killed run begins from again."""
    other = checkpoint(tmp_path / "other.ckpt")
    own = tmp_path / "checkpoints"
    assert checkpoint_to_continue(own, "last", SHAPES) is None
    assert checkpoint_to_continue(own, str(other), SHAPES) == other
    _, newest = (checkpoint(own / f"step-{step}.ckpt") for step in (8, 100))
    for start_from in ("last", str(other)):
        assert checkpoint_to_continue(own, start_from, SHAPES) == newest


def test_files_of_other_names_are_left_alone(tmp_path: Path) -> None:
    """Would catch a run that dies of a user's copy, or takes it for its own."""
    for name in ("step-best.ckpt", "step-200-v1.ckpt", "step-9.ckpt.bak", "last.ckpt"):
        checkpoint(tmp_path / name)
    assert checkpoint_to_continue(tmp_path, "last", SHAPES) is None
    newest = checkpoint(tmp_path / "step-7.ckpt")
    assert checkpoint_to_continue(tmp_path, "last", SHAPES) == newest


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"state_dict": {"token_sr.2.weight": torch.zeros(2, 3)}},
            r"token_sr\.1\.weight is absent there and",
        ),
        ({"state_dict": {"token_sr.1.weight": torch.zeros(4, 3)}}, r"is \(4, 3\) there and \(2, 3\) here"),
        ({"state_dict": [1]}, "no checkpoint of a training run"),
        ({"state_dict": {}}, "absent there"),
    ],
)
def test_a_foreign_checkpoint_is_one_line(content: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Would catch a traceback of torch, once all weights are loaded, where a checkpoint is of another run."""
    file = checkpoint(tmp_path / "other.ckpt", **content)
    with pytest.raises(UserError, match=message) as refused:
        checkpoint_to_continue(tmp_path / "own", str(file), SHAPES)
    assert str(file) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["nowhere.ckpt", "folder", "weights.ckpt", "list.ckpt"])
def test_what_is_no_checkpoint_is_one_line(name: str, tmp_path: Path) -> None:
    """Would catch a traceback where ckpt= names a file of another kind, or none."""
    (tmp_path / "folder").mkdir()
    torch.save(torch.zeros(3), tmp_path / "weights.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(UserError, match=rf"ckpt={re.escape(str(tmp_path / name))}"):
        checkpoint_to_continue(tmp_path / "own", str(tmp_path / name), SHAPES)


@pytest.fixture
def at_call(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """`at_call(n, do)` does something at the n-th call of a training or validation step from now on."""
    calls = 0
    wanted: dict[int, Callable[[], None]] = {}

    def counted(step: Callable[..., Any]) -> Callable[..., Any]:
        def count(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            wanted.pop(calls, lambda: None)()
            return step(*arguments)

        return count

    for name in ("training_step", "validation_step"):
        monkeypatch.setattr(TokenSRTraining, name, counted(getattr(TokenSRTraining, name)))

    def set_up(call: int, do: Callable[[], None]) -> None:
        wanted[calls + call] = do

    return set_up


def die() -> None:
    raise RuntimeError("killed")


# Eleven steps, the held-out images measured after each five of them and at the end, in one batch
@pytest.mark.parametrize(
    ("call", "saved"),
    [
        pytest.param(3, None, id="before the first checkpoint"),
        pytest.param(6, 4, id="in the first measuring"),
        pytest.param(9, 4, id="in step 8"),
        pytest.param(14, 11, id="in the last measuring"),
    ],
)
def test_a_killed_run_ends_like_one_that_was_not(
    call: int, saved: int | None, at_call: Kill, in_empty_folder: Path, short: list[str], whole_run: Path
) -> None:
    """Would catch steps that are repeated or left out, wherever in the loop a run died."""
    at_call(call, die)
    with pytest.raises(RuntimeError, match="killed"):
        run(*short)
    folder = folder_of(*short)
    left = [] if saved is None else [f"step-{saved}.ckpt"]
    assert [path.name for path in folder.glob("checkpoints/*")] == left
    assert run(*short).steps == 11
    assert [path.name for path in folder.glob("checkpoints/*")] == ["step-11.ckpt"]
    same_weights(folder / "token_sr", whole_run / "token_sr")


@pytest.mark.parametrize(
    ("call", "saved"),
    [
        pytest.param(3, 3, id="in a step"),
        pytest.param(6, 5, id="in the measuring after step 5"),
        pytest.param(14, 11, id="in the last measuring"),
    ],
)
def test_a_signal_saves_the_step_that_is_done(
    call: int, saved: int, at_call: Kill, in_empty_folder: Path, short: list[str], whole_run: Path
) -> None:
    """Would catch work lost to a scheduler's warning, and a run that goes on from within the measuring of held-out images."""
    at_call(call, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped) as stopped, ending_on_signals():
        run(*short)
    assert stopped.value.code == 143
    folder = folder_of(*short)
    assert str(stopped.value).startswith(f"stopped by SIGTERM: step {saved} of 11 is saved in {folder}")
    assert [path.name for path in folder.glob("checkpoints/*")] == [f"step-{saved}.ckpt"]
    assert not (folder / "summary.json").exists()
    assert run(*short).steps == 11
    same_weights(folder / "token_sr", whole_run / "token_sr")


def test_restarts_leave_one_checkpoint_and_no_halves(
    at_call: Kill, in_empty_folder: Path, short: list[str], whole_run: Path
) -> None:
    """Would catch a disk that fills up: a checkpoint for each start, and halves of those that were being written."""
    folder = folder_of(*short) / "checkpoints"
    for _ in range(3):
        at_call(5, die)
        with pytest.raises(RuntimeError, match="killed"):
            run(*short, "checkpoint_every=1")
        folder = folder_of(*short, "checkpoint_every=1") / "checkpoints"
        assert len(list(folder.glob("*"))) == 1
        (folder / "step-9.ckpt.123.partial").write_bytes(b"half")
        (folder / "step-9.ckpt.0.partial" / "checkpoint").mkdir(parents=True)
    run(*short, "checkpoint_every=1")
    assert [path.name for path in folder.iterdir()] == ["step-11.ckpt"]
    same_weights(folder.parent / "token_sr", whole_run / "token_sr")


def test_a_full_disk_leaves_the_last_good_checkpoint(
    in_empty_folder: Path, short: list[str], whole_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a torn newest checkpoint, half a file that fills the disk for good, and a way through the temporary folder."""
    folder = folder_of(*short)
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    small = resource.getrlimit(resource.RLIMIT_FSIZE)
    step = TokenSRTraining.training_step

    def full_after_six(self: TokenSRTraining, *arguments: Any) -> Any:
        if self.trainer.global_step == 6:
            resource.setrlimit(resource.RLIMIT_FSIZE, (8192, small[1]))
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(TokenSRTraining, "training_step", full_after_six)
        try:
            with pytest.raises(SystemExit, match=r"step-8\.ckpt: File too large; make room there") as ended:
                run(*short)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, small)
    assert ended.value.code == 1
    assert [path.name for path in folder.glob("checkpoints/*")] == ["step-4.ckpt"]
    assert run(*short).steps == 11
    same_weights(folder / "token_sr", whole_run / "token_sr")


@pytest.fixture
def short(llava_folder: Path, pictures: Path) -> list[str]:
    """Overrides of a run of eleven steps."""
    return [*common(llava_folder, pictures), "layer=1", "trainer.val_check_interval=5"]


@pytest.fixture(scope="session")
def whole_run(llava_folder: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of such a run that nothing happened to."""
    outputs = tmp_path_factory.mktemp("whole")
    overrides = [*common(llava_folder, pictures), "layer=1", "trainer.val_check_interval=5"]
    return Path(run(*overrides, f"outputs={outputs}").token_sr).parent


def test_a_checkpoint_of_other_images_is_refused_before_weights_are_read(
    in_empty_folder: Path, short: list[str], whole_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a run that begins from another run's checkpoint in an order of images that means nothing here."""
    other = whole_run / "checkpoints" / "step-11.ckpt"
    monkeypatch.setattr("blink.training.parts.load_trunk", None)
    for override in ("seed=1", "images=10"):
        with pytest.raises(SystemExit, match="belongs to other training images or another seed") as ended:
            run(*short, override, f"ckpt={other}")
        assert ended.value.code == 2
