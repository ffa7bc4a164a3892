"""What a folder knows of its dashboards: under which id it is there, and what of it was told already.

One file in the folder of a run or sweep. So a killed run goes on in the dashboard where it was, and a finished one
is told once.
"""

import json
import secrets
from pathlib import Path
from typing import Any

from blink.runs.folder import write_json

MARKS = "tracking.json"


def run_id(folder: Path, group: str | None) -> str:
    """Return the id by which the run of a folder goes in a group of runs; made at the first call.

    A run that is a point of two sweeps is in both groups, under an id for each.
    """
    marks = _read(folder)
    ids = marks.setdefault("ids", {})
    if (group or "") not in ids:
        ids[group or ""] = secrets.token_hex(4)
        write_json(folder / MARKS, marks)
    known: str = ids[group or ""]
    return known


def told(folder: Path, logger: str, group: str | None, what: str) -> bool:
    """Whether `what` was told to this logger in this group already.

    Args:
        logger: which one, by the name of its function.
        what: a hash of all that there is to tell.
    """
    return bool(_read(folder).get("told", {}).get(f"{logger} {group or ''}") == what)


def write_mark(folder: Path, logger: str, group: str | None, what: str) -> None:
    """Note that `what` was told."""
    marks = _read(folder)
    marks.setdefault("told", {})[f"{logger} {group or ''}"] = what
    write_json(folder / MARKS, marks)


def _read(folder: Path) -> dict[str, Any]:
    path = folder / MARKS
    if not path.exists():
        return {}
    marks: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return marks
