"""The parts of a training run, made from its checked settings.

Reads settings, hands on flat typed arguments, and does nothing else.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blink.model.backbone import Backbone
from blink.model.checkpoints import load_backbone, load_input_norms
from blink.model.token_sr_files import save_token_sr
from blink.scenes.draw import SPLIT_SIZE, SceneImages
from blink.training.data import StoredFeatures
from blink.training.feature_fill import open_store
from blink.training.images import DrawnImages, Images, all_of
from blink.training.manifest import Portions, check_images, split
from blink.training.module import TokenSRTraining
from blink.training.settings import MANIFEST, Plan

_SCENES = 2000
"""Scenes to train on unless `images` says otherwise."""

_RECORDED = ("objective", "optimizer", "global_pairs", "epochs", "images", "data", "trainer", "seed")
"""Settings that a token_sr folder keeps."""


def image_portions(
    settings: dict[str, Any], images: Images | None, folder: Path, stored: StoredFeatures | None
) -> tuple[Portions, int]:
    """Return the images to train on and to measure on, and how many were left out as unreadable.

    What is readable is written down beside the stored features, for all runs that read these, or else in `folder`.

    Raises:
        ValueError: too many images are unreadable, or too few are left.
    """
    limit, held_out = settings["images"], settings["held_out"]
    if images is None:
        count = limit or _SCENES
        train, measured = (
            all_of(DrawnImages(SceneImages("token_sr", number, start), "scenes", start))
            for number, start in ((count, 0), (held_out, SPLIT_SIZE))
        )
        return Portions(train, measured), 0
    file = folder / MANIFEST if stored is None else stored.store.beside(images.fingerprint, MANIFEST)
    manifest = check_images(images, file)
    portions = split(images, manifest, held_out=held_out, limit=limit, seed=settings["seed"])
    return portions, len(manifest.unreadable)


def stored_features(
    settings: dict[str, Any], plan: Plan, processor: Any, prefix_ids_1P: Tensor
) -> StoredFeatures | None:
    """Open the folder of features that `data.cache_features` names.

    Raises:
        ValueError: it holds features that are not this run's.
    """
    model, folder = settings["model"], settings["data"]["cache_features"]
    if folder is None:
        return None
    dtype = plan.backbone.dtype if model["dtype"] == "auto" else getattr(torch, model["dtype"])
    store = open_store(Path(folder).expanduser(), plan.backbone, processor, prefix_ids_1P, dtype=dtype)
    return StoredFeatures(store, plan.layers, dtype)


def load_trunk(settings: dict[str, Any], plan: Plan, layers: Sequence[int]) -> Backbone:
    """Load as much of the backbone as the states that enter some layers need."""
    model = settings["model"]
    return load_backbone(
        plan.backbone,
        dtype=model["dtype"],
        attn_implementation=model["attn_implementation"],
        num_layers=max(layers),
        pad=model["pad"],
    )


def training_module(
    settings: dict[str, Any], plan: Plan, backbone: Backbone, prefix_ids_1P: Tensor
) -> TokenSRTraining:

    norms = None
    if settings["objective"]["space"] == "input_norm":
        norms = load_input_norms(plan.backbone, plan.layers)
    return TokenSRTraining(
        backbone,
        prefix_ids_1P,
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


def save_modules(
    settings: dict[str, Any], plan: Plan, module: TokenSRTraining, folder: Path, steps: int
) -> None:
    """Write the trained modules, and what they were trained for and how, as `blink.attach` loads them."""
    dtype = getattr(torch, settings["token_sr"]["dtype"])
    save_token_sr(
        {layer: copy.deepcopy(sr).to(dtype) for layer, sr in module.modules_by_layer.items()},
        folder,
        backbone=settings["model"]["path"],
        revision=plan.revision,
        objective="kl",
        steps=steps,
        prompt_prefix=plan.prefix,
        settings={key: settings[key] for key in _RECORDED},
    )
