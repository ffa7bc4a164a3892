"""The time that answering a run takes, in its folder: `timing.json`, written as answers come."""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from blink.runs.files import read_json, write_json
from blink.runs.values import fits

log = logging.getLogger(__name__)

TIMING = "timing.json"

_EVERY_SECONDS = 1.0
"""How often the time that answers take is written at most."""


class Timing(NamedTuple):
    """Time spent answering, over all processes that worked on the run.

    It is written as answers come: of a process that is killed outright at most its last second is missing,
    with the questions that were answered in it.

    Attributes:
        answered: how many questions were timed.
        seconds: wall-clock time, loading of the model left out; of a pass that several runs share, an equal share.
        waited: how much of these seconds the model waited for pictures to be read, that of the first process where there are
            several.
    """

    answered: int = 0
    seconds: float = 0.0
    waited: float = 0.0


def read_timing(folder: Path) -> Timing:
    """Read the time that answering a run has taken so far; none where the file is damaged."""
    path = folder / TIMING
    if not path.exists():
        return Timing()
    try:
        found = Timing(**read_json(path))
        if not (fits(found.answered, int) and fits(found.seconds, float) and fits(found.waited, float)):
            raise TypeError(found)
    except (TypeError, ValueError):
        log.warning("%s is damaged: the time that answering took so far is not known", path)
        return Timing()
    return found


def write_timing(folder: Path, timings: Sequence[Timing]) -> None:
    """Write the time that answering a run has taken, as a sum."""
    total = Timing(*map(sum, zip(Timing(), *timings, strict=True)))
    write_json(folder / TIMING, total._asdict())


class Clock:
    """The time that a pass takes up to the picture that was written last, shared out by answers among its runs.

    A kill leaves no moment to write it, so it is written as pictures are, and at most once a second.

    Args:
        folders: of the runs that it answers, by their numbers.
    """

    def __init__(self, folders: Mapping[int, Path]) -> None:
        self._folders, self._answered = folders, dict.fromkeys(folders, 0)
        self._before = {run: read_timing(folder) for run, folder in folders.items()}
        self._started, self._written = time.perf_counter(), -math.inf
        self._seconds = self._waited = 0.0
        for folder in folders.values():
            if not (folder / TIMING).exists():
                write_timing(folder, [])

    def __str__(self) -> str:
        share = 100 * self._waited / self._seconds if self._seconds else 0.0
        return f"{self._seconds:.1f} s, of which the model waited {self._waited:.1f} s ({share:.0f} %) for pictures"

    def note(self, runs: Sequence[int], questions: int, waited: float) -> None:
        """Note that the rows of a picture are written, some questions of each of these runs.

        Args:
            waited: seconds that the model has waited for pictures in this pass so far.
        """
        self._seconds, self._waited = time.perf_counter() - self._started, waited
        for run in runs:
            self._answered[run] += questions
        if self._seconds - self._written >= _EVERY_SECONDS:
            self.write()

    def write(self) -> None:
        """Write it for each run, with the time of the processes before."""
        total = sum(self._answered.values())
        for run, answered in self._answered.items():
            share = answered / total if total else 0.0
            now = Timing(answered, self._seconds * share, self._waited * share)
            write_timing(self._folders[run], [self._before[run], now])
        self._written = self._seconds
