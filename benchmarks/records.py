"""Measured rows, kept as they come, so that a run that was killed goes on where it stopped.

A record counts only for the same options, on the same machine and versions, and for the same source files.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.common import Row

ROOT = Path(__file__).resolve().parents[1]


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
    """Finished parts of one setting, in a file of JSON lines.

    Args:
        path: the file; made when the first part is added.
        setting: what else the numbers depend on, in words.
    """

    def __init__(self, path: Path, setting: str) -> None:
        self.path = path
        self.key = hashlib.sha256(f"{setting} {sources()}".encode()).hexdigest()[:16]

    def read(self) -> list[Record]:
        """Parts that count, in the order in which they were finished."""
        if not self.path.exists():
            return []
        lines = map(json.loads, self.path.read_text(encoding="utf-8").splitlines())
        return [
            Record(line["part"], [Row(**row) for row in line["rows"]], line["seconds"], line["load"])
            for line in lines
            if line["key"] == self.key
        ]

    def add(self, record: Record) -> None:
        """Keep a finished part."""
        line = {"key": self.key, **record._asdict(), "rows": [row._asdict() for row in record.rows]}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def sources(folders: Sequence[Path] = (ROOT / "src" / "blink", ROOT / "benchmarks")) -> str:
    """A hash of the source files that the numbers depend on."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()
