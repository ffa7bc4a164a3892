"""Checkpoints of a run: when they are written, how, and which one a run continues from.

One lies in the run's folder, `step-100.ckpt`: the next is written beside it, flushed to disk, renamed, and only then is
the older one removed. So a kill, a full disk or a power failure at any moment leaves the last good one. Files with other
names are nobody's business here.
"""

import copy
import logging
import re
import shutil
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from blink.runs.files import flush_to_disk, place_named, remove_partial, whole_file
from blink.runs.signals import Pending, take_signals
from blink.runs.values import UserError

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
"""Folder of a run's checkpoints, in its folder."""

_NAME = re.compile(r"step-(\d+)\.ckpt")

Shapes = Mapping[str, tuple[int, ...]]
"""Name -> shape of the weights that a checkpoint is to hold."""


class CheckpointFiles(TorchCheckpointIO):
    """Writes checkpoints in their own folder; Lightning's way leads through the system's temporary one, and a copy."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint whole.

        Raises:
            OSError: it cannot be written; names the path.
        """
        assert storage_options is None, "not for local files"
        with whole_file(Path(path)) as partial, partial.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # of torch's writer, in place of what the file raised
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise


class Checkpoints(Checkpoint):
    """Saves every so many optimizer steps, at the end, and when a signal asks the run to end; then ends it.

    A step after which the held-out images are measured is saved after that, so that callbacks which judge by what was
    measured continue as they would have. A checkpoint says whether the run was over: it is not trained further then.

    Args:
        folder: of the checkpoints; made at the first one.
        every: optimizer steps.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every = folder, every
        self._step = -1  # the last one whose end was seen
        self._saved: tuple[int, bool] | None = None  # its step, and whether the run was over
        self._due = False
        self._loop: dict[str, Any] | None = None
        self._over = False
        self._steps = 0

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Train no further if the run was over; one that begins from another run's end has its own.

        The loop's position is put into batches of this run: on other devices a step may have had more of them, or fewer.
        """
        own = Path(str(trainer.ckpt_path)).absolute().parent == self.folder.absolute()
        over = checkpoint.get("over", False)
        if over and (own or not _batches_left(trainer, checkpoint)):
            trainer.should_stop = True
            log.info("all steps are done")
        _count_in_batches_of(trainer, checkpoint)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the loop as it was at the end of the step, wherever in the measuring after it the run is now."""
        checkpoint["over"] = self._over
        if self._loop is not None:
            checkpoint["loops"]["fit_loop"] = self._loop

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count where the run continues, and note how many steps it has, for what is said when it ends early."""
        take_signals()  # Lightning's own handlers end the run without a checkpoint, and with exit code 0
        self._step = trainer.global_step
        self._steps = int(trainer.estimated_stepping_batches)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take signals from Lightning, which has put its handlers in place anew."""
        take_signals()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save, or leave that to the end of the measuring that follows; and end the run if that was asked for."""
        if trainer.global_step == self._step:
            return  # gradients of this step are still added up
        self._step = trainer.global_step
        self._loop = copy.deepcopy(trainer.fit_loop.state_dict())
        self._over = _is_last_step(trainer)
        if _agreed(trainer):
            self._save_and_end(trainer)
        self._due = self._due or self._over or self._step % self.every == 0
        if self._due and not _measures_next(trainer, batch_idx):
            self._save(trainer)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """End the run if that was asked for; several processes measure different numbers of batches and cannot agree here."""
        if trainer.world_size == 1 and Pending().requested:
            self._save_and_end(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the step before, if it is due; and end the run if that was asked for."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        self._over = self._over or trainer.should_stop
        if _agreed(trainer):
            self._save_and_end(trainer)
        if self._due:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last step, so that nothing has to be trained again should the run be killed while it is measured."""
        self._over = True
        self._save(trainer)

    def _save_and_end(self, trainer: Trainer) -> None:
        """Save if that is not done yet, and raise `Stopped`."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._save(trainer)
        Pending().end(f"step {trainer.global_step} of {self._steps} is saved in {self.folder}")

    def _save(self, trainer: Trainer) -> None:
        """Write the checkpoint of this step, then remove older ones."""
        now = (trainer.global_step, self._over)
        self._due = False
        if self._saved == now or self._loop is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        target = self.folder / f"step-{trainer.global_step}.ckpt"
        # the same name in all processes: DeepSpeed's checkpoints are folders that each writes its share into
        partial = target.with_name(f"{target.name}.0.partial")
        try:
            with place_named(target):
                if trainer.is_global_zero:
                    self.folder.mkdir(parents=True, exist_ok=True)
                trainer.save_checkpoint(partial, weights_only=False)
                if trainer.is_global_zero:
                    _put_in_place(partial, target)
        except BaseException:
            with suppress(OSError):
                remove_partial(self.folder)
            raise
        if trainer.is_global_zero:
            for step, other in numbered_checkpoints(self.folder).items():
                if step != trainer.global_step:
                    _remove(other)
        trainer.strategy.barrier()
        self._saved = now


def numbered_checkpoints(folder: Path) -> dict[int, Path]:
    """Return optimizer step -> checkpoint of a folder, which need not exist."""
    named = ((path, _NAME.fullmatch(path.name)) for path in folder.glob("step-*.ckpt"))
    return {int(match[1]): path for path, match in named if match}


def checkpoint_to_continue(folder: Path, start_from: str, shapes: Shapes) -> Path | None:
    """Return the newest checkpoint of a folder that can be read, else the file to begin from, else none.

    Args:
        folder: of the run's checkpoints.
        start_from: "last", or a checkpoint of another run.
        shapes: of the weights that this run trains.

    Raises:
        UserError: all of the folder's are damaged, or the file to begin from is, or is missing, or holds other weights.
    """
    own = sorted(numbered_checkpoints(folder).items(), reverse=True)
    for step, path in own:
        try:
            check_checkpoint(path, shapes)
        except UserError as error:
            if (step, path) == own[-1]:
                raise UserError(f"{error}; delete it to begin anew") from error
            log.warning("%s; continuing from the one before", error)
            continue
        log.info("continuing from step %d", step)
        return path
    if start_from == "last":
        return None
    path = Path(start_from).expanduser()
    if not path.exists():
        raise UserError(f"ckpt={start_from} does not exist; expected a checkpoint file, or last")
    try:
        check_checkpoint(path, shapes)
    except UserError as error:
        raise UserError(f"ckpt={start_from}: {error}") from error
    return path


def check_checkpoint(path: Path, shapes: Shapes) -> None:
    """Read a checkpoint from end to end, without keeping it in memory.

    Raises:
        UserError: it is damaged, or no checkpoint, or holds other weights.
    """
    files = sorted(path.rglob("*.pt")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path} is no checkpoint: a folder without weights")
    for file in files:
        _check_archive(file)
    if path.is_dir():
        return  # of DeepSpeed, which compares shapes itself
    content = read_checkpoint(path)
    weights = content.get("state_dict")
    if not isinstance(weights, dict) or "loops" not in content or "PairData" not in content:
        raise UserError(f"{path} is no checkpoint of a training run")
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    if found != dict(shapes):
        different = sorted(
            name for name in found.keys() | shapes.keys() if found.get(name) != shapes.get(name)
        )
        name = different[0]
        raise UserError(
            f"{path} belongs to a run of other modules: {name} is {found.get(name, 'absent')} there and "
            f"{shapes.get(name, 'absent')} here"
        )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return what a checkpoint file holds; weights are read from it when they are used.

    Raises:
        UserError: it is damaged, or no checkpoint.
    """
    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # whatever an unpickler meets in a damaged file
        raise UserError(f"{path} is damaged, or no checkpoint: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is no checkpoint of a training run")
    return content


def _check_archive(file: Path) -> None:
    """Compare every byte with the check sums in the file, which torch itself does not read.

    Raises:
        UserError: they differ, or it is no archive.
    """
    try:
        if not file.stat().st_size:
            raise UserError(f"{file} is empty")
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{file} is damaged, or no checkpoint: {error}") from error
    if damaged is not None:
        raise UserError(f"{file} is damaged: the check sum of {damaged} in it is wrong")


def _put_in_place(partial: Path, target: Path) -> None:
    """Flush a written checkpoint to disk and give it its name."""
    for part in [*partial.rglob("*"), partial] if partial.is_dir() else []:  # a file is flushed already
        flush_to_disk(part)
    if target.is_dir():
        shutil.rmtree(target)  # a damaged one of this very step
    partial.replace(target)
    flush_to_disk(target.parent)


def _remove(checkpoint: Path) -> None:
    if checkpoint.is_dir():
        shutil.rmtree(checkpoint)
    else:
        checkpoint.unlink(missing_ok=True)


def _agreed(trainer: Trainer) -> bool:
    """Whether a signal has asked any of the processes to end."""
    requested = Pending().requested
    if trainer.world_size == 1:
        return requested
    return bool(trainer.strategy.reduce_boolean_decision(requested, all=False))


def _is_last_step(trainer: Trainer) -> bool:
    last_batch = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
    return last_batch or trainer.should_stop or trainer.global_step == trainer.max_steps


def _measures_next(trainer: Trainer, batch_idx: int) -> bool:
    """Whether the held-out images are measured after this batch."""
    every: Any = trainer.val_check_batch
    return trainer.enable_validation and isinstance(every, int) and (batch_idx + 1) % every == 0


def _batches_left(trainer: Trainer, checkpoint: Mapping[str, Any]) -> bool:
    """Whether this run's order of images goes on after the checkpoint's position."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it elsewhere
    return bool(data.position_of(checkpoint["PairData"]) < data.batches)


def _count_in_batches_of(trainer: Trainer, checkpoint: Mapping[str, Any]) -> None:
    """Change the position of a checkpoint's loop to that of this run's data, if it is in it."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    saved = checkpoint.get("PairData")
    if saved is None:
        return
    moved = data.position_of(saved) - saved["position"]
    loop = checkpoint["loops"]["fit_loop"]
    progress = loop["epoch_loop.batch_progress"]
    for counts in (progress["total"], progress["current"]):
        for name in counts:
            counts[name] += moved
    for loader in loop["state_dict"].get("combined_loader", ()):
        loader["position"] += moved
