"""`python -m blink.train`: train TokenSR modules from a Hydra config (conf/train.yaml).

Reads settings, checks them before heavy work, and puts the parts together; what is trained, and how, is in `module.py`
and `pairs.py`. Heavy imports wait until they are needed, so that `--help` is quick.
"""

from __future__ import annotations

import json
import logging
import time
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from blink.runs.command import hydra_command, one_line_errors, reject_added_keys
from blink.runs.files import write_json
from blink.runs.folder import INPUTS, check_inputs, open_run, run_folder
from blink.runs.machine import is_first_process
from blink.training.report import SUMMARY, print_summary, summarise
from blink.training.settings import CHECKPOINTS, MANIFEST, check, filled_in, image_source

if TYPE_CHECKING:
    from blink.runs.board import Board

log = logging.getLogger("blink.train")  # not __main__, which `python -m` calls it

TOKEN_SR = "token_sr"

_EXPECTED_WARNINGS = (
    ".*does not have many workers.*",  # `workers` is the user's to set
    ".*exists and is not empty.*",  # checkpoints of the run that is continued
    ".*smaller than the logging interval.*",  # a short run
    ".*LeafSpec.*deprecated.*",  # Lightning's own use of torch
)


@hydra_command("train")
def main(config: DictConfig) -> float:
    """Train, or continue, or return a run; gives the mean held-out KL of its modules, which sweepers minimise."""
    job = HydraConfig.get()
    overrides = list(job.overrides.task)
    with one_line_errors():
        reject_added_keys(overrides, open_groups=("trainer",))
        plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        settings = filled_in(plain)
        summary = _finished(settings, overrides)
    if summary is None:
        from blink.runs.machine import one_job

        with one_job(overrides) if job.mode == RunMode.MULTIRUN else nullcontext():
            group = Path(job.sweep.dir).name if job.mode == RunMode.MULTIRUN else None
            summary = train(settings, overrides, group)
    if is_first_process():
        print_summary(summary)
    mean_kl: float = summary["mean_kl_token_sr"]
    return mean_kl


def train(settings: dict[str, Any], overrides: list[str], group: str | None = None) -> dict[str, Any]:
    """Train what `settings` ask for in the run folder of `overrides`, and return the run's summary.

    With a `group` it is a point of the sweep of that name. Settings that cannot work end the process with one line
    before any weight is loaded.
    """
    from blink.model.checkpoints import load_processor
    from blink.model.views import ViewMaker, prefix_ids
    from blink.training.dashboard import TrainingWatch, kl_chart
    from blink.training.data import PairData, steps_per_epoch
    from blink.training.feature_fill import FillFeatures, report_lacking
    from blink.training.parts import (
        image_portions,
        load_trunk,
        save_modules,
        stored_features,
        training_module,
    )

    if not is_first_process():
        logging.getLogger("blink").setLevel(logging.ERROR)  # one process tells the story
    for message in _EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message)
    model = settings["model"]
    with one_line_errors():
        plan = check(settings, run_folder(Path(settings["outputs"]), "train", overrides))
        folder = open_run(Path(settings["outputs"]), "train", overrides, settings, fresh=settings["fresh"])
        checkpoint = _checkpoint(settings, folder)
        processor = load_processor(model["path"], revision=model["revision"], pad=model["pad"])
        ids, views = prefix_ids(processor, plan.prefix), ViewMaker(processor)
        stored = stored_features(settings, plan, processor, ids)
        portions, unreadable = image_portions(settings, plan.images, folder, stored)
        inputs = {**plan.inputs, "images": portions.train.content}
        check_inputs(folder / INPUTS, inputs, begun=any(folder.glob(f"{CHECKPOINTS}/*.ckpt")))
        steps_per_epoch(len(portions.train), settings["global_pairs"])
        lacking = plan.layers if stored is None else report_lacking(stored, portions)
        board: Board = instantiate(settings["logger"], folder=str(folder), kind="training", group=group)

    with board:
        trainer = plan.trainer
        trainer.logger = board.logger
        if board.logger is not None:
            board.settings(settings)
            trainer.callbacks.append(TrainingWatch(board, views(portions.held_out.read(0))))  # type: ignore[attr-defined]
        backbone = load_trunk(settings, plan, lacking) if lacking else None
        if stored is not None and backbone is not None:
            fill = FillFeatures(
                stored, backbone, ids, portions, views, at_once=2, workers=settings["workers"]
            )
            trainer.callbacks.insert(0, fill)  # type: ignore[attr-defined]  # Lightning sets it elsewhere
            backbone = None  # it alone holds the weights, and lets go of them
        module = training_module(settings, plan, backbone or plan.backbone, ids)
        data = PairData(
            portions.train,
            portions.held_out,
            views,
            stored=stored,
            global_pairs=settings["global_pairs"],
            epochs=settings["epochs"],
            accumulate=trainer.accumulate_grad_batches,
            workers=settings["workers"],
            seed=settings["seed"],
        )
        log.info(
            "training layers %s of %s on %d images (%d held out), in %s",
            ", ".join(map(str, plan.layers)),
            model["path"],
            len(portions.train),
            len(portions.held_out),
            folder,
        )
        started = time.monotonic()
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        steps = trainer.global_step
        (metrics,) = trainer.validate(module, datamodule=data, verbose=False)
        trainer.strategy.barrier()  # no process leaves while another still measures
        log.info("%d steps in %.0f s", steps, time.monotonic() - started)
        if not trainer.is_global_zero:
            return {
                "mean_kl_token_sr": float("nan")
            }  # measures are gathered and reported by the first process
        save_modules(settings, plan, module, folder / TOKEN_SR, steps)
        facts = {
            "steps": steps,
            "train_images": len(portions.train),
            "held_out_images": len(portions.held_out),
            "unreadable_images": unreadable,
            "backbone": model["path"],
            "revision": plan.revision,
            "token_sr": str(folder / TOKEN_SR),
        }
        summary = summarise(metrics, plan.layers, facts)
        write_json(folder / SUMMARY, summary)
        board.chart("held_out/kl_per_layer", kl_chart(summary))
        return summary


def _finished(settings: dict[str, Any], overrides: list[str]) -> dict[str, Any] | None:
    """Return the summary of this very run if it is done already."""
    root = Path(settings["outputs"])
    file = run_folder(root, "train", overrides) / SUMMARY
    if settings["fresh"] or not file.exists():
        return None
    open_run(root, "train", overrides, settings)  # refuses if the config is another one
    log.info("this run is done (fresh=true starts a new one)")
    if _newer_images(settings, run_folder(root, "train", overrides)):
        log.warning("files of data.root are newer than this run, which is returned as it was")
    summary: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return summary


def _newer_images(settings: dict[str, Any], folder: Path) -> bool:
    """Whether images on disk, where they are still there, are not as they were when a run checked them."""
    manifest = folder / MANIFEST
    if settings["data"]["root"] is None or not manifest.exists():
        return False
    try:
        images = image_source(settings)
    except ValueError:
        return False
    kept = json.loads(manifest.read_text(encoding="utf-8"))["fingerprint"]
    return images is not None and images.fingerprint != kept


def _checkpoint(settings: dict[str, Any], folder: Path) -> str | None:
    """Return the checkpoint to continue from: the newest of this run, else the file that `ckpt` names, else none.

    Raises:
        ValueError: there is none where `ckpt` points.
    """
    by_step = {
        int(path.stem.removeprefix("step-")): path for path in folder.glob(f"{CHECKPOINTS}/step-*.ckpt")
    }
    if by_step:
        log.info("continuing from step %d", max(by_step))
        return str(by_step[max(by_step)])
    if settings["ckpt"] == "last":
        return None
    named = Path(str(settings["ckpt"]))
    if not named.is_file():
        raise ValueError(f"ckpt={named} does not exist; expected a checkpoint file, or last")
    return str(named)


if __name__ == "__main__":
    main()
