"""Where a result comes from: command, seed, versions of Python and packages, the project's commit, fingerprints of inputs.

Recorded beside every result, so that a number can be traced, and its run repeated. Knows nothing of models.
"""

import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from blink.runs.files import as_json, read_json, write_json
from blink.runs.machine import is_first_process
from blink.runs.values import DamagedError, UserError

PACKAGES = {
    "blink": "blink-mllm",
    "torch": "torch",
    "transformers": "transformers",
    "lightning": "lightning",
    "hydra": "hydra-core",
}
"""Names in a record -> distributions."""

_SOURCE = Path(__file__).resolve().parents[2]
"""`src/` of a checkout; `site-packages` of an installed wheel."""

INPUTS = "inputs.json"
"""Fingerprints of what a run depends on beyond its config, such as weights and pictures, in its folder."""

PROCESSES = "provenance.json"
"""Records of the processes that worked on a run, in its folder."""

_STARTED_AS = "started_as"

_GIT_SECONDS = 20


def provenance(
    command: str,
    overrides: Sequence[str],
    *,
    seed: int | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the record of one run of this process, JSON values.

    Args:
        command: "eval", for instance.
        overrides: of the run; of a multirun those of the one job.
        seed: of what the run draws; None where it draws nothing.
        inputs: fingerprints of data, backbone and modules.
    """
    return {
        "command": shlex.join(["python", "-m", f"blink.{command}", *overrides]),
        _STARTED_AS: shlex.join(sys.argv),
        "seed": seed,
        "versions": dict(versions()),
        "git": commit(_SOURCE.parent),
        "inputs": dict(inputs or {}),
    }


@lru_cache(maxsize=1)
def versions() -> dict[str, str | None]:
    """Return the versions of Python and of the packages that results depend on; None where one is not installed.

    They are read from the packages' files: none is imported.
    """
    return {
        "python": platform.python_version(),
        **{name: _version(known) for name, known in PACKAGES.items()},
        "torch": _torch_build() or _version("torch"),
    }


@lru_cache(maxsize=1)
def commit(root: Path) -> dict[str, Any] | None:
    """Return the commit that a checkout of the project is at, and whether its files differ from it.

    Args:
        root: of the checkout.

    Returns:
        "commit" and "dirty", which untracked files make true as well, unless git ignores them; None where there is no
        checkout, or no git to ask.
    """
    if not (root / ".git").exists():
        return None
    head, changes = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain")
    return None if head is None or changes is None else {"commit": head, "dirty": bool(changes)}


def mixed(processes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return warnings about a run on which processes with different software worked, the newest last."""
    found = (differences(before, processes[-1]) for before in processes[:-1])
    return list(
        dict.fromkeys(
            f"a part of this run was made with other software, on which its numbers may depend: {'; '.join(parts)}"
            for parts in found
            if parts
        )
    )


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return in what two records' software differs, each as "torch 2.9 then, 2.10 now"."""
    found = []
    for name in sorted({*then.get("versions", {}), *now["versions"]}):
        before, after = then.get("versions", {}).get(name), now["versions"].get(name)
        if before != after:
            found.append(f"{name} {before} then, {after} now")
    codes = [_code(record.get("git")) for record in (then, now)]
    if codes[0] != codes[1]:
        found.append(f"code {codes[0]} then, {codes[1]} now")
    return found


def note_process(folder: Path, record: dict[str, Any]) -> list[dict[str, Any]]:
    """Note in a run's folder that this process works on it; the first of several does.

    Args:
        record: of this process, as `provenance` returns it.

    Returns:
        The records of all processes that worked on the run, this one last.
    """
    own = _STARTED_AS  # a process that goes on may have been started otherwise
    earlier = [before for before in read_processes(folder) if {**before, own: ""} != {**record, own: ""}]
    if is_first_process():
        write_json(folder / PROCESSES, [*earlier, record])
    return [*earlier, record]


def read_processes(folder: Path) -> list[dict[str, Any]]:
    """Return the records of the processes that worked on a run, the newest last; none where none left one."""
    path = folder / PROCESSES
    found: list[dict[str, Any]] = read_json(path) if path.exists() else []
    return found


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


def software(record: Mapping[str, Any]) -> str:
    """Return the versions and the commit of a record in one line."""
    named = [f"{name} {number}" for name, number in record.get("versions", {}).items() if number is not None]
    return ", ".join([*named, f"code {_code(record.get('git'))}"])


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _torch_build() -> str | None:
    """torch's version with its build, such as 2.13.0+cu130, which the metadata of wheels from PyPI leave out; None without."""
    found = find_spec("torch")
    if found is None or found.origin is None:
        return None
    with suppress(OSError):
        text = Path(found.origin).with_name("version.py").read_text(encoding="utf-8")
        named = re.search(r"^__version__ = '([^']+)'", text, flags=re.MULTILINE)
        return named and named[1]
    return None


def _git(root: Path, *arguments: str) -> str | None:
    """What git says about a repository; None where it fails."""
    # variables such as GIT_DIR, which hooks set, would name another repository
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            env=environment | {"GIT_OPTIONAL_LOCKS": "0"},
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _code(git: Mapping[str, Any] | None) -> str:
    """A commit in words."""
    return (
        "of no checkout" if git is None else f"{git['commit'][:12]}{' with changes' if git['dirty'] else ''}"
    )
