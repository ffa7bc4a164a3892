"""`python -m blink.train`: train TokenSR modules from a Hydra config (conf/train.yaml).

Thin: it reads the config, has all of it checked before any weight is read, and puts the parts of the run together; what
is trained, and how, is in `training/`. Heavy imports wait until they are needed, so that `--help`, and a run that is done
already, are quick.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, read_write

from blink.runs.command import Job, hydra_command
from blink.runs.config.settings import made, plain, searched_by
from blink.runs.files import place_named
from blink.runs.folder import lock_run, open_run, run_folder
from blink.runs.inputs.preset_file import with_preset
from blink.runs.machine import is_first_process, one_job
from blink.runs.provenance import INPUTS, check_inputs, mixed, note_process, provenance
from blink.runs.signals import finishing_first
from blink.runs.values import UserError

if TYPE_CHECKING:
    from blink.training.plan import Plan
    from blink.training.report import Summary

log = logging.getLogger("blink.train")  # not __main__, which `python -m` calls it

TOKEN_SR = "token_sr"
"""Folder of the trained modules, in the run's folder."""

_EXPECTED_WARNINGS = (
    ".*does not have many workers.*",  # `workers` is the user's to set
    ".*smaller than the logging interval.*",  # a short run
    ".*LeafSpec.*deprecated.*",  # Lightning's own use of torch
)


@hydra_command("train", together=True)
def main(config: DictConfig, job: Job) -> float:
    """Train, or continue, or return a run; gives the held-out loss that its modules were trained for, which sweepers minimise."""
    from blink.training.report import print_summary

    overrides, given = job.overrides, job.given
    plan = planned(config, overrides)
    lock_run(plan.outputs, "train", overrides, given, wait=config.wait)
    summary = _finished(plan, overrides, given)
    if summary is None:
        with nullcontext() if job.sweep is None else _alone(job):
            summary = train(plan, overrides, None if job.sweep is None else job.sweep.name, given)
    if summary is None:
        if plan.trial:
            log.info("trainer.fast_dev_run: the steps ran, and nothing of them is kept")
        return float("nan")
    if is_first_process():
        print_summary(summary)
    return summary.held_out_loss


@contextmanager
def _alone(job: Job) -> Iterator[None]:
    """Context of a job of a multirun, whose further processes, which Lightning starts, run this job alone."""
    hydra_config = HydraConfig.get()
    if job.given is not None:
        with read_write(hydra_config):  # Lightning hands it to those processes
            hydra_config.run.dir = str(job.given)
    with one_job([*searched_by(hydra_config), *job.overrides]):
        yield


def planned(config: DictConfig, overrides: list[str]) -> Plan:
    """Check a config's values; nothing is read but a preset file.

    Raises:
        UserError: one does not fit.
    """
    from blink.training.plan import make_plan

    return make_plan(plain(with_preset(config, overrides), complete=True))


def check_job(config: DictConfig, overrides: list[str], *, here: bool) -> None:
    """Check a job of a multirun as far as it goes without reading pictures or weights; one that is done is not looked at.

    Args:
        here: whether it will run on this machine; else its values alone are checked.

    Raises:
        UserError: something does not fit.
    """
    from blink.training import parts
    from blink.training.report import SUMMARY

    plan = planned(config, overrides)
    folder = run_folder(plan.outputs, "train", overrides)
    if here and (plan.fresh or not (folder / SUMMARY).exists()):
        parts.check(plan, folder)


def train(
    plan: Plan, overrides: list[str], group: str | None = None, given: Path | None = None
) -> Summary | None:
    """Do what `plan` says in the run folder of `overrides`, and return the run's summary.

    What cannot work is a `UserError` before any weight is loaded.

    Args:
        group: name of the sweep that the run is a point of.
        given: the run's folder, where the user names one.

    Returns:
        None in all processes but the first, which gathers the measures.
    """
    from blink.model.views import quadrants
    from blink.runs.boards.board import Board
    from blink.runs.progress import draws_bars
    from blink.training import parts
    from blink.training.checkpoints import (
        CHECKPOINTS,
        checkpoint_to_continue,
        numbered_checkpoints,
        read_checkpoint,
    )
    from blink.training.dashboard import TrainingLines, TrainingMonitor, kl_chart
    from blink.training.data import PairData
    from blink.training.features.fill import FillFeatures, report_lacking
    from blink.training.order import check_position
    from blink.training.report import summarise

    if not is_first_process():
        logging.getLogger("blink").setLevel(logging.ERROR)  # one process reports for all
    for message in _EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message)
    # Whatever does not fit is found out now, before weights are read: of 7B, that takes minutes.
    outlined, trainer, images, references = parts.check(
        plan, run_folder(plan.outputs, "train", overrides, given)
    )
    folder = open_run(plan.outputs, "train", overrides, plan.config, fresh=plan.fresh, given=given)
    checkpoint = checkpoint_to_continue(
        folder / CHECKPOINTS, plan.start_from, parts.weight_shapes(plan, outlined)
    )
    prefix, views, stored, portions, left_out, questions = parts.find_images(
        plan, outlined, images, references, folder
    )
    # A run that was begun goes on only over the same backbone and images, in the same order.
    inputs = {
        "backbone": outlined.fingerprint.files,
        "revision": outlined.revision,
        "images": portions.train.content,
    }
    check_inputs(folder / INPUTS, inputs, begun=bool(numbered_checkpoints(folder / CHECKPOINTS)))
    record = provenance("train", overrides, seed=plan.seed, inputs=inputs)
    processes = note_process(folder, record)
    for warning in mixed(processes):
        log.warning("%s", warning)
    parts.check_length(plan, trainer, len(portions.train))
    if checkpoint is not None and checkpoint.is_file():
        check_position(read_checkpoint(checkpoint)["PairData"], portions.train.fingerprint, plan.seed)
    lacking = plan.layers if stored is None else report_lacking(stored, portions)
    of_run = {"folder": str(folder), "kind": "training", "group": group}
    board = Board() if plan.trial else made("logger", plan.config["logger"], Board, **of_run)

    with board, parts.fitting(trainer):
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it elsewhere
        if not draws_bars():
            callbacks.append(TrainingLines())
        trainer.logger = board.logger
        if board.logger is not None:
            board.settings(plan.config)
            first = portions.held_out.read(0)
            callbacks.append(TrainingMonitor(board, quadrants(views.seen(first), views.grid(first.size))))
        backbone = parts.load_trunk(plan, outlined, lacking) if lacking else outlined
        if stored is not None and lacking:
            fill = FillFeatures(stored, backbone, portions, views, batch_size=2, workers=plan.workers)
            callbacks.insert(0, fill)
            backbone = (
                outlined  # `fill` alone holds the weights, and lets go of them once all features are there
            )
        module = parts.training_module(plan, backbone, parts.load_norms(plan, outlined), references)
        data = PairData(
            portions.train,
            portions.held_out,
            views,
            stored=stored,
            questions=questions,
            global_pairs=plan.global_pairs,
            epochs=plan.epochs,
            accumulate=trainer.accumulate_grad_batches,
            workers=plan.workers,
            seed=plan.seed,
        )
        log.info(
            "training layer%s %s of %s on %d images (%d held out), in %s",
            "s" * (len(plan.layers) > 1),
            ", ".join(map(str, plan.layers)),
            plan.backbone,
            len(portions.train),
            len(portions.held_out),
            folder,
        )
        batches = trainer.accumulate_grad_batches
        log.info(
            "a step of %d pairs: %d device(s) x %d pairs at once x %d batch(es)",
            plan.global_pairs,
            trainer.world_size,
            plan.global_pairs // trainer.world_size // batches,
            batches,
        )
        started = time.monotonic()
        with finishing_first(), place_named(folder):
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
            steps = trainer.global_step
            if not steps:
                raise UserError(
                    "no optimizer step was made: trainer.max_time, or a callback, ended the run before"
                )
            if plan.trial:
                return None
            (metrics,) = trainer.validate(module, datamodule=data, verbose=False)
            trainer.strategy.barrier()  # no process leaves while another still measures
        log.info("%d steps in %.0f s", steps, time.monotonic() - started)
        if not trainer.is_global_zero:
            return None
        parts.save_modules(plan, outlined, prefix, module, folder / TOKEN_SR, steps)
        summary = summarise(
            metrics,
            plan.layers,
            steps=steps,
            train_images=len(portions.train),
            held_out_images=len(portions.held_out),
            unreadable_images=left_out.unreadable,
            narrow_images=left_out.narrow,
            backbone=plan.backbone,
            revision=outlined.revision,
            token_sr=str(folder / TOKEN_SR),
            provenance=record | {"earlier": processes[:-1]},
        )
        summary.write(folder)
        board.chart("held_out/kl_per_layer", kl_chart(summary))
        return summary


def _finished(plan: Plan, overrides: list[str], given: Path | None) -> Summary | None:
    """Return the summary of this very run if it is done already."""
    from blink.runs.inputs.pictures import Rules
    from blink.training.manifest import MANIFEST, changed_since
    from blink.training.report import SUMMARY, Summary, damaged_modules

    folder = run_folder(plan.outputs, "train", overrides, given)
    if plan.fresh or not (folder / SUMMARY).exists():
        return None
    # refuses if the config is another one
    open_run(plan.outputs, "train", overrides, plan.config, given=given)
    try:
        summary = Summary.read(folder)
    except UserError as error:
        log.warning("%s; it is made anew", error)
        return None
    damaged = damaged_modules(folder / TOKEN_SR, plan.layers)
    if damaged:
        log.warning("%s lacks %s, or they are damaged: made anew", folder / TOKEN_SR, ", ".join(damaged))
        return None
    log.info("this run is done (fresh=true starts a new one)")
    if changed_since(folder / MANIFEST, plan.roots, Rules.of(plan.config["data"], scaled=True)):
        log.warning("files of data.root are newer than this run, which is returned as it was")
    return summary


if __name__ == "__main__":
    main()
