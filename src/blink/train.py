"""`python -m blink.train`: train TokenSR modules from a Hydra config (conf/train.yaml).

Reads settings, checks them before heavy work, and wires the parts together; what is trained, and how, is in
`module.py` and `pairs.py`. Heavy imports wait until they are needed, so that `--help` is quick.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import time
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from blink.outputs import (
    CONF_DIR,
    is_first_process,
    one_line_errors,
    open_run,
    reject_added_keys,
    run_folder,
    write_json,
)
from blink.policy import parse_layers
from blink.report import SUMMARY, print_summary, summarise

if TYPE_CHECKING:
    from lightning import Trainer

    from blink.checkpoints import LoadedBackbone
    from blink.images import Images
    from blink.manifest import Portions
    from blink.module import TokenSRTraining
    from blink.token_sr import TokenSR

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
TOKEN_SR = "token_sr"
MANIFEST = "manifest.json"

_SCENES = 2000
"""Scenes to train on unless `images` says otherwise."""

_FIRST_HELD_OUT_SCENE = 1_000_000
"""The same scenes are held out however many are trained on."""

_EXPECTED_WARNINGS = (
    ".*does not have many workers.*",  # `workers` is the user's to set
    ".*exists and is not empty.*",  # checkpoints of the run that is continued
    ".*smaller than the logging interval.*",  # a short run
    ".*LeafSpec.*deprecated.*",  # Lightning's own use of torch
)

_RECORDED = ("objective", "optimizer", "global_pairs", "epochs", "images", "data", "trainer", "seed")
"""Settings that a token_sr folder keeps."""

_LEAST = {
    "images": 1,
    "held_out": 1,
    "epochs": 1,
    "global_pairs": 4,
    "workers": 0,
    "seed": 0,
    "checkpoint_every": 1,
}

_NUMBERS = (
    ("optimizer", "learning_rate", 0, math.inf),
    ("optimizer", "weight_decay", 0, math.inf),
    ("optimizer", "warmup", 0, 1),
    ("objective", "temperature", 0.01, math.inf),
)

_CHOICES = (
    ("objective", "space", ("hidden", "input_norm")),
    ("token_sr", "dtype", ("float32", "bfloat16", "float16")),
    ("model", "device", ("auto",)),  # training takes trainer.accelerator and trainer.devices
)


class Plan(NamedTuple):
    """A run whose settings were checked: what remains is the work.

    Attributes:
        layers: to train.
        prefix: the prompt before the image.
        trainer: knows how many processes there are; has no logger yet.
        images: where they come from, not yet looked into; None for scenes.
        references: modules trained earlier, of some of the layers.
    """

    layers: tuple[int, ...]
    prefix: str
    trainer: Trainer
    images: Images | None
    references: dict[int, TokenSR]


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="train")
def main(config: DictConfig) -> float:
    """Train, or continue, or return a run; gives the mean held-out KL of its modules, which sweepers minimise."""
    job = HydraConfig.get()
    overrides = list(job.overrides.task)
    with one_line_errors():
        reject_added_keys(overrides, open_groups=("trainer",))
        settings: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
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

    for message in _EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message)
    with one_line_errors():
        plan = _checked(settings, run_folder(Path(settings["outputs"]), "train", overrides))
        folder = open_run(Path(settings["outputs"]), "train", overrides, settings, fresh=settings["fresh"])
        checkpoint = _checkpoint(settings, folder)
        portions, unreadable = _portions(settings, plan.images, folder)
        steps_per_epoch(len(portions.train), settings["global_pairs"])
        logger = hydra.utils.instantiate(settings["logger"], folder=str(folder))

    trainer = plan.trainer
    trainer.logger = logger
    model = settings["model"]
    loaded = load_backbone(
        model["path"],
        revision=model["revision"],
        dtype=model["dtype"],
        attn_implementation=model["attn_implementation"],
        num_layers=max(plan.layers),
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


def _checked(settings: dict[str, Any], folder: Path) -> Plan:
    """Check all settings that can be checked without weights and without reading images.

    Raises:
        ValueError: one of them cannot work.
    """
    import torch

    from blink.checkpoints import outline
    from blink.pairs import images_per_batch
    from blink.prompts import template_named
    from blink.token_sr import TokenSR, check_patches

    _check_values(settings)
    model = settings["model"]
    layers = parse_layers(settings["layer"])
    prefix = template_named(model["template"]).prefix
    backbone = outline(model["path"], revision=model["revision"])
    if layers[-1] >= backbone.num_layers:
        raise ValueError(
            f"layer={settings['layer']}: {model['path']} has layers 0 to {backbone.num_layers - 1}"
        )
    check_patches(2, backbone.grid)
    with torch.device("meta"):
        TokenSR(backbone.hidden_size, settings["token_sr"]["hidden"], settings["token_sr"]["kernels"])
    trainer = _trainer(settings, folder, layers)
    images_per_batch(settings["global_pairs"], trainer.world_size, trainer.accumulate_grad_batches)
    return Plan(
        layers, prefix, trainer, _image_source(settings), _references(settings, layers, backbone.hidden_size)
    )


def _check_values(settings: dict[str, Any]) -> None:
    """Raise ValueError for a value of the wrong type or out of range."""
    for key, least in _LEAST.items():
        value = settings[key]
        if not (value is None and key == "images") and (type(value) is not int or value < least):
            raise ValueError(f"{key}={value!r}: expected a whole number of at least {least}")
    for group, key, low, high in _NUMBERS:
        value = settings[group][key]
        if type(value) not in (int, float) or not low <= value <= high:
            raise ValueError(f"{group}.{key}={value!r}: expected a number in [{low}, {high}]")
    for group, key, choices in _CHOICES:
        value = settings[group][key]
        if value not in choices:
            raise ValueError(f"{group}.{key}={value!r}: expected one of {', '.join(choices)}")


def _trainer(settings: dict[str, Any], folder: Path, layers: tuple[int, ...]) -> Trainer:
    """Make the trainer that `conf/trainer` describes.

    Raises:
        ValueError: Lightning refuses the settings on this machine.
    """
    from hydra.errors import InstantiationException
    from lightning.pytorch.accelerators import CUDAAccelerator
    from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
    from lightning.pytorch.strategies import DeepSpeedStrategy

    chosen = dict(settings["trainer"])
    chosen["precision"] = _precision(chosen["precision"], chosen["accelerator"])
    callbacks: list[Any] = [
        ModelCheckpoint(
            dirpath=folder / CHECKPOINTS,
            filename="step-{step}",
            auto_insert_metric_name=False,
            every_n_train_steps=settings["checkpoint_every"],
            save_on_train_epoch_end=False,
        )
    ]
    if chosen["enable_progress_bar"]:
        callbacks.append(RichProgressBar())
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    try:
        trainer: Trainer = hydra.utils.instantiate(
            chosen,
            callbacks=callbacks,
            logger=False,
            default_root_dir=str(folder),
            max_epochs=1,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            enable_model_summary=False,
        )
    except InstantiationException as error:
        raise ValueError(f"trainer: {error.__cause__ or error}") from error
    if type(trainer.strategy) is DeepSpeedStrategy and not isinstance(trainer.accelerator, CUDAAccelerator):
        raise ValueError("trainer=deepspeed needs CUDA GPUs; trainer=ddp_cpu runs two processes on CPUs")
    if isinstance(trainer.strategy, DeepSpeedStrategy) and trainer.gradient_clip_val and len(layers) > 1:
        raise ValueError(
            "trainer.gradient_clip_val with DeepSpeed clips all layers as one, which couples them; "
            "train one layer at a time, or use trainer=ddp"
        )
    return trainer


def _precision(precision: str, accelerator: str) -> str:
    """Resolve "auto": bf16 where a GPU of this machine has it and is used, else float32."""
    import torch

    if precision != "auto":
        return precision
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported() else "32-true"


def _image_source(settings: dict[str, Any]) -> Images | None:
    """Open where images come from; None for scenes, which are drawn.

    Raises:
        ValueError: there is no such source, or nothing in it.
    """
    from blink.images import hub_images, local_images

    data = settings["data"]
    if data["root"] is not None:
        places = data["root"] if isinstance(data["root"], list) else [data["root"]]
        return local_images([Path(place).expanduser() for place in places])
    if data["source"] == "hub":
        if data["id"] is None:
            raise ValueError("data=hub needs data.id, the id of a data set on the hub or a folder of one")
        return hub_images(data["id"], name=data["name"], split=data["split"], column=data["column"])
    if data["source"] != "scenes":
        raise ValueError(f"data.source={data['source']!r} needs data.root, a folder of images")
    return None


def _references(settings: dict[str, Any], layers: tuple[int, ...], width: int) -> dict[int, TokenSR]:
    """Load the modules that are measured beside the new ones.

    Raises:
        ValueError: there are none for any of the layers, or they are of another width.
    """
    from blink.token_sr import load_token_sr

    if settings["reference"] is None:
        return {}
    earlier = load_token_sr(settings["reference"])
    shared = {layer: earlier[layer] for layer in layers if layer in earlier}
    if not shared:
        raise ValueError(f"reference={settings['reference']} has modules of layers {sorted(earlier)} only")
    widths = {module.channels for module in shared.values()}
    if widths != {width}:
        raise ValueError(
            f"reference={settings['reference']}: width {widths.pop()}; the backbone's is {width}"
        )
    return shared


def _portions(settings: dict[str, Any], images: Images | None, folder: Path) -> tuple[Portions, int]:
    """Return the images to train on and to measure on, and how many were left out as unreadable.

    Raises:
        ValueError: too many images are unreadable, or too few are left.
    """
    from blink.images import DrawnImages, all_of
    from blink.manifest import Portions, check_images, split

    limit, held_out = settings["images"], settings["held_out"]
    if images is None:
        from blink.scenes import SceneImages

        count = limit or _SCENES
        drawn = (("train", count, 0), ("held out", held_out, _FIRST_HELD_OUT_SCENE))
        train, measured = (
            all_of(DrawnImages(SceneImages("token_sr", number, start), f"scenes {start} + {number}"))
            for _, number, start in drawn
        )
        return Portions(train, measured), 0
    manifest = check_images(images, folder / MANIFEST)
    portions = split(images, manifest.readable, held_out=held_out, limit=limit, seed=settings["seed"])
    return portions, len(manifest.unreadable)


def _checkpoint(settings: dict[str, Any], folder: Path) -> str | None:
    """Return the checkpoint to continue from: the newest of this run, the one that `ckpt` names, or none.

    Raises:
        ValueError: there is none where `ckpt` points.
    """
    if settings["ckpt"] not in ("last", None):
        named = Path(settings["ckpt"])
        if not named.exists():
            raise ValueError(f"ckpt={named} does not exist; expected a checkpoint file, or last")
        return str(named)
    if settings["fresh"] or settings["ckpt"] is None:
        return None
    by_step = {
        int(path.stem.removeprefix("step-")): path for path in folder.glob(f"{CHECKPOINTS}/step-*.ckpt")
    }
    if not by_step:
        return None
    log.info("continuing from step %d", max(by_step))
    return str(by_step[max(by_step)])


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
