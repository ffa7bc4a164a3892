"""A finished evaluation repeated from its stored config, and whether scores and predictions come out the same.

`python -m blink.eval rerun=FOLDER`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from blink.bench.base import Row
from blink.evaluation.compare import read_run
from blink.evaluation.planning.plan import Plan
from blink.evaluation.result import SCORES
from blink.runs.config.settings import plain
from blink.runs.files import read_json
from blink.runs.folder import CONFIG_FILE, read_config
from blink.runs.provenance import INPUTS, differences
from blink.runs.values import DamagedError, UserError, path

BESIDE = ("devices", "export", "export_name", "rerun", "logger", "outputs", "wait")
"""Keys that may be given beside `rerun`: they do not change what is computed."""


class ChangedError(RuntimeError):
    """What the first run was answered from is not there any more, so that it cannot be repeated."""


class Agreement(NamedTuple):
    """Two runs of one config.

    Attributes:
        questions: how many.
        metrics: those that differ, with both values in words.
        responses: ids of the questions with another response.
        events: ids of those with another action or region at some layer.
        software: in what it differs, in words.
    """

    questions: int
    metrics: list[str]
    responses: list[str]
    events: list[str]
    software: list[str]

    @property
    def holds(self) -> bool:
        """Whether all scores and all predictions are the same."""
        return not (self.metrics or self.responses or self.events)

    def __str__(self) -> str:
        parts = [f"scores differ ({'; '.join(self.metrics)})" if self.metrics else "scores agree"]
        for name, ids in (("responses", self.responses), ("events", self.events)):
            differ = f"{name} differ in {len(ids):,} of {self.questions:,} questions ({', '.join(ids[:3])}{' ...' * (len(ids) > 3)})"
            parts.append(differ if ids else f"{name} of all {self.questions:,} questions agree")
        if self.software:
            parts.append(f"software: {'; '.join(self.software)}")
        return ", ".join(parts)


def stored_config(folder: Path, name: str) -> DictConfig:
    """Return the composed config of a finished run.

    Args:
        name: of the key that names the folder.

    Raises:
        UserError: there is no finished run.
    """
    for file in (SCORES, CONFIG_FILE):
        if not (folder / file).is_file():
            raise UserError(
                f"{name}={folder} holds no {file}: give the folder of a finished `python -m blink.eval`"
            )
    return OmegaConf.create(read_config(folder / CONFIG_FILE))


def repeated_config(config: DictConfig, overrides: Sequence[str]) -> tuple[Path, DictConfig]:
    """Return the folder that `rerun` names, and the config to repeat it with: its own but for the keys in `BESIDE`.

    Args:
        config: of this command.
        overrides: of this command.

    Raises:
        UserError: the folder holds no finished run, or an override would change what it computes.
    """
    folder = path("rerun", config.rerun, "the folder of a finished run")
    keys = [override.partition("=")[0].lstrip("+~") for override in overrides]
    if others := [key for key in keys if key.partition(".")[0] not in BESIDE]:
        raise UserError(
            f"rerun={folder} repeats a run with the settings that it stored; {', '.join(others)} would change them: give "
            f"no keys but {', '.join(BESIDE)}"
        )
    stored = plain(stored_config(folder, "rerun"))
    own = {key: value for key, value in plain(config).items() if key in BESIDE}
    return folder, OmegaConf.create({**plain(config), **stored, **own, "rerun": None, "fresh": False})


def new_folder(first: Path) -> Path:
    """Return where a run is repeated: beside it, in the first numbered folder that holds no finished one."""
    number = 1
    while ((folder := first.with_name(f"{first.name}.rerun{number}")) / SCORES).exists():
        number += 1
    return folder


def check_unchanged(first: Path, inputs: Mapping[str, Any]) -> None:
    """Raise ChangedError if data, backbone or modules of a run are other than when it was made.

    Args:
        inputs: fingerprints as they are now.
    """
    file = first / INPUTS
    before: Any = read_json(file) if file.exists() else {}
    if not isinstance(before, dict):
        raise DamagedError(file, "it holds no JSON object")
    changed = [
        f"{key}: {before[key]} then, {inputs[key]} now"
        for key in before.keys() & inputs.keys()
        if before[key] != inputs[key]
    ]
    if changed:
        raise ChangedError(
            f"{first} cannot be repeated, as what it was made from has changed ({'; '.join(sorted(changed))})"
        )


def agreement(first: Path, second: Path) -> Agreement:
    """Compare a run and its repetition.

    Raises:
        UserError: one of them is not finished, or their files cannot be read.
    """
    runs = [read_run(folder) for folder in (first, second)]
    one, other = (run.result for run in runs)
    metrics = [
        f"{name} {_shown(one.metrics.get(name))} then, {_shown(other.metrics.get(name))} now"
        for name in dict.fromkeys([*one.metrics, *other.metrics])
        if one.metrics.get(name) != other.metrics.get(name)
    ]
    rows = [{row["id"]: row for row in run.rows()} for run in runs]
    ids = list(dict.fromkeys([*rows[0], *rows[1]]))
    pairs = {key: (rows[0].get(key, {}), rows[1].get(key, {})) for key in ids}
    return Agreement(
        questions=len(ids),
        metrics=metrics,
        responses=[key for key, (a, b) in pairs.items() if a.get("response") != b.get("response")],
        events=[key for key, (a, b) in pairs.items() if _actions(a) != _actions(b)],
        software=differences(one.provenance, other.provenance) if one.provenance and other.provenance else [],
    )


def inputs_of(plan: Plan) -> Mapping[str, Any]:
    """The fingerprints of all that a plan's answers depend on beyond its config."""
    inputs: Mapping[str, Any] = (plan.setup.provenance or {})["inputs"]
    return inputs


def _actions(row: Row) -> list[tuple[Any, ...]]:
    """A row's events without the ratios, whose last digits depend on the batch."""
    return [(event["layer"], event["region"], event["action"]) for event in row.get("events", [])]


def _shown(value: float | None) -> str:
    return "absent" if value is None else f"{value:.4f}"
