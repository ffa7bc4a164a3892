"""What one training run is to do: its config, checked, as flat typed values.

Imports neither torch nor Lightning: a finished run is returned without them. What needs them is checked in `parts/`,
where a run's parts are made from its plan, and still before any weight is read.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from blink.inference.policy import POSITIONS, parse_layers
from blink.model.prompts import check_name
from blink.runs.values import (
    Keys,
    UserError,
    choice,
    flag,
    number,
    optional,
    path,
    paths,
    text,
    whole_number,
    whole_numbers,
)
from blink.scenes.draw import SPLIT_SIZE

_BY_BACKBONE: dict[str, dict[tuple[str, str], float]] = {
    "tiny": {("optimizer", "learning_rate"): 1e-3, ("objective", "temperature"): 50.0},
    "others": {("optimizer", "learning_rate"): 1e-4, ("objective", "temperature"): 1.0},
}
"""Values that null stands for; "others" has the paper's (Table 4). Hidden states of tiny have norms of some hundred in a
few channels, so at temperature 1 their softmax is nearly one-hot, and modules that match it lose the state's direction."""

_FLOATS = ("float32", "bfloat16", "float16")

_ATTENTION = ("eager", "sdpa", "flash_attention_2")

_SET_BY_COMMAND = {
    "callbacks": "callbacks=, a group of configs (docs/training.md)",
    "logger": "logger=",
    "max_epochs": "epochs=",
    "min_epochs": "epochs=",
    "default_root_dir": "outputs=",
    "enable_checkpointing": "checkpoint_every=",
    "check_val_every_n_epoch": "trainer.val_check_interval=",
    "overfit_batches": "images=",
    "barebones": "logger=none",
    "num_sanity_val_steps": "",
    "use_distributed_sampler": "",
    "reload_dataloaders_every_n_epochs": "",
    "enable_model_summary": "",
}
"""Arguments of lightning.Trainer that the command sets, and what to give instead."""

_CHECKED_IF_GIVEN: Mapping[str, Callable[[str, Any], object]] = {
    **dict.fromkeys(("limit_train_batches", "limit_val_batches"), partial(number, above=0)),
    **dict.fromkeys(("detect_anomaly", "inference_mode", "sync_batchnorm"), flag),
    "min_steps": whole_number,
    "profiler": partial(text, hint="the name of one of Lightning's"),
}
"""Arguments of lightning.Trainer that are added by `+trainer.KEY=`, and that it takes as they come."""

_MOST_WORKERS = 1024


class HubDataSet(NamedTuple):
    """Images of a data set of the `datasets` library, as `hub_images` takes them."""

    id: str
    name: str | None
    split: str
    column: str | None


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
    check_name(optional(text, "model.template", model["template"]))
    text("model.family", model["family"])
    _check_trainer(keys.below("trainer"))
    roots, data_set = _image_source(keys.below("data"))
    images = optional(whole_number, "images", keys["images"])
    held_out = whole_number("held_out", keys["held_out"])
    if not roots and data_set is None:
        for key, count in (("images", images), ("held_out", held_out)):
            if (count or 0) > SPLIT_SIZE:
                raise UserError(f"{key}={count}: data=scenes has {SPLIT_SIZE:,} pictures for it")
    hidden = optional(whole_numbers, "token_sr.hidden", token_sr["hidden"], example="[2048,1024]")
    kernels = optional(whole_numbers, "token_sr.kernels", token_sr["kernels"])
    kl_weight, answer_weight = (
        number(f"objective.{key}", objective[key], least=0) for key in ("kl", "answer")
    )
    patches = whole_number("patches", keys["patches"], least=2)
    positions = choice("positions", keys["positions"], POSITIONS)
    if not kl_weight and not answer_weight:
        raise UserError("objective.kl=0 and objective.answer=0: nothing would be trained")
    if answer_weight:
        _check_questions(keys.below("data"), roots, data_set)
    else:
        _refuse_unread(
            keys, {"patches": 2, "positions": "append"}, "objective.answer=0 trains under no policy"
        )
    workers = whole_number("workers", keys["workers"], least=0)
    if workers > _MOST_WORKERS:
        raise UserError(f"workers={workers}: expected at most {_MOST_WORKERS} processes that read images")
    return Plan(
        config=config,
        layers=parse_layers(keys["layer"]),
        backbone=text("model.path", model["path"], hint="a folder or hub id"),
        revision=optional(text, "model.revision", model["revision"]),
        template=optional(text, "model.template", model["template"]),
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
        callbacks=_callbacks(keys.below("callbacks")),
        trial=bool(config["trainer"].get("fast_dev_run")),
        outputs=path("outputs", keys["outputs"], "a folder"),
        fresh=flag("fresh", keys["fresh"]),
    )


def _check_questions(data: Keys, roots: Sequence[Path], data_set: HubDataSet | None) -> None:
    """Refuse what answers cannot be trained with.

    Raises:
        UserError: images come without questions, or features from disk.
    """
    if data["cache_features"] is not None:
        raise UserError(
            f"data.cache_features={data['cache_features']}: answers run through the whole backbone, which features do not "
            "hold; leave it out, or train with objective=kl"
        )
    if data_set is not None or (roots and not any(".json" in root.name.lower() for root in roots)):
        raise UserError(
            "objective.answer needs questions with their answers: data=scenes, or in data.root a file of entries with image, "
            "question and answer (.jsonl), or llava_v1_5_mix665k.json"
        )


def _check_trainer(trainer: Keys) -> None:
    """Check what Lightning takes as it comes, or takes for something else.

    Raises:
        UserError: a value does not fit, or a key is one that the command sets.
    """
    for key, instead in _SET_BY_COMMAND.items():
        if key in trainer:
            remedy = f"give {instead} instead" if instead else "leave it out"
            raise UserError(f"trainer.{key}={trainer[key]!r}: the command sets that itself; {remedy}")
    optional(whole_number, "trainer.accumulate_grad_batches", trainer["accumulate_grad_batches"])
    optional(number, "trainer.gradient_clip_val", trainer["gradient_clip_val"], least=0)
    if trainer["max_steps"] != -1 or isinstance(trainer["max_steps"], bool):
        whole_number("trainer.max_steps", trainer["max_steps"], hint="or -1 for as many as the epochs have")
    interval = trainer["val_check_interval"]
    if not interval or not isinstance(interval, str | dict):  # which are times, for Lightning to read
        if isinstance(interval, float):
            number("trainer.val_check_interval", interval, above=0, most=1)
        else:
            whole_number("trainer.val_check_interval", interval, hint="or a share of the run, as 0.25")
    whole_number("trainer.log_every_n_steps", trainer["log_every_n_steps"], least=0)
    choice("trainer.deterministic", trainer["deterministic"], (True, False, "warn", None))
    flag("trainer.enable_progress_bar", trainer["enable_progress_bar"])
    if not isinstance(trainer.get("fast_dev_run", False), bool):
        whole_number("trainer.fast_dev_run", trainer["fast_dev_run"], hint="steps, or true for one")
    for key, check in _CHECKED_IF_GIVEN.items():
        if trainer.get(key) is not None:
            check(f"trainer.{key}", trainer[key])


def _callbacks(callbacks: Keys) -> dict[str, Any]:
    """Return name -> config of the callbacks that a user adds.

    Raises:
        UserError: one has no `_target_`.
    """
    for name, value in callbacks.items():
        if value is not None:  # as Hydra's users switch one off: callbacks.NAME=null
            text(f"callbacks.{name}._target_", callbacks.below(name)["_target_"], hint="the callback's class")
    return {name: value for name, value in callbacks.items() if value is not None}


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


def _image_source(data: Keys) -> tuple[tuple[Path, ...], HubDataSet | None]:
    """Return the roots of image files, and the data set; at most one of them, and for scenes neither.

    Raises:
        ValueError: both are given, or the one that `data` needs is not.
    """
    choice("data.source", data["source"], ("scenes", "hub", "local"))
    if data["root"] is not None:
        _refuse_unread(
            data, _of_data("id", "name", "split", "column"), f"images come from data.root={data['root']}"
        )
        return tuple(paths("data.root", data["root"])), None
    if data["source"] == "hub":
        if data["id"] is None:
            raise UserError("data=hub needs data.id, the id of a data set on the hub or a folder of one")
        return (), HubDataSet(
            text("data.id", data["id"]),
            optional(text, "data.name", data["name"]),
            text("data.split", data["split"]),
            optional(text, "data.column", data["column"]),
        )
    if data["source"] != "scenes":
        raise UserError(f"data.source={data['source']!r} needs data.root, a folder of images")
    unread = _of_data("id", "name", "split", "column", "exif", "allow_outside")
    _refuse_unread(data, unread, "images are drawn, unless data.root or data=hub says where others are")
    return (), None


def _of_data(*keys: str) -> dict[str, Any]:
    """Keys of `data`, by their names in full, and their defaults."""
    defaults = {"split": "train", "exif": "ignore", "allow_outside": False}
    return {f"data.{key}": defaults.get(key) for key in keys}


def _refuse_unread(config: Mapping[str, Any], defaults: Mapping[str, Any], why: str) -> None:
    """Raise a UserError if one of some keys that are not read has a value of its own.

    Args:
        config: that holds the keys, by their last names.
        defaults: of the keys, by their names in full.
    """
    values = {key: config.get(key.rpartition(".")[2]) for key in defaults}
    given = [f"{key}={value}" for key, value in values.items() if value not in (None, defaults[key])]
    if given:
        raise UserError(f"{', '.join(given)} would change nothing: {why}")
