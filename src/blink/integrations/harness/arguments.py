"""What `--model_args` says, checked before any weight is read."""

import logging
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from blink.evaluation.planning.asking import asked_of, with_preset_file
from blink.evaluation.planning.checkpoint import Checkpoint
from blink.evaluation.planning.settings import POLICY_KEYS
from blink.inference.policy import SOURCES
from blink.inference.run import Run
from blink.model.prompts import Template
from blink.runs.config.groups import keys_of_option, options_of
from blink.runs.config.settings import plain
from blink.runs.values import UserError, choice, number, optional, text, whole_number

log = logging.getLogger(__name__)

STOCK, REFUSE = "stock", "refuse"
TASK, END = "task", "end"

_OF_MODEL = (
    "revision",
    "dtype",
    "device",
    "attn_implementation",
    "template",
    "pad",
    "min_pixels",
    "max_pixels",
)
_OF_BLINK = ("method", "preset", "token_sr", "source", "layers", *POLICY_KEYS)
_OF_ANSWERING = ("memory_gb", "pictures", "other_requests", "until")
NAMES = ("pretrained", *_OF_MODEL, *_OF_BLINK, *_OF_ANSWERING)
"""All arguments."""

_POLICY: Mapping[str, Any] = {
    "layer": None,
    "tau_exp": None,
    "tau_drop": None,
    "patches": 2,
    "saliency": "attention",
    "interpolate": True,
    "selector": "saliency",
    "schedule": "threshold",
    "positions": "append",
    "scale_tau": True,
    "seed": 0,
}
"""Policy key -> default, as in the commands; None: the preset's."""


class Settings(NamedTuple):
    """Arguments that were checked.

    Attributes:
        memory_gb: for the engine.
        pictures: most that are answered at once; None: as many as `memory_gb` holds.
        answers_others: whether requests about no picture or several are answered by the stock model, and not refused.
        stops: whether answers end before the stop texts of a task, and not at the model's closing token alone.
        line: which policy it is, for the screen.
    """

    backbone: Checkpoint
    template: Template
    run: Run
    memory_gb: float
    pictures: int | None
    answers_others: bool
    stops: bool
    line: str


def read_arguments(given: Mapping[str, Any]) -> Settings:
    """Check all arguments; of the backbone only the config is read.

    Args:
        given: by name, as lmms-eval parses `--model_args`: numbers, true and false are typed, all else is text.

    Raises:
        UserError: one is unknown, or something does not fit; says what, and what to do.
    """
    values = {name: _plain(value) for name, value in given.items()}
    _check_names(values)
    values = {name: value for name, value in values.items() if value is not None}
    if "pretrained" not in values:
        raise UserError(
            f"pretrained is missing: expected a folder, a hub id or one of {', '.join(options_of('model'))}, as in "
            "--model_args pretrained=tiny"
        )
    if "layers" in values and "layer" in values:
        raise UserError("layers and layer are the same argument; give one of them")
    memory_gb = number("memory_gb", values.pop("memory_gb", 4), above=0)
    pictures = optional(whole_number, "pictures", values.pop("pictures", None))
    others = choice("other_requests", values.pop("other_requests", REFUSE), (REFUSE, STOCK))
    until = choice("until", values.pop("until", TASK), (TASK, END))
    model = _model(values)
    method = _method(values)
    policy = {"layer" if name == "layers" else name: values[name] for name in _OF_BLINK if name in values}
    if isinstance(policy.get("layer"), str):
        policy["layer"] = policy["layer"].strip("[]").replace(" ", "")
    settings: dict[str, Any] = {
        **_POLICY,
        "token_sr": None,
        "preset": "mmvet",
        **policy,
        "model": model,
        "method": method,
    }
    settings.pop("source", None)
    overrides = [f"{name}={value}" for name, value in policy.items()]
    try:
        config = with_preset_file(OmegaConf.create(settings), overrides)
        asked = asked_of(config, plain(config), overrides, boxless="requests have not")
    except UserError as error:
        raise UserError(_as_given(str(error))) from error
    if asked.policy is None and (unread := [name for name in policy if name not in ("method", "seed")]):
        log.warning("method=vanilla does not use %s", ", ".join(unread))
    return Settings(
        asked.checkpoint,
        asked.template,
        Run(asked.policy, asked.token_sr),
        memory_gb,
        pictures,
        others == STOCK,
        until == TASK,
        asked.line,
    )


def _plain(value: Any) -> Any:
    """A value without the quotes that a shell let through; None for null."""
    if not isinstance(value, str):
        return value
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    return None if value.lower() in ("null", "none") else value


def _as_given(message: str) -> str:
    """A message of the commands' checks, with keys of the group `model` as they are called here."""
    return re.sub(r"\bmodel\.(\w+)", lambda key: {"path": "pretrained"}.get(key[1], key[1]), message)


def _check_names(values: Mapping[str, Any]) -> None:
    for name in values:
        if name not in NAMES:
            close = get_close_matches(name, NAMES, n=1)
            raise UserError(
                f"unknown argument {name!r}{f' (did you mean {close[0]}?)' if close else ''} in --model_args; expected "
                f"{', '.join(NAMES)}"
            )


def _model(values: Mapping[str, Any]) -> dict[str, Any]:
    """The backbone as the group `model` of a config: an option by its name or its checkpoint, else tiny's keys for another path."""
    named = text("pretrained", values["pretrained"])
    options = {name: keys_of_option("model", name) for name in options_of("model")}
    chosen = (
        named
        if named in options
        else next((name for name in options if options[name]["path"] == named), None)
    )
    if chosen is not None:
        found = options[chosen]
    elif "/" in named or Path(named).expanduser().is_dir():
        found = {**options["tiny"], "path": named, "dtype": "auto"}
    else:
        close = get_close_matches(named, options, n=1)
        raise UserError(
            f"pretrained={named!r}{f' (did you mean {close[0]}?)' if close else ''}: expected a folder, a hub id "
            f"(owner/name), or one of {', '.join(options)}"
        )
    own = {name: values[name] for name in _OF_MODEL if name in values}
    if "dtype" in own:
        own["dtype"] = str(own["dtype"]).removeprefix("torch.")
    return {**found, **own}


def _method(values: Mapping[str, Any]) -> dict[str, Any]:
    """The method as the group `method` of a config."""
    name = choice("method", values.get("method", "blink"), options_of("method"))
    method = keys_of_option("method", name)
    if "source" in values:
        method["source"] = choice("source", values["source"], SOURCES)
        if method["source"] == "encode" and method["trained"]:
            raise UserError(
                f"source=encode: method={name} expands by token_sr; choose method=encode or interp"
            )
    return method
