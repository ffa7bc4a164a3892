"""Ids of a run in dashboards, and what was logged already, kept in the run's folder."""

import logging
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blink.runs.files import read_json, write_json
from blink.runs.values import fits

log = logging.getLogger(__name__)

MARKS = "tracking.json"
"""Ids in dashboards, and what was logged already, in the folder of a run or sweep."""

_NAMES = {
    "wandb_logger": "wandb",
    "tensorboard_logger": "tensorboard",
    "trackio_logger": "trackio",
    "csv_logger": "csv",
    "no_logger": "none",
}
"""Functions of `blink.runs.loggers` -> files in `conf/logger`."""


def run_id(folder: Path, group: str | None) -> str:
    """Return the id of a folder's run in the dashboard; made at the first call.

    A run that is a point of two sweeps is in the dashboard twice, once in each group, under an id for each.
    """
    marks = _read_marks(folder)
    ids = marks.setdefault("ids", {})
    if (group or "") not in ids:
        ids[group or ""] = secrets.token_hex(4)
        write_json(folder / MARKS, marks)
    known: str = ids[group or ""]
    return known


def already_logged(folder: Path, logger: str, group: str | None, digest: str) -> bool:
    """Whether a finished run, or a sweep's summary, was logged already.

    Args:
        folder: of the run or sweep.
        logger: `_target_` of its config.
        group: the sweep that the run is a point of, or None.
        digest: hash of all that there is to log, so that other results are logged again.
    """
    return bool(_read_marks(folder).get("told", {}).get(f"{_name(logger)} {group or ''}") == digest)


def note_logged(folder: Path, logger: str, group: str | None, digest: str) -> None:
    """Note in the folder that `already_logged` is true of these arguments from now on."""
    marks = _read_marks(folder)
    marks.setdefault("told", {})[f"{_name(logger)} {group or ''}"] = digest
    write_json(folder / MARKS, marks)


def _read_marks(folder: Path) -> dict[str, Any]:
    """The content of the folder's `MARKS`, with loggers by their names in `conf/logger`."""
    file = folder / MARKS
    if not file.exists():
        return {}
    try:
        marks: dict[str, Any] = read_json(file)
        if not fits(marks, Mapping[str, Mapping[str, str]]):
            raise TypeError(marks)
    except (TypeError, ValueError):
        log.warning("%s is damaged: the run is a new one in the dashboard", file)
        return {}
    if "told" in marks:
        keys = {key: key.partition(" ") for key in marks["told"]}
        marks["told"] = {
            f"{_name(logger)} {group}": marks["told"][key] for key, (logger, _, group) in keys.items()
        }
    return marks


def _name(logger: str) -> str:
    """The name in `conf/logger` of a logger of this package, wherever its function lies or lay; others keep their path.

    Marks of earlier versions hold `blink.tracking.loggers.wandb_logger`.
    """
    package, _, function = logger.rpartition(".")
    return _NAMES.get(function, logger) if package.partition(".")[0] == "blink" else logger
