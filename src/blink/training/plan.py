"""What one training run is to do: its config, checked, as flat typed values.

Imports neither torch nor Lightning: a finished run is returned without them. What needs them is checked in `parts/`,
where a run's parts are made from its plan, and still before any weight is read.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blink.inference.policy import POSITIONS, parse_layers
from blink.model.prompts import check_name
from blink.runs.config.settings import Keys
from blink.runs.values import (
    UserError,
    choice,
    flag,
    number,
    optional,
    path,
    text,
    whole_number,
    whole_numbers,
)
from blink.scenes.draw import SPLIT_SIZE
from blink.training.checks import (
    HubDataSet,
    added_callbacks,
    check_questions,
    check_trainer,
    image_source,
    refuse_unread,
)

_BY_BACKBONE: dict[str, dict[tuple[str, str], float]] = {
    "tiny": {("optimizer", "learning_rate"): 1e-3, ("objective", "temperature"): 50.0},
    "others": {("optimizer", "learning_rate"): 1e-4, ("objective", "temperature"): 1.0},
}
"""Values that null stands for; "others" has the paper's (Table 4). Hidden states of tiny have norms of some hundred in a
few channels, so at temperature 1 their softmax is nearly one-hot, and modules that match it lose the state's direction."""

_FLOATS = ("float32", "bfloat16", "float16")

_ATTENTION = ("eager", "sdpa", "flash_attention_2")

_MOST_WORKERS = 1024


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A training run as conf/train.yaml describes it; nothing has been read yet.

    Attributes:
        config: all of it as plain containers, null filled in where it stands for a value of the backbone.
        layers: to train, ascending.
        backbone, revision: folder or hub id, and its branch, tag or commit.
        template: name of the prompt template, as for `blink.model.prompts.template_of`.
        dtype, attn_implementation: as for `load_backbone`.
        pictures: what the processor does with them, keyword arguments of `load_processor`.
        roots: files and folders of images; without them images come from `data_set`, or else from drawn scenes.
        cache_features: folder of features on disk.
        images: to train on at most; None: all.
        held_out: images to measure on.
        global_pairs, device_pairs: per optimizer step, and of these at once on one device at most; None: all of its share.
        kind, sizes: design of the TokenSR modules and its sizes, as for `make_token_sr`; `saved_dtype` is that of their
            files.
        learning_rate, weight_decay, warmup, temperature: as for `TokenSRTraining`.
        kl_weight, answer_weight: of the two objectives; one of them may be 0.
        patches, positions: of the policy under which answers are trained.
        normed: whether tokens are compared behind the layer's input norm instead of as they enter it.
        reference: TokenSR folder of an earlier run, measured beside the new modules.
        checkpoint_every: optimizer steps.
        start_from: "last", or a checkpoint file to begin from.
        trainer: arguments of `lightning.Trainer`, its `_target_` included.
        callbacks: name -> config of a Lightning callback that the user adds.
        trial: whether a few steps are to be tried and nothing kept (trainer.fast_dev_run).
        outputs: folder that run folders are made in.
        fresh: whether an earlier run is put aside.
    """

    config: Mapping[str, Any]
    layers: tuple[int, ...]
    backbone: str
    revision: str | None
    template: str | None
    dtype: str
    attn_implementation: str
    pictures: Mapping[str, Any]
    roots: tuple[Path, ...]
    data_set: HubDataSet | None
    cache_features: Path | None
    images: int | None
    held_out: int
    epochs: int
    global_pairs: int
    device_pairs: int | None
    kind: str
    sizes: Mapping[str, Any]
    saved_dtype: str
    learning_rate: float
    weight_decay: float
    warmup: float
    temperature: float
    kl_weight: float
    answer_weight: float
    patches: int
    positions: str
    normed: bool
    reference: str | None
    seed: int
    workers: int
    checkpoint_every: int
    start_from: str
    trainer: Mapping[str, Any]
    callbacks: Mapping[str, Any]
    trial: bool
    outputs: Path
    fresh: bool


def make_plan(config: Mapping[str, Any]) -> Plan:
    """Check a composed config, as plain containers, as far as that goes without torch and without looking at files.

    Raises:
        ValueError: a value is of the wrong type or out of range, or two do not go together.
    """
    config = _filled_in(config)
    keys = Keys(config)
    model, token_sr, optimizer, objective = (
        keys.below(group) for group in ("model", "token_sr", "optimizer", "objective")
    )
    keys.below("logger")
    flag("wait", keys["wait"])
    choice("model.device", model["device"], ("auto",), hint="training takes trainer.accelerator")
    choice("model.device_map", model["device_map"], (None,))
    text("model.family", model["family"])
    images = optional(whole_number, "images", keys["images"])
    held_out = whole_number("held_out", keys["held_out"])
    hidden = optional(whole_numbers, "token_sr.hidden", token_sr["hidden"], example="[2048,1024]")
    kernels = optional(whole_numbers, "token_sr.kernels", token_sr["kernels"])
    kl_weight, answer_weight = (
        number(f"objective.{key}", objective[key], least=0) for key in ("kl", "answer")
    )
    patches = whole_number("patches", keys["patches"], least=2)
    positions = choice("positions", keys["positions"], POSITIONS)
    workers = whole_number("workers", keys["workers"], least=0)
    if workers > _MOST_WORKERS:
        raise UserError(f"workers={workers}: expected at most {_MOST_WORKERS} processes that read images")
    if not kl_weight and not answer_weight:
        raise UserError("objective.kl=0 and objective.answer=0: nothing would be trained")
    template = optional(text, "model.template", model["template"])
    check_name(template)
    check_trainer(keys.below("trainer"))
    callbacks = added_callbacks(keys.below("callbacks"))
    roots, data_set = image_source(keys.below("data"))
    if not roots and data_set is None:
        for key, count in (("images", images), ("held_out", held_out)):
            if (count or 0) > SPLIT_SIZE:
                raise UserError(f"{key}={count}: data=scenes has {SPLIT_SIZE:,} pictures for it")
    if answer_weight:
        check_questions(keys.below("data"), roots, data_set)
    else:
        refuse_unread(
            keys, {"patches": 2, "positions": "append"}, "objective.answer=0 trains under no policy"
        )
    return Plan(
        config=config,
        layers=parse_layers(keys["layer"]),
        backbone=text("model.path", model["path"], hint="a folder or hub id"),
        revision=optional(text, "model.revision", model["revision"]),
        template=template,
        dtype=choice("model.dtype", model["dtype"], (*_FLOATS, "auto")),
        attn_implementation=choice("model.attn_implementation", model["attn_implementation"], _ATTENTION),
        pictures={
            "pad": choice("model.pad", model["pad"], (True, False, None)),
            "min_pixels": optional(whole_number, "model.min_pixels", model["min_pixels"]),
            "max_pixels": optional(whole_number, "model.max_pixels", model["max_pixels"]),
        },
        roots=roots,
        data_set=data_set,
        cache_features=optional(
            path, "data.cache_features", keys.below("data")["cache_features"], "a folder"
        ),
        images=images,
        held_out=held_out,
        epochs=whole_number("epochs", keys["epochs"]),
        global_pairs=whole_number("global_pairs", keys["global_pairs"], least=4),
        device_pairs=optional(whole_number, "device_pairs", keys["device_pairs"], least=4),
        kind=text("token_sr.kind", token_sr["kind"]),
        sizes={
            "hidden": None if hidden is None else tuple(hidden),
            "kernels": None if kernels is None else tuple(kernels),
            "heads": optional(whole_number, "token_sr.heads", token_sr["heads"]),
        },
        saved_dtype=choice("token_sr.dtype", token_sr["dtype"], _FLOATS),
        learning_rate=number("optimizer.learning_rate", optimizer["learning_rate"], least=0),
        weight_decay=number("optimizer.weight_decay", optimizer["weight_decay"], least=0),
        warmup=number("optimizer.warmup", optimizer["warmup"], least=0, most=1),
        temperature=number("objective.temperature", objective["temperature"], least=0.01, most=1e4),
        kl_weight=kl_weight,
        answer_weight=answer_weight,
        patches=patches,
        positions=positions,
        normed=choice("objective.space", objective["space"], ("hidden", "input_norm")) == "input_norm",
        reference=optional(text, "reference", keys["reference"]),
        seed=whole_number("seed", keys["seed"], least=0),
        workers=workers,
        checkpoint_every=whole_number("checkpoint_every", keys["checkpoint_every"]),
        start_from=optional(text, "ckpt", keys["ckpt"]) or "last",
        trainer=config["trainer"],
        callbacks=callbacks,
        trial=bool(config["trainer"].get("fast_dev_run")),
        outputs=path("outputs", keys["outputs"], "a folder"),
        fresh=flag("fresh", keys["fresh"]),
    )


def _filled_in(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config with what null stands for on its backbone."""
    filled = copy.deepcopy(dict(config))
    keys = Keys(filled)
    values = _BY_BACKBONE["tiny" if keys.below("model")["path"] == "tiny" else "others"]
    for (group, key), value in values.items():
        if keys.below(group)[key] is None:
            filled[group][key] = value
    token_sr = keys.below("token_sr")
    if token_sr["kind"] == "conv" and token_sr["kernels"] is None:  # as configs of earlier versions have it
        filled["token_sr"]["kernels"] = [5, 3, 1]
    return filled
