"""The end of a multirun: `sweep.csv`, a table, a plot of the score against the swept key, and paired comparisons.

Jobs leave a note in the sweep's folder that says where their run lies, so the report works with any launcher that
shares the file system. Knows nothing of configs or models.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

from blink.evaluation.compare import (
    Comparison,
    FinishedRun,
    compare,
    comparison_record,
    comparison_table,
    read_run,
    score_table,
)
from blink.evaluation.scores import Result
from blink.inference.policy import Policy
from blink.runs.files import read_json, remove_partial, write_csv, write_json
from blink.runs.provenance import software
from blink.runs.style import save_figure
from blink.runs.values import UserError, fits

TABLE = "sweep.csv"
PLOT = "sweep.png"
COMPARISONS = "comparison.csv"
JOBS = "jobs"
"""Folder of a sweep with a note for each job."""
_METHOD, _BENCH = "method", "bench"
_MOST_LABELS = 6


class Job(NamedTuple):
    """One finished job: its overrides (key -> value as written) and its run."""

    overrides: dict[str, str]
    run: FinishedRun

    def value(self, key: str) -> str:
        """Its value of an override; of one that it was not given the method that was used, or nothing."""
        return self.overrides.get(key, str(self.run.result.method) if key == _METHOD else "")

    def label(self, keys: Sequence[str]) -> str:
        """Its name by some of the overrides, those that are swept."""
        return point_label({key: self.value(key) for key in keys})


class Pair(NamedTuple):
    """A comparison of two methods on a benchmark, and the values of the other swept keys that they share."""

    bench: str
    shared: dict[str, str]
    comparison: Comparison


def note_job(sweep: Path, number: int, overrides: Sequence[str], folder: Path) -> None:
    """Record in the sweep's folder where the run of job `number` lies."""
    notes = sweep / JOBS
    notes.mkdir(parents=True, exist_ok=True)
    note = {"overrides": list(overrides), "folder": str(folder.resolve())}
    remove_partial(notes, f"{number:04d}.json")
    write_json(notes / f"{number:04d}.json", note)


def report(sweep: Path, console: Console) -> None:
    """Write `sweep.csv`, `sweep.png` and, with several methods, `comparison.csv`; print the same.

    Raises:
        ValueError: no job left a note, or its run is not finished.
    """
    jobs = read_jobs(sweep)
    keys = swept_keys(jobs)
    labelled = [job.run._replace(label=job.label(keys)) for job in jobs]
    for bench in benchmarks(jobs):
        console.print(score_table([run for run in labelled if run.result.benchmark == bench]))
    write_csv(sweep / TABLE, [_record(job, keys) for job in jobs])
    pairs = method_pairs(jobs, keys)
    for bench, result in benchmarks(jobs).items():
        shown = [_named(pair) for pair in pairs if pair.bench == bench]
        if shown:
            console.print(comparison_table(shown, result))
    if pairs:
        write_csv(sweep / COMPARISONS, [pair.shared | comparison_record(pair.comparison) for pair in pairs])
    save_figure(plot(jobs, keys), sweep / PLOT, dpi=150)
    written = (TABLE, PLOT, *([COMPARISONS] if pairs else []))
    console.print(f"written to {sweep}: {', '.join(written)}", soft_wrap=True)


def read_jobs(sweep: Path) -> list[Job]:
    """Read the finished jobs of a sweep, in the order in which they were launched."""
    jobs = []
    for path in sorted((sweep / JOBS).glob("*.json")):
        try:
            note = read_json(path)
            if not (fits(note["overrides"], Sequence[str]) and fits(note["folder"], str)):
                raise TypeError("it does not say where a job's run lies")
        except (KeyError, TypeError, ValueError) as cause:
            raise UserError(f"{path} is damaged ({cause}); the multirun's command writes it anew") from cause
        pairs = (override.lstrip("+").partition("=") for override in note["overrides"])
        jobs.append(Job({key: value for key, _, value in pairs}, read_run(Path(note["folder"]))))
    if not jobs:
        raise UserError(f"no job of the sweep {sweep} has finished")
    return jobs


def benchmarks(jobs: Sequence[Job]) -> dict[str, Result]:
    """Return the benchmarks of the jobs, each with the result of its first job."""
    found: dict[str, Result] = {}
    for job in jobs:
        found.setdefault(job.run.result.benchmark, job.run.result)
    return found


def swept_keys(jobs: Sequence[Job]) -> list[str]:
    """Return the overrides that differ between jobs, in the order in which they were given."""
    return [key for key in jobs[0].overrides if len({job.value(key) for job in jobs}) > 1]


def method_pairs(jobs: Sequence[Job], keys: Sequence[str]) -> list[Pair]:
    """Compare each two methods wherever the other swept keys agree; empty unless methods were swept."""
    if _METHOD not in keys:
        return []
    groups: dict[tuple[tuple[str, str], ...], list[FinishedRun]] = {}
    for job in jobs:
        shared = tuple((key, job.value(key)) for key in keys if key != _METHOD)
        groups.setdefault(shared, []).append(job.run)
    return [
        Pair(first.result.benchmark, dict(shared), compare(first, second))
        for shared, runs in groups.items()
        for first, second in combinations(runs, 2)
    ]


def plot(jobs: Sequence[Job], keys: Sequence[str]) -> Figure:
    """Draw the main metric with its intervals against the swept key that has the most values, methods last.

    Each benchmark has a panel of its own. The other swept keys become one line each per combination of their values;
    where each of many jobs has a combination of its own, as in a search, they are points of one kind. A key that is not
    a number is drawn as categories.
    """
    panels = benchmarks(jobs)
    keys = [key for key in keys if key != _BENCH] or list(jobs[0].overrides)[:1]
    along = max(
        keys, key=lambda key: (key != _METHOD, len({job.value(key) for job in jobs})), default=_METHOD
    )
    others = [key for key in keys if key != along]
    figure = Figure(figsize=(7, 4.5 * len(panels)), layout="constrained")
    for axes, bench in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        _panel(axes, [job for job in jobs if job.run.result.benchmark == bench], along, others)
    return figure


def _panel(axes: Axes, jobs: Sequence[Job], along: str, others: Sequence[str]) -> None:
    """Draw the jobs of one benchmark."""
    result = jobs[0].run.result
    main = result.headline[0]
    lines: dict[str, list[Job]] = {}
    for job in jobs:
        lines.setdefault(job.label(others), []).append(job)
    search = len(lines) == len(jobs) > _MOST_LABELS  # no two jobs lie on one line
    if search:
        lines = {"": list(jobs)}
    positions = _positions([job.overrides.get(along, job.run.label) for job in jobs])
    to_scale = all(as_number(name) is not None for name in positions)
    for label, line in lines.items():
        points = sorted(
            (positions[job.overrides.get(along, job.run.label)], _estimate(job, main)) for job in line
        )
        x = [position for position, _ in points]
        value, below, above = zip(*(estimate for _, estimate in points), strict=True)
        style = "-" if to_scale and not search else ""  # between names there is nothing to join
        axes.errorbar(
            x, value, yerr=(below, above), marker="o", linestyle=style, capsize=3, label=label or None
        )
    if not to_scale:
        axes.set_xticks(list(positions.values()), list(positions))
    axes.set_xlabel(along)
    axes.set_ylabel(f"{result.benchmark} {main} ({result.unit(main)}), 95 % interval")
    if others and not search:
        axes.legend(fontsize="small")


def _record(job: Job, keys: Sequence[str]) -> dict[str, Any]:
    """A job as one flat row: swept keys, settings used, metrics with intervals, costs, and its folder."""
    result = job.run.result
    record: dict[str, Any] = {key: job.value(key) for key in keys}
    record |= {"used_method": result.method, **_settings(result.policy)}
    for name, value in result.metrics.items():
        low, high = result.intervals[name] or (math.nan, math.nan)
        record |= {name: round(value, 4), f"{name}_low": round(low, 4), f"{name}_high": round(high, 4)}
    costs = (
        "n",
        "images",
        "empty",
        "unread",
        "expanded",
        "without_blink",
        "flops",
        "seconds",
        "peak_memory_mb",
    )
    record |= {name: getattr(result, name) for name in costs}
    made_with = software(result.provenance) if result.provenance else None
    return record | {"made_with": made_with, "folder": str(job.run.folder)}


def _settings(policy: Policy | None) -> dict[str, Any]:
    layers = () if policy is None else policy.layers
    others = {
        f"used_{name}": getattr(policy, name, None)
        for name in ("tau_exp", "tau_drop", "patches", "positions")
    }
    return {"used_layers": " ".join(map(str, layers)), **others}


def _named(pair: Pair) -> Comparison:
    """The comparison with what its methods share in its name."""
    shared = point_label(pair.shared)
    return pair.comparison._replace(first=f"{pair.comparison.first} {shared}".strip())


def point_label(values: Mapping[str, str]) -> str:
    """Name a job by the values of swept overrides; a method needs no key."""
    return " ".join(value if key == _METHOD else f"{key}={value}" for key, value in values.items())


def _estimate(job: Job, metric: str) -> tuple[float, float, float]:
    """The value of a metric, and how far its interval reaches below and above."""
    value = job.run.result.metrics.get(metric, math.nan)
    low, high = job.run.result.intervals.get(metric) or (value, value)
    return value, value - low, high - value


def _positions(values: Sequence[str]) -> dict[str, float]:
    """Position of each value of the swept key on the axis: its number, or 0, 1, 2 ... where not all are numbers."""
    distinct = list(dict.fromkeys(values))
    numbers = {value: number for value in distinct if (number := as_number(value)) is not None}
    if len(numbers) == len(distinct):
        return numbers
    return {value: float(position) for position, value in enumerate(distinct)}


def as_number(text: str) -> float | None:
    """The number that a text holds; None if it holds something else."""
    try:
        return float(text)
    except ValueError:
        return None
