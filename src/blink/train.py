"""`python -m blink.train`: train TokenSR modules from a Hydra config (conf/train.yaml).

Reads settings, checks them before heavy work, and wires the parts together; what is trained, and how, is in
`module.py` and `pairs.py`. Heavy imports wait until they are needed, so that `--help` is quick.
"""

from __future__ import annotations

import copy
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

from blink.keys import hydra_command
from blink.outputs import (
    is_first_process,
    one_line_errors,
    open_run,
    reject_added_keys,
    run_folder,
    write_json,
)
from blink.report import SUMMARY, print_summary, summarise
from blink.settings import CHECKPOINTS, Plan, check, filled_in

if TYPE_CHECKING:
    from blink.checkpoints import LoadedBackbone
    from blink.images import Images
    from blink.manifest import Portions
    from blink.module import TokenSRTraining

log = logging.getLogger(__name__)

TOKEN_SR = "token_sr"
MANIFEST = "manifest.json"

_SCENES = 2000
"""Scenes to train on unless `images` says otherwise."""

_EXPECTED_WARNINGS = (
    ".*does not have many workers.*",  # `workers` is the user's to set
    ".*exists and is not empty.*",  # checkpoints of the run that is continued
    ".*smaller than the logging interval.*",  # a short run
    ".*LeafSpec.*deprecated.*",  # Lightning's own use of torch
)

_RECORDED = ("objective", "optimizer", "global_pairs", "epochs", "images", "data", "trainer", "seed")
"""Settings that a token_sr folder keeps."""


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
        from blink.processes import one_job

        with one_job(overrides) if job.mode == RunMode.MULTIRUN else nullcontext():
            summary = train(settings, overrides)
    if is_first_process():
        print_summary(summary)
    mean_kl: float = summary["mean_kl_token_sr"]
    return mean_kl


def train(settings: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Train what `settings` ask for in the run folder of `overrides`, and return the run's summary.

    Settings that cannot work end the process with one line before any weight is loaded.
    """
    from blink.checkpoints import load_backbone
    from blink.pairs import PairData, steps_per_epoch
    from blink.tracking import close
    from blink.views import ViewMaker

    if not is_first_process():
        logging.getLogger("blink").setLevel(logging.WARNING)  # one process tells the story
    for message in _EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message)
    with one_line_errors():
        plan = check(settings, run_folder(Path(settings["outputs"]), "train", overrides))
        folder = open_run(Path(settings["outputs"]), "train", overrides, settings, fresh=settings["fresh"])
        checkpoint = _checkpoint(settings, folder)
        portions, unreadable = _portions(settings, plan.images, folder)
        steps_per_epoch(len(portions.train), settings["global_pairs"])
        logger = instantiate(settings["logger"], folder=str(folder))

    trainer = plan.trainer
    trainer.logger = logger
    model = settings["model"]
    loaded = load_backbone(
        model["path"],
        revision=model["revision"],
        dtype=model["dtype"],
        attn_implementation=model["attn_implementation"],
        num_layers=max(plan.layers),
        pad=model["pad"],
    )
    module = _module(settings, plan, loaded)
    data = PairData(
        portions.train,
        portions.held_out,
        ViewMaker(loaded.processor),
        global_pairs=settings["global_pairs"],
        epochs=settings["epochs"],
        accumulate=trainer.accumulate_grad_batches,
        workers=settings["workers"],
        seed=settings["seed"],
    )
    log.info(
        "training layers %s of %s on %d images (%d held out), in %s",
        ", ".join(map(str, plan.layers)),
        loaded.name,
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
        return {"mean_kl_token_sr": float("nan")}  # measures are gathered and reported by the first process
    _save_modules(settings, plan, loaded, module, folder / TOKEN_SR, steps)
    facts = {
        "steps": steps,
        "train_images": len(portions.train),
        "held_out_images": len(portions.held_out),
        "unreadable_images": unreadable,
        "backbone": loaded.name,
        "revision": loaded.revision,
        "token_sr": str(folder / TOKEN_SR),
    }
    summary = summarise(metrics, plan.layers, facts)
    write_json(folder / SUMMARY, summary)
    if logger is not None:
        logger.log_metrics(metrics, step=steps)
    close(logger)
    return summary


def _finished(settings: dict[str, Any], overrides: list[str]) -> dict[str, Any] | None:
    """Return the summary of this very run if it is done already."""
    root = Path(settings["outputs"])
    file = run_folder(root, "train", overrides) / SUMMARY
    if settings["fresh"] or not file.exists():
        return None
    open_run(root, "train", overrides, settings)  # refuses if the config is another one
    log.info("this run is done (fresh=true starts a new one)")
    summary: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return summary


def _portions(settings: dict[str, Any], images: Images | None, folder: Path) -> tuple[Portions, int]:
    """Return the images to train on and to measure on, and how many were left out as unreadable.

    Raises:
        ValueError: too many images are unreadable, or too few are left.
    """
    from blink.images import DrawnImages, all_of
    from blink.manifest import Portions, check_images, split

    limit, held_out = settings["images"], settings["held_out"]
    if images is None:
        from blink.scenes import SPLIT_SIZE, SceneImages

        count = limit or _SCENES
        drawn = (("train", count, 0), ("held out", held_out, SPLIT_SIZE))
        train, measured = (
            all_of(DrawnImages(SceneImages("token_sr", number, start), f"scenes {start} + {number}"))
            for _, number, start in drawn
        )
        return Portions(train, measured), 0
    manifest = check_images(images, folder / MANIFEST)
    portions = split(images, manifest.readable, held_out=held_out, limit=limit, seed=settings["seed"])
    return portions, len(manifest.unreadable)


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


def _module(settings: dict[str, Any], plan: Plan, loaded: LoadedBackbone) -> TokenSRTraining:
    from blink.backbone import Backbone
    from blink.checkpoints import load_input_norms
    from blink.module import TokenSRTraining
    from blink.views import prefix_ids

    norms = None
    if settings["objective"]["space"] == "input_norm":
        norms = load_input_norms(
            settings["model"]["path"], plan.layers, revision=settings["model"]["revision"]
        )
    return TokenSRTraining(
        Backbone(loaded.model),
        prefix_ids(loaded.processor, plan.prefix),
        plan.layers,
        hidden=settings["token_sr"]["hidden"],
        kernels=settings["token_sr"]["kernels"],
        learning_rate=settings["optimizer"]["learning_rate"],
        weight_decay=settings["optimizer"]["weight_decay"],
        warmup=settings["optimizer"]["warmup"],
        temperature=settings["objective"]["temperature"],
        norms=norms,
        references=plan.references,
        seed=settings["seed"],
    )


def _save_modules(
    settings: dict[str, Any],
    plan: Plan,
    loaded: LoadedBackbone,
    module: TokenSRTraining,
    folder: Path,
    steps: int,
) -> None:
    """Write the trained modules, and what they were trained for and how, as `blink.attach` loads them."""
    import torch

    from blink.token_sr import save_token_sr

    dtype = getattr(torch, settings["token_sr"]["dtype"])
    save_token_sr(
        {layer: copy.deepcopy(sr).to(dtype) for layer, sr in module.modules_by_layer.items()},
        folder,
        backbone=loaded.name,
        revision=loaded.revision,
        objective="kl",
        steps=steps,
        prompt_prefix=plan.prefix,
        settings={key: settings[key] for key in _RECORDED},
    )


if __name__ == "__main__":
    main()
