"""Makes the trainer, images, features and module of a training run from its plan; what needs no weights is checked first.

A file of its own, since `plan.py` imports neither torch nor Lightning.
"""

import copy
import logging
import math
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning import Callback, Trainer
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.strategies import DeepSpeedStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from blink.model.backbone import Backbone
from blink.model.checkpoints import check_attention, load_backbone, load_input_norms, outline
from blink.model.fingerprint import TINY
from blink.model.processors import check_picture_options
from blink.model.prompts import Template
from blink.model.token_sr import Design, check_patches, design_of, make_token_sr
from blink.model.token_sr_files import load_token_sr, save_token_sr, token_sr_config
from blink.model.views import PATCHES, ViewMaker
from blink.runs.command import made
from blink.runs.inputs.pictures import Rules
from blink.runs.machine import memory_bytes
from blink.runs.values import NotFiniteError, UserError
from blink.scenes.draw import SIZE, SPLIT_SIZE, SceneImages
from blink.training.answers.lessons import LessonMaker
from blink.training.answers.questions import SceneQuestions, questions_by_image, with_questions
from blink.training.checkpoints import CHECKPOINTS, CheckpointFiles, Checkpoints
from blink.training.data import Questions, StoredFeatures, images_per_batch, steps_per_epoch
from blink.training.feature_fill import open_store
from blink.training.feature_store import in_words
from blink.training.features import layers_read
from blink.training.images import (
    DrawnImages,
    Images,
    ImageSubset,
    annotations_of,
    hub_images,
    local_images,
)
from blink.training.manifest import MANIFEST, Portions, check_images, split
from blink.training.module import TokenSRTraining
from blink.training.plan import Plan

log = logging.getLogger(__name__)

_SCENES = 2000
"""Scenes to train on unless `images` says otherwise."""

_RECORDED = (
    "token_sr",
    "positions",
    "patches",
    "objective",
    "optimizer",
    "global_pairs",
    "epochs",
    "images",
    "data",
    "trainer",
    "seed",
)
"""Keys of the config that a token_sr folder keeps."""


def outlined_backbone(plan: Plan) -> Backbone:
    """Return the backbone without weights.

    Raises:
        ValueError: there is none, it lacks a layer, its grid has no quadrants, or the modules' widths do not fit.
    """
    check_attention(plan.attn_implementation)
    outlined = outline(plan.backbone, revision=plan.revision)
    check_picture_options(outlined.model.config, **plan.pictures)
    if plan.layers[-1] >= outlined.num_layers:
        raise UserError(
            f"layer={plan.config['layer']}: {plan.backbone} has layers 0 to {outlined.num_layers - 1}"
        )
    if outlined.grid is not None:
        check_patches(PATCHES, outlined.grid)
        check_patches(plan.patches, outlined.grid)
    weight_shapes(plan, outlined)
    return outlined


def weight_shapes(plan: Plan, outlined: Backbone) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of all that is trained, as checkpoints hold it.

    Raises:
        UserError: sizes do not fit the kind or each other, or are far too large.
    """
    weights = outlined_module(plan, outlined).state_dict()
    return {
        f"token_sr.{layer}.{name}": tuple(weight.shape)
        for layer in plan.layers
        for name, weight in weights.items()
    }


def outlined_module(plan: Plan, outlined: Backbone) -> Design:
    """Return a module of the run's kind and sizes, without weights.

    Raises:
        UserError: sizes do not fit the kind or each other, or are far too large.
    """
    try:
        with torch.device("meta"):
            return make_token_sr(plan.kind, outlined.hidden_size, plan.sizes)
    except UserError as error:
        raise UserError(f"token_sr.{error}") from error


def make_trainer(plan: Plan, folder: Path) -> Trainer:
    """Return a trainer without a logger, which knows how many processes there are.

    Args:
        folder: of the run; not made here.

    Raises:
        ValueError: Lightning refuses the settings on this machine, or the processes cannot share the pairs out.
    """
    arguments = dict(plan.trainer)
    arguments["precision"] = _precision(arguments["precision"], arguments["accelerator"])
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
    images_per_batch(plan.global_pairs, trainer.world_size, trainer.accumulate_grad_batches)
    trainer.strategy.checkpoint_io = CheckpointFiles()
    return trainer


@contextmanager
def settings_refused_late() -> Iterator[None]:
    """Context in which settings that Lightning refuses only once it trains are a user's mistake all the same.

    Raises:
        UserError: in place of Lightning's error.
    """
    try:
        yield
    except MisconfigurationException as error:
        raise UserError(f"trainer, callbacks or logger: {error}") from error


@contextmanager
def ending_children(trainer: Trainer) -> Iterator[None]:
    """Context that, after an error, ends the processes that the trainer has started: they would wait for this one."""
    try:
        yield
    except BaseException:
        launcher: Any = trainer.strategy.launcher
        if hasattr(launcher, "kill"):
            launcher.kill(signal.SIGKILL)
        raise


def _added_callbacks(plan: Plan) -> list[Callback]:
    """Make the callbacks that the user adds.

    Raises:
        UserError: one is no callback, or refuses its arguments.
    """
    return [made(f"callbacks.{name}", config, Callback) for name, config in plan.callbacks.items()]


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


def load_references(plan: Plan, width: int) -> dict[int, Design]:
    """Load the modules that are measured beside the new ones: of those layers that are trained, and no others.

    Raises:
        ValueError: there are none for any of the layers, or they are of another width.
    """
    if plan.reference is None:
        return {}
    folder = TINY / "token_sr" if plan.reference == "tiny" else plan.reference
    earlier = token_sr_config(folder)
    shared = [layer for layer in plan.layers if layer in earlier.layers]
    if not shared:
        raise UserError(f"reference={plan.reference} has modules of layers {sorted(earlier.layers)} only")
    if earlier.channels != width:
        raise UserError(f"reference={plan.reference}: width {earlier.channels}; the backbone's is {width}")
    modules = load_token_sr(folder, layers=shared)
    for layer, module in modules.items():
        if not all(weight.isfinite().all() for weight in module.state_dict().values()):
            raise NotFiniteError(f"weights of reference={plan.reference}", layer=layer)
    return modules


def open_images(plan: Plan) -> Images | None:
    """Open the source of images, without decoding them; None for scenes, which are drawn.

    Raises:
        ValueError: there is no such source, or nothing in it.
    """
    rules = Rules.of(plan.config["data"], scaled=True)
    if plan.roots:
        return local_images(plan.roots, rules)
    if plan.data_set is not None:
        id, name, split_name, column = plan.data_set
        return hub_images(id, name=name, split=split_name, column=column, rules=rules)
    return None


class LeftOut(NamedTuple):
    """How many images could not be read, and how many are too narrow to have quadrants."""

    unreadable: int = 0
    narrow: int = 0


def image_portions(
    plan: Plan, images: Images | None, folder: Path, views: ViewMaker, stored: StoredFeatures | None
) -> tuple[Portions, LeftOut]:
    """Return the images to train on and to measure on, and how many were left out.

    The manifest is written beside the stored features, for all runs that read these, or else in `folder`.

    Raises:
        ValueError: too many images are unreadable, or too few are left.
    """
    if images is None:
        count = plan.images or _SCENES
        train, measured = (
            ImageSubset(
                DrawnImages(SceneImages("token_sr", number, start), "scenes", start),
                tuple(range(number)),
                sizes=((SIZE, SIZE),) * number,
            )
            for number, start in ((count, 0), (plan.held_out, SPLIT_SIZE))
        )
        return Portions(train, measured), LeftOut()
    file = folder / MANIFEST if stored is None else stored.store.beside(images.fingerprint, MANIFEST)
    manifest = check_images(images, file)
    fitting = manifest.only(views.has_quadrants)
    narrow = len(manifest.readable) - len(fitting.readable)
    if narrow:
        found = (
            f"{narrow} of {len(manifest.readable)} images are too narrow: one row or column of visual tokens"
        )
        if len(fitting.readable) < 2:
            raise UserError(f"{found}; training needs at least two others")
        log.warning("left out: %s", found)
    portions = split(images, fitting, held_out=plan.held_out, limit=plan.images, seed=plan.seed)
    return portions, LeftOut(len(manifest.unreadable), narrow)


def ask(
    plan: Plan, portions: Portions, processor: Any, template: Template
) -> tuple[Portions, Questions | None]:
    """Find the questions about the images to train on and to measure on; of images without any none is kept.

    Raises:
        ValueError: there are none, or what lists them is broken.
    """
    if not plan.answer_weight:
        return portions, None
    maker = LessonMaker(processor, template, keep_image=design_of(plan.kind).needs_crop)
    seen = plan.kl_weight > 0
    if not plan.roots:
        train, measured = (SceneQuestions("token_sr", first) for first in (0, SPLIT_SIZE))
        return portions, Questions(train, measured, maker, seen)
    listed = annotations_of(plan.roots)
    assert listed is not None, "the plan has one"
    by_image = questions_by_image(*listed, Rules.of(plan.config["data"], scaled=True))
    (kept, asked), (kept_out, asked_out) = (with_questions(portion, by_image) for portion in portions)
    return Portions(kept, kept_out), Questions(asked, asked_out, maker, seen)


def stored_features(
    plan: Plan,
    outlined: Backbone,
    processor: Any,
    prefix_ids_1P: Tensor,
    views: ViewMaker,
    references: Mapping[int, Design],
) -> StoredFeatures | None:
    """Open the folder of features that `data.cache_features` names; None without one.

    Raises:
        ValueError: it holds features that are not this run's.
    """
    if plan.cache_features is None:
        return None
    dtype = outlined.dtype if plan.dtype == "auto" else getattr(torch, plan.dtype)
    store = open_store(plan.cache_features, outlined, processor, prefix_ids_1P, dtype=dtype)
    modules = dict.fromkeys(plan.layers, outlined_module(plan, outlined))
    layers = sorted({*layers_read(modules), *layers_read(references)})
    return StoredFeatures(store, tuple(layers), dtype, views)


def load_trunk(plan: Plan, outlined: Backbone, layers: Sequence[int]) -> Backbone:
    """Load the decoder layers below the highest of `layers`, and what comes before them; where answers count, all of it."""
    return load_backbone(
        outlined,
        revision=plan.revision,
        dtype=plan.dtype,
        attn_implementation=plan.attn_implementation,
        num_layers=None if plan.answer_weight else max(layers),
        **plan.pictures,
    )


def load_norms(plan: Plan, outlined: Backbone) -> dict[int, nn.Module]:
    """Load the norms behind which tokens are compared; none where they are compared as they enter the layer."""
    return load_input_norms(outlined, plan.layers, revision=plan.revision) if plan.normed else {}


def training_module(
    plan: Plan,
    backbone: Backbone,
    norms: Mapping[int, nn.Module],
    references: Mapping[int, Design],
) -> TokenSRTraining:
    """Make fresh TokenSR modules and their training.

    Args:
        backbone: with weights, or without them where batches hold features.
    """
    return TokenSRTraining(
        backbone,
        plan.layers,
        kind=plan.kind,
        sizes=plan.sizes,
        learning_rate=plan.learning_rate,
        weight_decay=plan.weight_decay,
        warmup=plan.warmup,
        temperature=plan.temperature,
        kl_weight=plan.kl_weight,
        answer_weight=plan.answer_weight,
        patches=plan.patches,
        positions=plan.positions,
        norms=norms,
        references=references,
        seed=plan.seed,
    )


def save_modules(
    plan: Plan, revision: str | None, prefix: str, module: TokenSRTraining, folder: Path, steps: int
) -> None:
    """Write the trained modules and their config into a folder that `blink.attach` loads."""
    dtype = getattr(torch, plan.saved_dtype)
    save_token_sr(
        {layer: copy.deepcopy(sr).to(dtype) for layer, sr in module.modules_by_layer.items()},
        folder,
        backbone=plan.backbone,
        revision=revision,
        objective=" + ".join(
            name if weight == 1 else f"{weight:g} {name}"
            for name, weight in {"kl": plan.kl_weight, "answer": plan.answer_weight}.items()
            if weight
        ),
        steps=steps,
        prompt_prefix=prefix,
        settings={key: plan.config[key] for key in _RECORDED},
    )
