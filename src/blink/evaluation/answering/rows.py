"""The rows of a run, in its folder: `predictions.jsonl`, read, checked and cut back to whole pictures.

A kill, a full disk or a power failure leaves whole rows, and perhaps damaged ones behind them, which are asked anew. A
damaged row before whole ones is no such trace, and an error.
"""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from blink.bench.base import Row, Sample
from blink.bench.results.scoring import EVENT
from blink.evaluation.answering.timing import TIMING
from blink.evaluation.planning.questions import samples_digest
from blink.runs.provenance import INPUTS, check_inputs
from blink.runs.values import DamagedError, UserError, fits

log = logging.getLogger(__name__)

PREDICTIONS = "predictions.jsonl"

SHARES = "shares"
"""Folder in a run's folder, while jobs elsewhere answer shares of it; once their rows are in the run's own file, it holds the
run's timing with theirs, until `drop_shares`."""

_ROW: Mapping[str, Any] = {
    "id": str,
    "image": str,
    "response": str,
    "answer": str | None,
    "correct": bool | None,
    "flops": int | None,
    "events": Sequence[Mapping[str, Any]],
}
"""Columns that every row has, and their types."""


def resume(folder: Path, samples: Sequence[Sample], *, inputs: Mapping[str, Any]) -> list[Row]:
    """Return the rows that a run folder holds already, cut back to whole pictures; none in a new folder.

    Args:
        samples: those about one picture side by side.
        inputs: fingerprints of all that the answers depend on beyond the config, JSON values; recorded in a new folder.

    Raises:
        ValueError: the rows follow from other inputs, are about other questions, or cannot be read.
    """
    path = folder / PREDICTIONS
    content = path.read_bytes() if path.exists() else b""
    recorded = {**inputs, "samples": samples_digest(samples)}
    try:
        check_inputs(folder / INPUTS, recorded)
    except DamagedError:
        if content:
            raise
        check_inputs(folder / INPUTS, recorded, begun=False)
    lines = content.split(b"\n")[:-1]  # what follows the last newline is half a line, or nothing
    rows = readable_rows(path, lines)
    if len(rows) < len(lines):
        log.warning("%s: its last %d lines are damaged, and asked anew", path, len(lines) - len(rows))
    if [row["id"] for row in rows] != [sample.id for sample in samples[: len(rows)]]:
        raise UserError(
            f"{path} has {len(lines)} answers to other questions than these {len(samples)}; "
            "fresh=true starts a new run"
        )
    # a process may have been killed between the rows of one picture
    ends = (first + len(batch) for first, batch in pictures(samples))
    whole = max((end for end in ends if end <= len(rows)), default=0)
    keep = sum(len(line) + 1 for line in lines[:whole])
    if keep < len(content):
        with path.open("r+b") as file:
            file.truncate(keep)
    if whole == len(samples):
        drop_shares(folder)
    return rows[:whole]


def readable_rows(path: Path, lines: Sequence[bytes]) -> list[Row]:
    """Return the rows of a run's predictions, without damaged lines at the end, as a power failure leaves them.

    Raises:
        ValueError: a damaged line stands before whole ones; names the file and the line.
    """
    found = [_row(line) for line in lines]
    whole = next((number for number, row in enumerate(found) if row is None), len(found))
    if any(found[whole:]):
        raise DamagedError(path, f"in line {whole + 1}, with whole lines behind it")
    return [row for row in found if row is not None]


def _row(line: bytes) -> Row | None:
    """The row of a line; None if it is none."""
    try:
        row = json.loads(line)
    except ValueError:  # no JSON, or bytes that are no text
        return None
    if not isinstance(row, dict):
        return None
    columns = {"flops": None, "events": [], **row}  # rows of elsewhere have none
    sound = all(fits(columns.get(name, ...), kind) for name, kind in _ROW.items()) and all(
        fits(event.get(name, ...), kind) for event in columns["events"] for name, kind in EVENT.items()
    )
    return row if sound else None


def pictures(samples: Sequence[Sample]) -> Iterator[tuple[int, list[Sample]]]:
    """Yield the samples about each picture, which stand side by side, with the index of the first one."""
    first = 0
    for _, group in groupby(samples, key=lambda sample: sample.image):
        batch = list(group)
        yield first, batch
        first += len(batch)


def drop_shares(folder: Path) -> None:
    """Take over the timing of shares that a run whose questions are all answered was put together from, and remove them.

    A process that was killed in the midst of it may have left some of that to do.
    """
    shares = folder / SHARES
    if (shares / TIMING).exists():
        (shares / TIMING).replace(folder / TIMING)
    if shares.is_dir():
        shutil.rmtree(shares)
