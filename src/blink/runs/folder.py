"""Where a run's files go: one folder per set of overrides, and never two configurations in one folder.

The folder's name follows from the overrides of the command, so the same command finds the same folder and
continues there. Knows nothing of models, training or benchmarks, and imports neither torch nor Lightning.
"""

import hashlib
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from blink.runs.machine import default_dtype

log = logging.getLogger(__name__)

_PACKAGE = Path(__file__).resolve().parents[1]
CONF_DIR = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parents[1] / "conf"
"""The Hydra configs: inside the package in a wheel, beside `src/` in a source checkout."""

CONFIG_FILE = "config.yaml"
"""The composed config of a run, in its folder."""

INPUTS = "inputs.json"
"""What a run follows from beyond its config, in its folder."""

_HOW_NOT_WHAT = ("fresh", "logger", "outputs")
"""Keys that change how a run is kept or reported, not what it computes: they neither name nor tell apart runs."""

_OWN_CHECKPOINT = ("last", "null", None)
"""Values of `ckpt` that leave a run what it is; from another run's checkpoint it becomes another."""

_PARTIAL = ".partial"

_LONGEST_NAME = 120

_READABLE = str.maketrans({"=": "-", ",": "_", "[": None, "]": None})
"""Names can be typed as values of overrides, where = and , have a meaning, and in shells, where [ ] have."""

RANK_VARIABLES = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
"""Environment variables by which launchers tell a process its place; the first process has 0 in all of them."""


def run_name(overrides: Sequence[str]) -> str:
    """Return the folder name that belongs to the overrides of a command, whatever their order.

    `layer=[12,14] epochs=2` gives "epochs-2+layer-12_14", no overrides give "default". A name that is too long,
    or that had characters replaced to suit file systems, ends in a hash of the overrides.

    Args:
        overrides: as Hydra lists them in `hydra.overrides.task`; of one key the last counts. Overrides of
            `fresh`, `outputs`, `logger` and `ckpt=last` are left out.
    """
    by_key = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.get_key_element().lstrip("+")
        if key.lstrip("~").partition(".")[0] in _HOW_NOT_WHAT:
            continue
        if override.is_sweep_override():
            value = override.input_line.partition("=")[2] if override.input_line else ""
        else:  # one spelling of each value: a multirun passes False on for false
            value = override.get_value_element_as_str()
        if not (key == "ckpt" and value in _OWN_CHECKPOINT):
            by_key[key] = value
    items = [f"{key}={value}" for key, value in sorted(by_key.items())] or ["default"]
    full, readable = ",".join(items), "+".join(item.translate(_READABLE) for item in items)
    name = re.sub(r"[^\w.+~-]", "_", readable)[:_LONGEST_NAME]
    if name == readable:
        return name
    return f"{name}-{hashlib.sha256(full.encode()).hexdigest()[:8]}"


OmegaConf.register_new_resolver("blink_run_name", run_name, use_cache=True, replace=True)
"""`${blink_run_name:${hydra.overrides.task}}` in a config: the name of a run or of a whole sweep.

Cached, so that the jobs of a multirun see the name of the whole sweep, as Hydra does for `${now:}`.
"""


OmegaConf.register_new_resolver("blink_dtype", default_dtype, use_cache=True, replace=True)
"""`${blink_dtype:}` in a config: what this machine computes fast in."""


def run_folder(root: Path, command: str, overrides: Sequence[str]) -> Path:
    """Return where the run of a command lies or will lie: `<root>/<command>/<run_name>`."""
    return root / command / run_name(overrides)


def open_run(
    root: Path, command: str, overrides: Sequence[str], config: Mapping[str, Any], *, fresh: bool = False
) -> Path:
    """Return the folder of a run, made if need be, with its config saved.

    An existing folder is continued. With `fresh` it is kept under a numbered name and a new one begins.
    In a run of several processes only the first one writes.

    Args:
        config: the composed config, resolved, as plain containers.

    Raises:
        ValueError: the folder holds a run of another configuration, or files that are no run.
    """
    folder = run_folder(root, command, overrides)
    if not is_first_process():
        return folder
    if fresh and folder.exists():
        kept = _unused_sibling(folder)
        folder.rename(kept)
        log.info("fresh=true: the earlier run is kept in %s", kept)
    remove_partial(folder)
    saved = folder / CONFIG_FILE
    if saved.exists():
        _refuse_another_config(folder, OmegaConf.to_container(OmegaConf.load(saved)), config)
        return folder
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds files but no {CONFIG_FILE}, so it is not a run: move it away")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(saved, OmegaConf.to_yaml(OmegaConf.create(dict(config))))
    return folder


def reject_added_keys(overrides: Sequence[str], *, open_groups: Sequence[str] = ()) -> None:
    """Refuse `+key=value` overrides, which Hydra lets in and nothing would read.

    Args:
        open_groups: first parts of keys whose additions are passed on and checked elsewhere.

    Raises:
        ValueError: an override adds a key outside `open_groups`.
    """
    for override in overrides:
        key = override.partition("=")[0].lstrip("+").partition("@")[0]
        if override.startswith("+") and key.partition(".")[0] not in open_groups:
            raise ValueError(f"unknown key {key!r} in override {override!r}; --help lists the keys")


def check_inputs(path: Path, inputs: Mapping[str, Any], *, begun: bool = True) -> None:
    """Record what a run follows from beyond its config; refuse to go on from anything else.

    Args:
        path: of the record, in the run's folder.
        inputs: JSON values.
        begun: whether something has come of the recorded inputs; if not, these replace them.

    Raises:
        ValueError: the run was begun with other inputs; says which.
    """
    now = json.loads(json.dumps(inputs))
    if not begun or not path.exists():
        if is_first_process():
            write_json(path, now)
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    if changed:
        raise ValueError(
            f"{path.parent} was begun with another {', '.join(changed)} "
            f"({'; '.join(f'{key}: {before.get(key)} then, {now.get(key)} now' for key in changed)}); "
            "fresh=true keeps it under another name and starts anew"
        )


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Write a file as a whole, under the name that this gives: others see the old content or the new, never half."""
    partial = path.with_name(f"{path.name}.{os.getpid()}{_PARTIAL}")
    yield partial
    partial.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write a text file as a whole."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def remove_partial(folder: Path, name: str = "*") -> None:
    """Remove what a killed process had begun to write in a folder, of the files with this name, that no other writes."""
    for partial in folder.glob(f"{name}.[0-9]*{_PARTIAL}"):
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, as a whole."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def is_first_process() -> bool:
    """Whether this is the one process, or the first of those that Lightning, torchrun or SLURM started."""
    return all(os.environ.get(variable, "0") == "0" for variable in RANK_VARIABLES)


@contextmanager
def one_line_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turn a user's mistake (ValueError, or a config that does not resolve) into one line and exit code 1.

    Args:
        kinds: exceptions to treat so instead.

    Put it around the checks before heavy work, not around the work: there a traceback is wanted. With
    Hydra's own switch HYDRA_FULL_ERROR=1 the traceback is shown here, too.
    """
    caught = kinds or (ValueError, OmegaConfBaseException)
    try:
        yield
    except caught as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        sys.exit(f"error: {' '.join(str(error).split())}")


def _unused_sibling(folder: Path) -> Path:
    number = 1
    while (sibling := folder.with_name(f"{folder.name}.old{number}")).exists():
        number += 1
    return sibling


def _refuse_another_config(folder: Path, saved: Any, config: Mapping[str, Any]) -> None:
    there, here = _leaves(saved), _leaves(OmegaConf.to_container(OmegaConf.create(dict(config))))
    differing = [
        f"{key}: {there.get(key, 'absent')} there, {here.get(key, 'absent')} now"
        for key in sorted(there.keys() | here.keys())
        if there.get(key, "absent") != here.get(key, "absent")
    ]
    if differing:
        raise ValueError(
            f"{folder} holds a run of another configuration ({'; '.join(differing)}); "
            "fresh=true keeps it under another name and starts a new one"
        )


def _leaves(config: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to dotted keys, without the keys that do not tell runs apart."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if not prefix and (key in _HOW_NOT_WHAT or (key == "ckpt" and value in _OWN_CHECKPOINT)):
            continue
        if isinstance(value, dict) and value:
            flat |= _leaves(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
