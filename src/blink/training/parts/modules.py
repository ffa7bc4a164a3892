"""The modules of a training run: outlined, checked against backbone and memory, made, and saved; and the backbone below them."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from blink.model.backbone import Backbone
from blink.model.checkpoints import check_attention, load_backbone, load_input_norms, outline
from blink.model.processors import check_picture_options
from blink.model.token_sr import Design, check_patches, make_token_sr
from blink.model.token_sr.files import check_finite, load_token_sr, save_token_sr, token_sr_config
from blink.model.views import PATCHES
from blink.runs.values import UserError
from blink.training.module import TokenSRTraining
from blink.training.plan import Plan

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


def load_references(plan: Plan, width: int) -> dict[int, Design]:
    """Load the modules that are measured beside the new ones: of those layers that are trained, and no others.

    Raises:
        ValueError: there are none for any of the layers, or they are of another width.
    """
    if plan.reference is None:
        return {}
    try:
        earlier = token_sr_config(plan.reference)
    except UserError as cause:
        raise UserError(f"reference={plan.reference}: {cause}") from cause
    shared = [layer for layer in plan.layers if layer in earlier.layers]
    if not shared:
        raise UserError(f"reference={plan.reference} has modules of layers {sorted(earlier.layers)} only")
    if earlier.channels != width:
        raise UserError(f"reference={plan.reference}: width {earlier.channels}; the backbone's is {width}")
    modules = load_token_sr(plan.reference, layers=shared)
    check_finite(modules, f"reference={plan.reference}")
    return modules


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
    plan: Plan, outlined: Backbone, prefix: str, module: TokenSRTraining, folder: Path, steps: int
) -> None:
    """Write the trained modules and their config into a folder that `blink.attach` loads."""
    dtype = getattr(torch, plan.saved_dtype)
    save_token_sr(
        {layer: copy.deepcopy(sr).to(dtype) for layer, sr in module.modules_by_layer.items()},
        folder,
        backbone=plan.backbone,
        revision=outlined.revision,
        backbone_weights=outlined.fingerprint.weights if outlined.revision is None else None,
        objective=" + ".join(
            name if weight == 1 else f"{weight:g} {name}"
            for name, weight in {"kl": plan.kl_weight, "answer": plan.answer_weight}.items()
            if weight
        ),
        steps=steps,
        prompt_prefix=prefix,
        settings={key: plan.config[key] for key in _RECORDED},
    )
