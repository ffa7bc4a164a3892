"""Keys and values of a config, each by itself: what several commands check before they look at a backbone or a question."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from typing import Any

import torch
from omegaconf import DictConfig

from blink.bench import JUDGED, PROMPTS
from blink.evaluation.planning.presets import LAYER_STUDIES, OTHER
from blink.model.checkpoints import check_attention, check_device_map
from blink.runs.machine import launched_processes
from blink.runs.values import UserError, choice, number, text, whole_number
from blink.scenes.draw import DIFFICULTIES, SPLIT_SIZE

log = logging.getLogger(__name__)

SCAN_KEYS = ("layer", "tau_exp", "tau_drop")
"""Keys of the config that presets fill in."""

POLICY_KEYS = (
    *SCAN_KEYS,
    "patches",
    "saliency",
    "interpolate",
    "selector",
    "schedule",
    "positions",
    "scale_tau",
    "seed",
)
"""Keys of the config that make the policy."""

_TEXTS = (
    "model.path",
    "model.revision",
    "model.template",
    "model.device",
    "model.device_map",
    "bench.name",
    "bench.hub_id",
    "bench.revision",
    "bench.split",
    "data.source",
    "data.root",
    "data.id",
    "scenes.split",
    "token_sr",
    "outputs",
)

_MOST_WORKERS = _MOST_PROCESSES = 1024

_CHECKS: Mapping[str, Callable[[str, Any], object]] = {
    **dict.fromkeys(("limit", "scenes.images", "bench.max_new_tokens"), whole_number),
    **dict.fromkeys(("model.min_pixels", "model.max_pixels"), whole_number),
    **dict.fromkeys(_TEXTS, text),
    "model.dtype": partial(choice, choices=("float32", "bfloat16", "float16", "auto")),
    "model.attn_implementation": partial(choice, choices=("eager", "sdpa", "flash_attention_2")),
    "model.pad": partial(choice, choices=(True, False, None)),
    "model.family": partial(choice, choices=(*LAYER_STUDIES, OTHER)),
    "prompt": partial(choice, choices=PROMPTS),
    "scenes.difficulty": partial(choice, choices=[each.name for each in DIFFICULTIES]),
    "engine.reuse": partial(choice, choices=("full", "none")),
    "engine.batch": whole_number,
    "engine.memory_gb": partial(number, above=0),
    "engine.pictures": whole_number,
    "engine.workers": partial(whole_number, least=0, most=_MOST_WORKERS),
    "devices": lambda name, value: (
        value == "auto" or whole_number(name, value, most=_MOST_PROCESSES, hint="or auto, for one per GPU")
    ),
    "fresh": partial(choice, choices=(True, False)),
}
"""Key of the config -> check of its value."""

_OPTIONAL = (
    "limit",
    "model.revision",
    "model.template",
    "model.device_map",
    "model.min_pixels",
    "model.max_pixels",
    "bench.hub_id",
    "bench.revision",
    "bench.split",
    "data.root",
    "data.id",
    "token_sr",
    "scenes.difficulty",
    "engine.batch",
    "engine.pictures",
    "engine.workers",
)
"""Keys that may be null."""

_DATA_KEYS = ("source", "root", "id", "exif", "allow_outside")
"""Keys of `data` that questions are read by."""

_TRAINING_KEYS = ("data.name", "data.split", "data.column")
_TRAINING_DEFAULTS = {"name": None, "split": "train", "column": None}


def check_values(settings: Mapping[str, Any]) -> None:
    """Check types and ranges of all settings but the policy's, which `Policy` checks itself.

    Args:
        settings: the composed config as plain containers. A group or top-level key that it lacks is not asked for.

    Raises:
        ValueError: a value is of the wrong type, out of range, or not available on this machine.
    """
    values = {key: _value(settings, key) for key in _CHECKS if key.partition(".")[0] in settings}
    for key, value in values.items():
        if not (value is None and key in _OPTIONAL):
            _CHECKS[key](key, value)
    for key, value in settings.get("bench", {}).items():
        parts = value if isinstance(value, list) else [value]
        if not all(part is None or isinstance(part, int | str) for part in parts):
            raise UserError(f"bench.{key}={value!r}: expected a text, a whole number or a list of these")
    if values.get("scenes.images", 0) > SPLIT_SIZE:
        raise UserError(f"scenes.images={values['scenes.images']}: a split has {SPLIT_SIZE:,} pictures")
    if "data" in settings:
        check_data_keys(settings["data"])
    if "model" in settings:
        _check_device(values["model.device"])
        check_attention(values["model.attn_implementation"])
        check_device_map(values.get("model.device_map"))


def reject_training_keys(overrides: Sequence[str]) -> None:
    """Refuse keys of a hub data set that training alone reads: a benchmark knows its own parts and columns.

    Raises:
        ValueError: an override gives one of them.
    """
    given = [key for key in (override.partition("=")[0] for override in overrides) if key in _TRAINING_KEYS]
    if given:
        raise UserError(
            f"{', '.join(given)}: only blink.train reads that; a benchmark has a split and columns of its own "
            "(bench=; data.id= takes another data set of its layout, bench.revision= a revision)"
        )


def check_data_keys(data: Mapping[str, Any]) -> None:
    """Refuse keys of the group `data` that no question is read by, wherever they were given.

    Raises:
        UserError: there is one; the message names those that are read.
    """
    unread = [
        f"data.{key}={value}"
        for key, value in data.items()
        if key not in _DATA_KEYS and not (key in _TRAINING_DEFAULTS and value == _TRAINING_DEFAULTS[key])
    ]
    if unread:
        raise UserError(
            f"{', '.join(unread)}: not read for a benchmark, which has a split and columns of its own; read are "
            f"{', '.join(f'data.{key}' for key in _DATA_KEYS)}"
        )


def process_count(devices: int | str, model: Mapping[str, Any]) -> int:
    """How many processes answer.

    Args:
        devices: a number, or "auto" for one per GPU.
        model: a config's group `model`.

    Raises:
        UserError: there are not so many GPUs, the backbone has been given a device of its own, or torchrun has started another number.
    """
    launched, device = launched_processes(), model["device"]
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    if launched > 1 and devices not in (1, "auto", launched):
        raise UserError(
            f"devices={devices}: {launched} processes were started, by torchrun or alike; leave devices= out"
        )
    count = launched if launched > 1 else max(gpus, 1) if devices == "auto" else int(devices)
    if count == 1:
        return 1
    device_map = model.get("device_map")
    if device_map is not None:
        raise UserError(
            f"devices={count} and model.device_map={device_map}: each process has a whole backbone on one device; "
            "give one of the two keys"
        )
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(
            f"devices={count} and model.device={device}: expected auto, cpu or cuda, of which each process has one"
        )
    if launched == 1 and gpus and count > gpus:
        raise UserError(f"devices={count}: this machine has {gpus} GPUs; model.device=cpu takes its cores")
    return count


def note_unused(config: DictConfig, overrides: Sequence[str]) -> None:
    """Log which overrides have no effect here; no error, since a sweep over methods or benchmarks gives them to all jobs."""
    method, bench = config.method, config.bench.name
    source = "local" if config.data.root else config.data.source
    unread = set() if method.trained else {"token_sr"}
    unread |= set() if method.scans else set(POLICY_KEYS)
    unread |= {"tau_drop", "interpolate"} if method.get("passes") == 2 else set()
    keys = [override.partition("=")[0] for override in overrides]
    if config.engine.reuse == "full" and "engine.batch" in keys:
        log.info("engine.reuse=full does not use engine.batch")
    if given := [key for key in keys if key in unread]:
        log.info("method=%s does not use %s", method.name, ", ".join(given))
    if bench not in JUDGED and (given := [key for key in keys if key.partition(".")[0] == "judge"]):
        log.info("bench=%s does not use %s", bench, ", ".join(given))
    unread = set() if source == "scenes" else {"scenes.split", "scenes.images", "scenes.difficulty"}
    unread |= set() if source == "hub" else {"bench.hub_id", "bench.revision"}
    if given := [key for key in keys if key in unread]:
        log.info("data from %s does not use %s", source, ", ".join(given))


def _check_device(name: str) -> None:
    """Raise ValueError unless this machine has the device; "auto" exists on every one."""
    try:
        device = torch.device("cpu" if name == "auto" else name)
    except RuntimeError as error:
        raise UserError(f"model.device={name!r}: expected auto, cpu, cuda or cuda:1") from error
    there = torch.cuda.device_count() if device.type == "cuda" else _count(device.type)
    if (device.index or 0) >= there:
        raise UserError(f"model.device={name}: this machine has {there} such devices")


def _count(kind: str) -> int:
    """How many devices of a kind that is not CUDA there are for torch; none of "meta", which holds no numbers."""
    if kind == "cpu":
        return 1
    module = getattr(torch, kind, None)
    available = getattr(module, "is_available", None)
    return int(module.device_count()) if module is not None and available is not None and available() else 0


def _value(settings: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key, None if there is none."""
    return reduce(lambda group, part: group.get(part, None), key.split("."), settings)
