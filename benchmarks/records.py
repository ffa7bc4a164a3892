"""Measured rows, kept as they come, so that a run that was killed goes on where it stopped.

A record counts only for the same options, on the same machine and versions, and for the same sources.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks.common import Row
from blink.runs.files import read_jsonl


class Record(NamedTuple):
    """A finished part.

    Attributes:
        part: its name.
        rows: what it found.
        seconds: that it took.
        load: the machine's load average over a minute when it began.
    """

    part: str
    rows: list[Row]
    seconds: float
    load: float


class Records:
    """Finished parts, in a file of JSON lines.

    Args:
        path: the file; made when the first part is added.
        keys: the parts that there are -> what their numbers depend on; records with another key do not count.
    """

    def __init__(self, path: Path, keys: Mapping[str, str]) -> None:
        self.path, self.keys = path, keys

    def read(self) -> list[Record]:
        """Parts that count, in the order in which they were finished."""
        if not self.path.exists():
            return []
        return [
            Record(line["part"], [Row(**row) for row in line["rows"]], line["seconds"], line["load"])
            for line in read_jsonl(self.path)
            if line["key"] == self.keys.get(line["part"])
        ]

    def add(self, record: Record) -> None:
        """Keep a finished part."""
        rows = [row._asdict() for row in record.rows]
        line = {"key": self.keys[record.part], **record._asdict(), "rows": rows}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def key(setting: str, paths: Iterable[Path]) -> str:
    """A short hash of words and files, of folders the Python files in them."""
    digest = hashlib.sha256(setting.encode())
    for path in paths:
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]
