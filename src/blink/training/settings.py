"""What a training command asks for, checked before any weight is loaded.

Reads settings as plain containers and hands on typed ones; a setting that cannot work is a ValueError that says
so. Heavy imports wait until they are needed.
"""

from __future__ import annotations

import copy
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hydra.utils import instantiate

from blink.inference.policy import parse_layers

if TYPE_CHECKING:
    from lightning import Trainer

    from blink.model.backbone import Backbone
    from blink.model.token_sr import TokenSR
    from blink.training.images import Images

CHECKPOINTS = "checkpoints"
"""Folder of a run's checkpoints, in its folder."""

MANIFEST = "manifest.json"
"""Which of the images are readable."""

_BY_BACKBONE: dict[str, dict[tuple[str, str], float]] = {
    "tiny": {("optimizer", "learning_rate"): 1e-3, ("objective", "temperature"): 50.0},
    "others": {("optimizer", "learning_rate"): 1e-4, ("objective", "temperature"): 1.0},
}
"""What null stands for. Others: the paper (Table 4). The states of tiny are some hundred long in few channels,
so that their softmax at temperature 1 is one channel, and modules that match it alone lose the direction."""

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
    ("model", "device_map", (None,)),
    ("model", "dtype", ("float32", "bfloat16", "float16", "auto")),
    ("model", "pad", (True, False, None)),
)


class Plan(NamedTuple):
    """A run whose settings were checked: what remains is the work.

    Attributes:
        layers: to train.
        backbone: without weights.
        prefix: the prompt before the image.
        trainer: knows how many processes there are; has no logger yet.
        images: where they come from, not yet looked into; None for scenes.
        references: modules trained earlier, of some of the layers.
        inputs: what the modules follow from beyond the config and the images, by which a changed backbone is noticed.
    """

    layers: tuple[int, ...]
    backbone: Backbone
    prefix: str
    trainer: Trainer
    images: Images | None
    references: dict[int, TokenSR]
    inputs: dict[str, Any]

    @property
    def revision(self) -> str | None:
        """Commit of the backbone on the hub; None for a folder."""
        return self.backbone.revision


def filled_in(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings with what null stands for on their backbone, by its path."""
    filled = copy.deepcopy(settings)
    values = _BY_BACKBONE["tiny" if settings["model"]["path"] == "tiny" else "others"]
    for (group, key), value in values.items():
        if filled[group][key] is None:
            filled[group][key] = value
    return filled


def check(settings: dict[str, Any], folder: Path) -> Plan:
    """Check all settings that can be checked without weights and without reading images.

    Raises:
        ValueError: one of them cannot work.
    """
    import torch

    from blink.model.checkpoints import outline, pads
    from blink.model.prompts import template_named
    from blink.model.token_sr import TokenSR, check_patches
    from blink.training.data import images_per_batch

    _check_values(settings)
    model = settings["model"]
    layers = parse_layers(settings["layer"])
    prefix = template_named(model["template"]).prefix
    backbone = outline(model["path"], revision=model["revision"])
    pads(backbone.family, model["pad"])
    if layers[-1] >= backbone.num_layers:
        raise ValueError(
            f"layer={settings['layer']}: {model['path']} has layers 0 to {backbone.num_layers - 1}"
        )
    check_patches(2, backbone.grid)
    with torch.device("meta"):
        TokenSR(backbone.hidden_size, settings["token_sr"]["hidden"], settings["token_sr"]["kernels"])
    trainer = _trainer(settings, folder, layers)
    images_per_batch(settings["global_pairs"], trainer.world_size, trainer.accumulate_grad_batches)
    inputs = {
        "backbone": backbone.fingerprint.files,
        "revision": backbone.revision,
    }
    return Plan(
        layers=layers,
        backbone=backbone,
        prefix=prefix,
        trainer=trainer,
        images=image_source(settings),
        references=_references(settings, layers, backbone.hidden_size),
        inputs=inputs,
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
            raise ValueError(f"{group}.{key}={value!r}: expected one of {', '.join(map(str, choices))}")

    for key in ("hidden", "kernels"):
        value = settings["token_sr"][key]
        if not (value is None and key == "hidden") and not _is_list_of(value, int):
            raise ValueError(f"token_sr.{key}={value!r}: expected a list of whole numbers, as [5,3,1]")
    root = settings["data"]["root"]
    if root is None and settings["data"]["source"] == "scenes":
        _check_scenes(settings)
    of_data_set = [key for key in ("id", "name", "column") if settings["data"].get(key) is not None]
    if root is not None and of_data_set:
        raise ValueError(
            f"data.root={root} and data.{of_data_set[0]}={settings['data'][of_data_set[0]]} are both given; images come "
            "from files or from a data set"
        )
    if root is not None and not isinstance(root, str) and not _is_list_of(root, str):
        raise ValueError(f"data.root={root!r}: expected a path, or a list of paths")
    cache = settings["data"]["cache_features"]
    if cache is not None and not isinstance(cache, str):
        raise ValueError(f"data.cache_features={cache!r}: expected a folder")
    accumulate = settings["trainer"]["accumulate_grad_batches"]
    if type(accumulate) is not int or accumulate < 1:
        raise ValueError(
            f"trainer.accumulate_grad_batches={accumulate!r}: expected a whole number of at least 1"
        )


def _check_scenes(settings: dict[str, Any]) -> None:
    """Raise ValueError for more scenes than there are: those held out come after those trained on."""
    from blink.scenes.draw import SPLIT_SIZE

    for key in ("images", "held_out"):
        if (settings[key] or 0) > SPLIT_SIZE:
            raise ValueError(f"{key}={settings[key]}: data=scenes has {SPLIT_SIZE:,} pictures for it")


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(type(item) is kind for item in value)


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
    for chatty in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.distributed"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        trainer: Trainer = instantiate(
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


def image_source(settings: dict[str, Any]) -> Images | None:
    """Open where images come from; None for scenes, which are drawn.

    Raises:
        ValueError: there is no such source, or nothing in it.
    """
    from blink.training.images import hub_images, local_images

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
    from blink.model.fingerprint import TINY
    from blink.model.token_sr_files import load_token_sr

    if settings["reference"] is None:
        return {}
    earlier = load_token_sr(TINY / "token_sr" if settings["reference"] == "tiny" else settings["reference"])
    shared = {layer: earlier[layer] for layer in layers if layer in earlier}
    if not shared:
        raise ValueError(f"reference={settings['reference']} has modules of layers {sorted(earlier)} only")
    widths = {module.channels for module in shared.values()}
    if widths != {width}:
        raise ValueError(
            f"reference={settings['reference']}: width {widths.pop()}; the backbone's is {width}"
        )
    return shared
