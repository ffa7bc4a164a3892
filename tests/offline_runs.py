"""Reads offline runs of Weights & Biases: its service may still be writing when a run has been closed."""

import time
from pathlib import Path

from tools.wandb_offline import OfflineRun, read_offline_runs

_PATIENCE_SECONDS = 60


def closed_runs(folder: Path, count: int = 1) -> list[OfflineRun]:
    """The runs below a folder, once there are `count` and all of them are written to their end.

    Raises:
        AssertionError: they are not within a minute.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            runs = read_offline_runs(folder)
        except ValueError:
            runs = []
        if len(runs) >= count and all(run.ended for run in runs):
            return runs
        assert time.monotonic() < deadline, (
            f"{[run.ended for run in runs]} of {count} runs are written after a minute"
        )
        time.sleep(0.05)
