"""Run folders: one per set of overrides, and never two configurations in one folder.

The folder's name follows from the overrides of the command, so the same command finds the same folder and
continues there. Knows nothing of models, training or benchmarks.
"""

import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from blink.runs.files import as_json, make_folder, read_json, remove_partial, write_json, write_text
from blink.runs.lock import LOCK, lock
from blink.runs.machine import is_first_process
from blink.runs.values import DamagedError, UserError, flag

log = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
"""The composed config of a run, in its folder."""

INPUTS = "inputs.json"
"""Fingerprints of what a run depends on beyond its config, such as weights and pictures, in its folder."""

_HOW_NOT_WHAT = ("device_pairs", "devices", "engine.workers", "fresh", "logger", "outputs", "rerun", "wait")
"""Keys that change how a run is stored or reported, not what it computes: runs that differ in these alone are the same."""

_SHARED_OUT = ("trainer.accumulate_grad_batches",)
"""Keys that say in which portions a run computes; a run may be continued with others. They are in its folder's name."""

_ADDED = {
    "bench.split": "test",
    "engine.pictures": None,
    "objective.answer": 0.0,
    "objective.kl": 1.0,
    "patches": 2,
    "positions": "append",
    "preset": None,
    "scenes.difficulty": None,
    "token_sr.heads": None,
    "token_sr.kind": "conv",
}
"""Keys that configs of earlier versions lack -> the value that says what these did."""

_OWN_CHECKPOINT = ("last", "null", None)
"""Values of `ckpt` that resume a run from its own checkpoints; with a checkpoint of another run it is a different run."""

HYDRA_DEFAULT = "."
"""`hydra.run.dir` and `hydra.sweep.subdir` as `conf/` has them."""

_NAMED_BY_US = "${blink_run_name:"
"""In `hydra.sweep.dir` as `conf/` has it."""

_LONGEST_NAME = 120

_READABLE = str.maketrans({"=": "-", ",": "_", "[": None, "]": None})
"""Characters replaced in folder names, so that these can be typed in shells and in overrides, where = and , have a meaning."""


def run_name(overrides: Sequence[str]) -> str:
    """Return the folder name that belongs to the overrides of a command, whatever their order.

    `layer=[12,14] epochs=2` gives "epochs-2+layer-12_14", no overrides give "default". A name that is too long,
    or that had characters replaced to suit file systems, ends in a hash of the overrides.

    Args:
        overrides: as Hydra lists them in `hydra.overrides.task`; the last one for a key counts. Overrides of
            `_HOW_NOT_WHAT` and of `ckpt=last` are left out.
    """
    by_key = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.get_key_element().lstrip("+")
        if _is_how(key.lstrip("~")):
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


def _is_how(key: str) -> bool:
    """Whether a dotted key is one of those that change nothing of what a run computes, or lies below one."""
    return any(key == known or key.startswith(f"{known}.") for known in _HOW_NOT_WHAT)


def run_folder(root: Path, command: str, overrides: Sequence[str], given: Path | None = None) -> Path:
    """Return where the run of a command lies or will lie: `<root>/<command>/<run_name>`, or the folder that is given."""
    return given or root / command / run_name(overrides)


def given_folder(hydra: DictConfig) -> Path | None:
    """Return the folder that a user gave a run by Hydra's own keys; None where it lies below `outputs`.

    That is `hydra.run.dir`; in a multirun `hydra.sweep.subdir` in `hydra.sweep.dir`, and without a subdir a folder there
    that is named after the job's overrides.

    Args:
        hydra: the part `hydra` of a composed config.
    """
    written: Any = OmegaConf.to_container(hydra, resolve=False)
    if hydra.mode != RunMode.MULTIRUN:
        given = None if written["run"]["dir"] == HYDRA_DEFAULT else Path(hydra.run.dir)
    elif written["sweep"]["subdir"] != HYDRA_DEFAULT:
        given = Path(hydra.sweep.dir) / str(hydra.sweep.subdir)
    elif _NAMED_BY_US in str(written["sweep"]["dir"]):
        given = None
    else:
        given = Path(hydra.sweep.dir) / run_name(list(hydra.overrides.task))
    return None if given is None else Path(hydra.runtime.cwd) / given


def lock_run(
    root: Path, command: str, overrides: Sequence[str], given: Path | None = None, *, wait: bool = False
) -> Path:
    """Return the folder of a run, locked until the innermost `lock_scope` ends; the first of several processes has the lock.

    Args:
        given: the folder itself, where `given_folder` names one.
        wait: until another process that has it is done.

    Raises:
        ValueError: another process has it, and `wait` is false; says which.
    """
    folder = run_folder(root, command, overrides, given)
    if is_first_process():
        lock(folder, wait=flag("wait", wait))
    return folder


def open_run(
    root: Path,
    command: str,
    overrides: Sequence[str],
    config: Mapping[str, Any],
    *,
    fresh: bool = False,
    given: Path | None = None,
    wait: bool = False,
) -> Path:
    """Return the folder of a run, made if need be, with its config saved, and locked as by `lock_run`.

    An existing folder is continued. With `fresh` it is kept under a numbered name and a new one begins.
    In a run of several processes only the first one writes.

    Args:
        config: the composed config, resolved, as plain containers.
        given: the folder itself, where `given_folder` names one. What Hydra writes there by its own keys may be in it.
        wait: see `lock_run`.

    Raises:
        ValueError: the folder holds a run of another configuration, or files that are no run, or another process has it.
    """
    folder = lock_run(root, command, overrides, given, wait=wait)
    if not is_first_process():
        return folder
    if flag("fresh", fresh) and _contents(folder, given):
        kept = _unused_sibling(folder)
        folder.rename(kept)
        log.info("fresh=true: the earlier run is kept in %s", kept)
    saved = folder / CONFIG_FILE
    others = [path for path in _contents(folder, given) if path != saved]
    if saved.exists() and (others or saved.stat().st_size):
        _refuse_another_config(folder, read_config(saved), config)
        remove_partial(folder, below=True)
        return folder
    if others:
        raise UserError(f"{folder} holds files but no {CONFIG_FILE}, so it is not a run: move it away")
    make_folder(folder)
    write_text(saved, OmegaConf.to_yaml(OmegaConf.create(dict(config))))
    return folder


def read_config(path: Path) -> dict[str, Any]:
    """Read a composed config, such as a run's `CONFIG_FILE`, as plain containers, interpolations resolved.

    Raises:
        ValueError: it is damaged; names the file.
    """
    try:
        found: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as cause:
        raise DamagedError(path, cause) from cause
    if not isinstance(found, dict) or not found:
        raise DamagedError(path, "it holds no settings")
    return {str(key): value for key, value in found.items()}


def check_inputs(path: Path, inputs: Mapping[str, Any], *, begun: bool = True) -> None:
    """Record fingerprints of what a run depends on beyond its config; refuse to continue it with others.

    Args:
        path: of the record, in the run's folder.
        inputs: JSON values.
        begun: whether the run has results already; if not, `inputs` replace the recorded ones.

    Raises:
        ValueError: the run was begun with other inputs, or the record is damaged; says which.
    """
    now = as_json(inputs)
    if not begun or not path.exists():
        if is_first_process():
            write_json(path, now)
        return
    try:
        before = read_json(path)
    except ValueError as cause:
        raise DamagedError(path, cause) from cause
    if not isinstance(before, dict):
        raise DamagedError(path, "it holds no JSON object")
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    if changed:
        raise UserError(
            f"{path.parent} was begun with another {', '.join(changed)} "
            f"({'; '.join(f'{key}: {before.get(key)} then, {now.get(key)} now' for key in changed)}); "
            "fresh=true keeps it under another name and starts anew"
        )


def _contents(folder: Path, given: Path | None) -> list[Path]:
    """Files and folders in a folder but its lock; in one that the user gave without those that are Hydra's own."""
    found = [path for path in folder.glob("*") if not path.name.startswith(LOCK)]
    return found if given is None else [path for path in found if not _is_hydras(path)]


def _is_hydras(path: Path) -> bool:
    """Whether a file or folder is one that Hydra writes by `hydra.output_subdir` or `hydra/job_logging=default`."""
    return path.suffix == ".log" or (path / "overrides.yaml").is_file()


def _unused_sibling(folder: Path) -> Path:
    number = 1
    while (sibling := folder.with_name(f"{folder.name}.old{number}")).exists():
        number += 1
    return sibling


def _refuse_another_config(folder: Path, saved: Any, config: Mapping[str, Any]) -> None:
    here = _leaves(OmegaConf.to_container(OmegaConf.create(dict(config))))
    there = {key: value for key, value in _ADDED.items() if key in here} | _leaves(saved)
    differing = [
        f"{key}: {there.get(key, 'absent')} there, {here.get(key, 'absent')} now"
        for key in sorted(there.keys() | here.keys())
        if there.get(key, "absent") != here.get(key, "absent")
    ]
    if differing:
        raise UserError(
            f"{folder} holds a run of another configuration ({'; '.join(differing)}); "
            "fresh=true keeps it under another name and starts a new one"
        )


def _leaves(config: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten a config to dotted keys, without those that do not change what a run computes."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if _is_how(f"{prefix}{key}") or (not prefix and key == "ckpt" and value in _OWN_CHECKPOINT):
            continue
        if isinstance(value, dict):
            flat |= _leaves(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return {key: value for key, value in flat.items() if key not in _SHARED_OUT}
