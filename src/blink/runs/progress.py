"""How far long work has come: a bar on a terminal, and a line a minute where output goes to a file, as under Slurm."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger(__name__)

_SECONDS = 60.0
"""Between two lines."""


def draws_bars() -> bool:
    """Whether output goes to where a bar can be drawn: a terminal or a notebook."""
    console = Console()
    return console.is_terminal or console.is_jupyter


class Lines:
    """Logs how far some work has come, at most every minute, and how long the rest will take at the same speed.

    Args:
        what: the work, as a line begins.
        total: how much there is.
        done: how much of it was done before.
    """

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        self._what, self._total, self._before = what, total, done
        self._started = self._told = time.monotonic()

    def at(self, done: int, more: str = "") -> None:
        """Log a line if it is time: so much is done; `more` is said of it."""
        now = time.monotonic()
        if now - self._told < _SECONDS or done <= self._before:
            return
        self._told = now
        left = (now - self._started) / (done - self._before) * (self._total - done)
        log.info(
            "%s: %s of %s%s, about %s left",
            self._what,
            f"{done:,}",
            f"{self._total:,}",
            more,
            _in_words(left),
        )


@contextmanager
def progress(
    what: str, total: int, done: int = 0, *, shown: bool = True, transient: bool = False
) -> Iterator[Callable[[int], None]]:
    """Context of long work, whose value is called with how much more of it is done.

    Args:
        what: the work.
        total: how much there is, `done` of it before.
        shown: whether this process shows anything.
        transient: whether a bar goes away at the end.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    lines = None if draws_bars() or not shown else Lines(what, total, done)
    with Progress(*columns, disable=not shown, transient=transient) as bar:
        task = bar.add_task(what, total=total, completed=done)

        def advance(count: int) -> None:
            nonlocal done
            done += count
            bar.update(task, advance=count)
            if lines is not None:
                lines.at(done)

        yield advance


def _in_words(seconds: float) -> str:
    """A time to wait: "40 s", "12 min", "3 h 20 min"."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
