"""Checks of groups of keys that a training run's config has: Lightning's trainer, callbacks, and the source of images.

Imports neither torch nor Lightning, as `plan.py`, which calls them.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from blink.runs.config.settings import Keys
from blink.runs.values import UserError, choice, flag, number, optional, paths, text, whole_number

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


class HubDataSet(NamedTuple):
    """Images of a data set of the `datasets` library, as `hub_images` takes them."""

    id: str
    name: str | None
    split: str
    column: str | None


def check_questions(data: Keys, roots: Sequence[Path], data_set: HubDataSet | None) -> None:
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


def check_trainer(trainer: Keys) -> None:
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


def added_callbacks(callbacks: Keys) -> dict[str, Any]:
    """Return name -> config of the callbacks that a user adds.

    Raises:
        UserError: one has no `_target_`.
    """
    for name, value in callbacks.items():
        if value is not None:  # as Hydra's users switch one off: callbacks.NAME=null
            text(f"callbacks.{name}._target_", callbacks.below(name)["_target_"], hint="the callback's class")
    return {name: value for name, value in callbacks.items() if value is not None}


def image_source(data: Keys) -> tuple[tuple[Path, ...], HubDataSet | None]:
    """Return the roots of image files, and the data set; at most one of them, and for scenes neither.

    Raises:
        ValueError: both are given, or the one that `data` needs is not.
    """
    choice("data.source", data["source"], ("scenes", "hub", "local"))
    if data["root"] is not None:
        refuse_unread(
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
    refuse_unread(data, unread, "images are drawn, unless data.root or data=hub says where others are")
    return (), None


def _of_data(*keys: str) -> dict[str, Any]:
    """Keys of `data`, by their names in full, and their defaults."""
    defaults = {"split": "train", "exif": "ignore", "allow_outside": False}
    return {f"data.{key}": defaults.get(key) for key in keys}


def refuse_unread(config: Mapping[str, Any], defaults: Mapping[str, Any], why: str) -> None:
    """Raise a UserError if one of some keys that are not read has a value of its own.

    Args:
        config: that holds the keys, by their last names.
        defaults: of the keys, by their names in full.
    """
    values = {key: config.get(key.rpartition(".")[2]) for key in defaults}
    given = [f"{key}={value}" for key, value in values.items() if value not in (None, defaults[key])]
    if given:
        raise UserError(f"{', '.join(given)} would change nothing: {why}")
