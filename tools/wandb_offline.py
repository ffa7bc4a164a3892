"""What an offline run of W&B holds, read back from its file.

The file is a LevelDB log of protocol buffers. The messages come with wandb, a reader in Python no longer does: tests
read here what a run logged, and `wandb_panels` what to draw.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from blink.runs.files import read_json

_MAGIC, _BLOCK, _HEADER = b":W&B", 32768, 7
_FULL, _FIRST, _LAST = 1, 2, 4
"""Kinds of the pieces into which a record is cut at the end of a block."""


class OfflineRun(NamedTuple):
    """A run as the files of one folder hold it; a run that was killed and went on has several.

    Attributes:
        files: the folder of its pictures.
        stored: name -> file, of what its tables consist of.
        identity: "id", "group", "job_type", "name" and "project"; what is not set is "".
        config: key -> value.
        history: one mapping per step, in the order of logging.
        summary: key -> value.
        axes: metric, or section/*, -> what it is drawn against ("" for an axis itself).
        ended: whether the run was closed.
    """

    files: Path
    stored: dict[str, Path]
    identity: dict[str, str]
    config: dict[str, Any]
    history: list[dict[str, Any]]
    summary: dict[str, Any]
    axes: dict[str, str]
    ended: bool

    def column(self, name: str) -> list[Any]:
        """All values of a metric, in the order of logging."""
        return [row[name] for row in self.history if name in row]

    def table(self, name: str) -> dict[str, Any]:
        """The last table of that name: "columns" and "data".

        Raises:
            ValueError: there is none, or its file is not on this machine.
        """
        path = self.stored.get(f"{name}.table.json")
        if path is None or not path.is_file():
            raise ValueError(f"{self.files.parent}: no table {name}")
        content: dict[str, Any] = read_json(path)
        return content

    def picture(self, shown: dict[str, Any]) -> Path:
        """The file of a picture, from the value of a metric or the cell of a table."""
        return self.stored.get(shown["path"], self.files / shown["path"])


def read_offline_runs(folder: Path) -> list[OfflineRun]:
    """Read all runs below a folder, oldest first.

    Raises:
        ValueError: there is none, or a file is none of W&B's.
    """
    paths = sorted(folder.rglob("*run-*/run-*.wandb"), key=lambda path: (path.parent.name, path))
    paths = [path for path in paths if not path.parent.is_symlink()]
    if not paths:
        raise ValueError(f"{folder} holds no run of W&B (wandb/offline-run-*/run-*.wandb)")
    return [read_offline_run(path) for path in paths]


def read_offline_run(path: Path) -> OfflineRun:
    """Read one file.

    Raises:
        ValueError: it is none of W&B's.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    run = OfflineRun(path.parent / "files", {}, {}, {}, [], {}, {}, False)
    for content in _records(path):
        record = Record.FromString(content)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found = record.run
            run.identity.update(
                id=found.run_id,
                group=found.run_group,
                job_type=found.job_type,
                name=found.display_name,
                project=found.project,
            )
            run.config.update(_items(found.config.update))
        elif kind == "config":
            run.config.update(_items(record.config.update))
        elif kind == "history":
            run.history.append(_items(record.history.item))
        elif kind == "summary":
            run.summary.update(_items(record.summary.update))
        elif kind == "metric":
            run.axes[record.metric.name or record.metric.glob_name] = record.metric.step_metric
        elif kind == "artifact":
            run.stored.update(
                {part.path: Path(part.local_path) for part in record.artifact.manifest.contents}
            )
        elif kind == "exit":
            run = run._replace(ended=True)
    return run


def _items(items: Any) -> dict[str, Any]:
    """Keys and values of a message; nested keys become nested mappings."""
    found: dict[str, Any] = {}
    for item in items:
        *parents, last = [item.key] if item.key else list(item.nested_key)
        place = found
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = json.loads(item.value_json)
    return found


def _records(path: Path) -> Iterator[bytes]:
    """The records of a log; a last one that is cut short, since its process was killed, is left out."""
    content = path.read_bytes()
    if content[: len(_MAGIC)] != _MAGIC:
        raise ValueError(f"{path} is no file of a W&B run")
    at, parts = _HEADER, b""
    while at + _HEADER <= len(content):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER:  # too little for another piece
            at += left
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + _HEADER])
        piece = content[at + _HEADER : at + _HEADER + length]
        at += _HEADER + length
        if kind == 0 or len(piece) < length:
            return
        parts = piece if kind in (_FULL, _FIRST) else parts + piece
        if kind in (_FULL, _LAST):
            yield parts
