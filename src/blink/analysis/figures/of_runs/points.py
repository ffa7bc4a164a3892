"""Finished runs as points of a figure: from run folders, and from the folders of sweeps.

What a run did is read from its result, not from the command that made it, so runs of any sweep, and single ones, may
stand together in one figure.
"""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from blink.bench import BENCHMARKS
from blink.bench.statistics import Estimate
from blink.evaluation.compare import FinishedRun, compare, read_run
from blink.evaluation.result import SCORES
from blink.evaluation.sweeps.report import JOBS, read_jobs
from blink.inference.policy import Policy
from blink.runs.values import UserError, optional, text

log = logging.getLogger(__name__)

_PUT_ASIDE = re.compile(r"\.(old|rerun)\d+(/|$)")
_MUST_AGREE = ("benchmark", "version", "backbone", "data", "n")


class Point(NamedTuple):
    """A run, and the layers that it scanned: none for the backbone as it is."""

    run: FinishedRun
    layers: tuple[int, ...]

    @property
    def policy(self) -> Policy | None:
        """None for the backbone as it is."""
        return self.run.result.policy


def read_points(folders: Sequence[Path], bench: str) -> list[Point]:
    """Read finished runs, each once, in the order given.

    Args:
        folders: of runs or of sweeps, or that hold such in the folders below, as outputs/eval and outputs/sweeps do.
        bench: of runs of several benchmarks, take those of this one.

    Raises:
        ValueError: none is given, one is neither, or the runs are of different benchmarks, data or backbones.
    """
    if not folders:
        raise UserError(
            "runs= is empty; give folders of finished evaluations or sweeps, such as runs=outputs/sweeps/NAME"
        )
    runs: dict[Path, FinishedRun] = {}
    for folder in folders:
        runs |= {run.folder.resolve(): run for run in _runs_of(folder)}
    # a sweep may go over several benchmarks, a figure shows one
    benchmarks = list(dict.fromkeys(run.result.benchmark for run in runs.values()))
    if len(benchmarks) > 1:
        if bench not in benchmarks:
            raise UserError(
                f"the runs are of {', '.join(benchmarks)}, and bench={bench} is none of them; choose one"
            )
        runs = {folder: run for folder, run in runs.items() if run.result.benchmark == bench}
    points = [
        Point(run, () if run.result.policy is None else tuple(run.result.policy.layers))
        for run in runs.values()
    ]
    first = points[0].run
    for point in points:
        for key in _MUST_AGREE:
            one, other = getattr(first.result, key), getattr(point.run.result, key)
            if one != other:
                raise UserError(
                    f"{first.folder} has {key} {one} and {point.run.folder} {other}; a "
                    "figure needs runs over the same questions and backbone"
                )
    return points


def _runs_of(folder: Path) -> list[FinishedRun]:
    """The finished run in a folder, those of the sweep in it, or all runs and sweeps in the folders below.

    Of the latter, runs that `fresh=true` put aside and repetitions by `rerun=` are left out.
    """
    if (folder / SCORES).is_file():
        return [read_run(folder)]
    if (folder / JOBS).is_dir():
        return [job.run for job in read_jobs(folder)]
    files = [found for found in sorted(folder.rglob(SCORES)) if found.is_file()]
    below = [found.parent for found in (*files, *filter(Path.is_dir, sorted(folder.rglob(JOBS))))]
    chosen = [found for found in below if not _PUT_ASIDE.search("/".join(found.relative_to(folder).parts))]
    if not chosen:
        raise UserError(
            f"{folder} is neither a finished run (no {SCORES}) nor a sweep (no {JOBS}/), and holds none in the folders below"
        )
    runs = [run for found in chosen for run in _runs_of(found)]
    log.info("%s: %d finished runs below", folder, len(runs))
    return runs


def the_method(points: Sequence[Point], method: str | None) -> list[Point]:
    """The points of one method, the backbone as it is left out; None: of the only one there is.

    Raises:
        ValueError: there are none, or of several methods none was chosen.
    """
    acting = [point for point in points if point.policy]
    methods = list(dict.fromkeys(str(point.run.result.method) for point in acting))
    if method is None and len(methods) == 1:
        return acting
    if method is None or method not in methods:
        raise UserError(
            f"the runs are of methods {', '.join(methods) or '(vanilla only)'}; choose one with figure.method=, "
            f"got {method}"
        )
    return [point for point in acting if point.run.result.method == method]


def vanilla_of(points: Sequence[Point]) -> FinishedRun | None:
    """The run of the backbone as it is, if it is among them."""
    return next((point.run for point in points if not point.policy), None)


def main_metric(points: Sequence[Point], metric: str | None) -> str:
    """The metric of a figure: as named, or the benchmark's main one.

    Raises:
        ValueError: the runs have no such metric; lists those that they have.
    """
    result = points[0].run.result
    chosen = optional(text, "figure.metric", metric) or BENCHMARKS[result.benchmark].main
    if chosen not in result.metrics:
        raise UserError(f"figure.metric={chosen!r}: the runs have {', '.join(result.metrics)}")
    return str(chosen)


def with_unit(points: Sequence[Point], metric: str) -> str:
    """A metric as an axis names it."""
    return f"{metric} ({points[0].run.result.unit(metric)})"


def difference_with_unit(points: Sequence[Point], metric: str) -> str:
    """A difference in a metric as an axis names it: that of two percentages is in percentage points."""
    unit = points[0].run.result.unit(metric)
    return f"{metric} ({'percentage points' if unit == '%' else unit})"


def estimate(run: FinishedRun, metric: str) -> Estimate:
    """A metric with its interval; nan where the run gives none."""
    low, high = run.result.intervals.get(metric) or (float("nan"), float("nan"))
    return Estimate(run.result.metrics.get(metric, float("nan")), low, high)


def gain(vanilla: FinishedRun, run: FinishedRun, metric: str) -> Estimate:
    """By how much a run exceeds vanilla on the same questions, in pairs."""
    return compare(vanilla, run).differences[metric]


def about(points: Sequence[Point]) -> str:
    """What the runs are of, for a title."""
    result = points[0].run.result
    return f"{result.benchmark} on {result.backbone}, {result.data}, {result.n} questions"
