"""Lightning's trainer of a training run, and what of its settings is checked before weights are read."""

import logging
import math
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning import Callback, Trainer
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.callbacks import EarlyStopping, RichProgressBar
from lightning.pytorch.strategies import DeepSpeedStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from blink.model.backbone import Backbone
from blink.model.token_sr import Design
from blink.runs.config.settings import made
from blink.runs.machine import launched_processes, memory_bytes
from blink.runs.values import UserError, number, whole_number
from blink.training.checkpoints import CHECKPOINTS, CheckpointFiles, Checkpoints
from blink.training.features.store import in_words
from blink.training.images import Images
from blink.training.order import batches_per_step, steps_per_epoch
from blink.training.parts.images import open_images
from blink.training.parts.modules import load_references, outlined_backbone, weight_shapes
from blink.training.plan import Plan

_NOT_MEASURED = "Early stopping conditioned on metric"
"""In what Lightning's EarlyStopping raises where `monitor` is no metric of the run; it names those that are."""

_PEER_ENDED = "Connection closed by peer"
"""In what gloo raises in the processes that wait for one that is gone."""


def make_trainer(plan: Plan, folder: Path) -> Trainer:
    """Return a trainer without a logger, which knows how many processes there are.

    Args:
        folder: of the run; not made here.

    Raises:
        ValueError: Lightning refuses the settings on this machine, or the processes cannot share the pairs out.
    """
    arguments = dict(plan.trainer)
    arguments["precision"] = _precision(arguments["precision"], arguments["accelerator"])
    accumulate = arguments.pop("accumulate_grad_batches")
    callbacks = [*_added_callbacks(plan), Checkpoints(folder / CHECKPOINTS, plan.checkpoint_every)]
    if arguments["enable_progress_bar"]:
        callbacks.append(RichProgressBar())
    for chatty in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.distributed"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    trainer = made(
        "trainer",
        arguments,
        Trainer,
        callbacks=callbacks,
        logger=False,
        default_root_dir=str(folder),
        max_epochs=1,  # to Lightning all epochs are one, see `PairData`
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_model_summary=False,
    )
    if type(trainer.strategy) is DeepSpeedStrategy and not isinstance(trainer.accelerator, CUDAAccelerator):
        raise UserError("trainer=deepspeed needs CUDA GPUs; trainer=ddp_cpu runs two processes on CPUs")
    if isinstance(trainer.strategy, DeepSpeedStrategy) and trainer.gradient_clip_val and len(plan.layers) > 1:
        raise UserError(
            "trainer.gradient_clip_val with DeepSpeed clips all layers as one, which couples them; "
            "train one layer at a time, or use trainer=ddp"
        )
    # after the trainer is made, since it alone knows how many processes there are
    launched = launched_processes()
    if launched not in (1, trainer.world_size):
        raise UserError(
            f"{launched} processes were started, by torchrun or alike, and the trainer has {trainer.world_size}: each would "
            f"train by itself; trainer=ddp trainer.devices={launched} trains with all of one machine's"
        )
    trainer.accumulate_grad_batches = batches_per_step(
        plan.global_pairs, trainer.world_size, plan.device_pairs, accumulate
    )
    trainer.strategy.checkpoint_io = CheckpointFiles()
    return trainer


def check_memory(plan: Plan, outlined: Backbone, trainer: Trainer) -> None:
    """Check that the modules, their gradients and the optimizer's two moments fit into the memory of GPU or machine.

    Raises:
        UserError: they do not.
    """
    weights = sum(math.prod(shape) for shape in weight_shapes(plan, outlined).values())
    needed = 4 * 4 * weights
    on_gpu = isinstance(trainer.accelerator, CUDAAccelerator)
    available = torch.cuda.get_device_properties(0).total_memory if on_gpu else memory_bytes()
    if needed > available:
        raise UserError(
            f"layer={plan.config['layer']} with {_sizes_in_words(plan)}: weights, gradients and moments take {in_words(needed)}, and "
            f"{'the GPU' if on_gpu else 'this machine'} has {in_words(available)}; take fewer layers or smaller modules"
        )


class Checked(NamedTuple):
    """What a plan was checked by: the backbone without weights, the trainer, where images come from, modules measured beside."""

    outlined: Backbone
    trainer: Trainer
    images: Images | None
    references: dict[int, Design]


def check(plan: Plan, folder: Path) -> Checked:
    """Check a plan against backbone, machine and images, as far as it goes without reading pictures or the backbone's weights.

    Args:
        folder: of the run; not made here.

    Raises:
        UserError: something does not fit.
    """
    outlined = outlined_backbone(plan)
    references = load_references(plan, outlined.hidden_size)
    trainer = make_trainer(plan, folder)
    check_memory(plan, outlined, trainer)
    return Checked(outlined, trainer, open_images(plan), references)


@contextmanager
def fitting(trainer: Trainer) -> Iterator[None]:
    """Context in which a trainer works. After an error the processes that it has started are ended: they would wait for this one.

    Settings that Lightning refuses only once it trains are a user's mistake all the same.

    Raises:
        UserError: in place of Lightning's error.
    """
    try:
        yield
    except BaseException as error:
        launcher: Any = trainer.strategy.launcher
        if hasattr(launcher, "kill"):
            launcher.kill(signal.SIGKILL)
        if isinstance(error, MisconfigurationException):
            raise UserError(f"trainer, callbacks or logger: {error}") from error
        if isinstance(error, RuntimeError) and _PEER_ENDED in str(error):
            raise UserError("another process of this run has ended; its own line says why") from error
        if isinstance(error, RuntimeError) and _NOT_MEASURED in str(error):
            raise UserError(f"callbacks: {error}") from error
        raise


def check_length(plan: Plan, trainer: Trainer, images: int) -> None:
    """Check that the run has steps, not too many to count, and measures before its end.

    Raises:
        UserError: it does not.
    """
    batches = steps_per_epoch(images, plan.global_pairs) * trainer.accumulate_grad_batches * plan.epochs
    if batches > sys.maxsize:
        raise UserError(
            f"epochs={plan.epochs}: that is {batches:.0e} batches; expected at most {sys.maxsize:.0e}"
        )
    limit: Any = trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    if not batches:
        raise UserError(f"trainer.limit_train_batches={limit}: that leaves no batch to train on")
    interval = plan.trainer["val_check_interval"]
    if isinstance(interval, int) and interval > batches:
        raise UserError(
            f"trainer.val_check_interval={interval}: the run has {batches} batches; expected at most as many, or a share "
            "of the run, as 0.25"
        )


def _added_callbacks(plan: Plan) -> list[Callback]:
    """Make the callbacks that the user adds.

    Raises:
        UserError: one is no callback, or refuses its arguments.
    """
    added = []
    for name, config in plan.callbacks.items():
        callback = made(f"callbacks.{name}", config, Callback)
        if isinstance(callback, EarlyStopping):  # which compares with them once it has measured
            whole_number(f"callbacks.{name}.patience", callback.patience, least=0)
            number(f"callbacks.{name}.min_delta", callback.min_delta)
        added.append(callback)
    return added


def _precision(precision: str, accelerator: str) -> str:
    """Resolve "auto": bf16 where a GPU of this machine has it and is used, else float32."""
    if precision != "auto":
        return precision
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported() else "32-true"


def _sizes_in_words(plan: Plan) -> str:
    """What the modules are, as it was given."""
    return " and ".join(
        f"token_sr.{key}={value}" for key, value in plan.config["token_sr"].items() if key != "dtype"
    )
