"""Run folders: one per set of overrides, and never two configurations in one folder.

The folder's name follows from the overrides of the command, so the same command finds the same folder and
continues there. Knows nothing of models, training or benchmarks.
"""

import logging
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from blink.runs.files import make_folder, remove_partial, write_text
from blink.runs.lock import LOCK, lock
from blink.runs.machine import is_first_process
from blink.runs.names import OWN_CHECKPOINT, earlier_name, is_how, run_name, same_run
from blink.runs.provenance import read_processes
from blink.runs.values import DamagedError, UserError, flag

log = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
"""The composed config of a run, in its folder."""

_SHARED_OUT = ("trainer.accumulate_grad_batches",)
"""Keys that say in which portions a run computes; a run may be continued with others. They are in its folder's name."""

_ADDED = {
    "bench.split": "test",
    "engine.batch": 1,
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

HYDRA_DEFAULT = "."
"""`hydra.run.dir` and `hydra.sweep.subdir` as `conf/` has them."""

_NAMED_BY_US = "${blink_run_name:"
"""In `hydra.sweep.dir` as `conf/` has it."""


def run_folder(root: Path, command: str, overrides: Sequence[str], given: Path | None = None) -> Path:
    """Return where the run of a command lies or will lie: `<root>/<command>/<run_name>`, or the folder that is given.

    A run that an earlier version began under another name goes on where it lies.
    """
    folder = given or root / command / run_name(overrides)
    if given is None and not folder.exists():
        earlier = root / command / earlier_name(overrides)
        if earlier.is_dir() and _was_begun_by(earlier, command, overrides):
            return earlier
    return folder


def _was_begun_by(folder: Path, command: str, overrides: Sequence[str]) -> bool:
    """Whether a folder's run was begun by a command, as its record of processes says."""
    with suppress(OSError, ValueError, KeyError, TypeError, HydraException):
        for record in read_processes(folder):
            _, _, module, *given = shlex.split(record["command"])
            if module == f"blink.{command}" and same_run(given, overrides):
                return True
    return False


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
        if is_how(f"{prefix}{key}") or (not prefix and key == "ckpt" and value in OWN_CHECKPOINT):
            continue
        if isinstance(value, dict):
            flat |= _leaves(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return {key: value for key, value in flat.items() if key not in _SHARED_OUT}
