"""The end of a multirun: `sweep.csv`, a table, a plot of the score against the swept key, and paired comparisons.

Jobs leave a note in the sweep's folder that says where their run lies, so the report works with any launcher that
shares the file system. Knows nothing of configs or models.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

from blink.bench import BENCHMARKS
from blink.bench.statistics import Estimate
from blink.evaluation.compare import (
    Comparison,
    FinishedRun,
    compare,
    comparison_record,
    comparison_table,
    read_run,
    score_table,
)
from blink.evaluation.result import Result
from blink.evaluation.sweeps.drawing import draw_lines, name_positions, score
from blink.inference.policy import Policy
from blink.runs.files import read_json, remove_partial, write_csv, write_json
from blink.runs.provenance import software
from blink.runs.style import legend_above, look, plain, save_figure, series_styles
from blink.runs.values import UserError, fits

log = logging.getLogger(__name__)

TABLE = "sweep.csv"
PLOT = "sweep.png"
COMPARISONS = "comparison.csv"
JOBS = "jobs"
"""Folder of a sweep with a note for each job."""
_METHOD, _BENCH = "method", "bench"
_MOST_LABELS = 6
_LETTERS_AN_INCH = 13
"""That a title takes at most."""


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
    jobs: tuple[Job, Job]


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
    with look():
        save_figure(plot(jobs, keys, pairs), sweep / PLOT, dpi=150)
    written = (TABLE, PLOT, *([COMPARISONS] if pairs else []))
    log.info("written to %s: %s", sweep, ", ".join(written))


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
    groups: dict[tuple[tuple[str, str], ...], list[Job]] = {}
    for job in jobs:
        shared = tuple((key, job.value(key)) for key in keys if key != _METHOD)
        groups.setdefault(shared, []).append(job)
    return [
        Pair(first.run.result.benchmark, dict(shared), compare(first.run, second.run), (first, second))
        for shared, here in groups.items()
        for first, second in combinations(here, 2)
    ]


def plot(jobs: Sequence[Job], keys: Sequence[str], pairs: Sequence[Pair] = ()) -> Figure:
    """Draw the main metric with its intervals against the swept key that has the most values, methods last.

    Each benchmark has a row of its own. The other swept keys become one line each per combination of their values;
    where each of many jobs has a combination of its own, as in a search, they are points of one kind. A key that is not
    a number is drawn as categories. Over methods, a second panel has the paired differences to the first one.

    Args:
        pairs: comparisons of methods.
    """
    panels = benchmarks(jobs)
    keys = [key for key in keys if key != _BENCH] or list(jobs[0].overrides)[:1]
    along = max(
        keys, key=lambda key: (key != _METHOD, len({job.value(key) for job in jobs})), default=_METHOD
    )
    others = [key for key in keys if key != along]
    to_first = _to_first(pairs)
    across = 2 if to_first else 1
    figure = Figure(figsize=(10 if to_first else 7, 0.6 + 3.9 * len(panels)), layout="constrained")
    grid = figure.subplots(len(panels), across, squeeze=False)
    for row, bench in zip(grid, panels, strict=True):
        here = [job for job in jobs if job.run.result.benchmark == bench]
        _panels(row, here, [pair for pair in to_first if pair.bench == bench], along, others)
    figure.suptitle(plain(_title(jobs, along, others), int(_LETTERS_AN_INCH * figure.get_figwidth()), 4))
    if to_first:
        note = "right: differences on the same questions, in pairs; filled: the interval leaves 0 out"
        figure.supxlabel(note, fontsize="small")
    return figure


def _title(jobs: Sequence[Job], along: str, others: Sequence[str]) -> str:
    """What the plot shows: benchmark, backbone, what is on the axes, and on how many questions."""
    found = benchmarks(jobs)
    named = ", ".join(BENCHMARKS[bench].title for bench in found)
    result = next(iter(found.values()))
    metric = result.headline[0].replace("_", " ") if len(found) == 1 else "main metric"
    lines = f", a line for each {' and '.join(others)}" if others else ""
    asked = "; ".join(f"{each.data}, {each.n:,} questions" for each in found.values())
    where = f" on {result.backbone}" if result.backbone else ""
    return f"{named}{where}: {metric} against {along}{lines}\n{asked}"


def _to_first(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs whose first method is the first of all that share its other swept keys."""
    first: dict[tuple[tuple[str, str], ...], str] = {}
    for pair in pairs:
        first.setdefault(tuple(pair.shared.items()), pair.jobs[0].value(_METHOD))
    return [pair for pair in pairs if pair.jobs[0].value(_METHOD) == first[tuple(pair.shared.items())]]


def _panels(
    row: Sequence[Axes], jobs: Sequence[Job], pairs: Sequence[Pair], along: str, others: Sequence[str]
) -> None:
    """Draw the jobs of one benchmark, and beside them the differences of pairs of them."""
    result = jobs[0].run.result
    main = result.headline[0]
    positions = _positions([job.overrides.get(along, job.run.label) for job in jobs])
    lines: dict[str, list[tuple[float, Estimate]]] = {}
    differences: dict[str, list[tuple[float, Estimate]]] = {}
    search = (
        len({job.label(others) for job in jobs}) == len(jobs) > _MOST_LABELS
    )  # no two jobs lie on one line
    for job in jobs:
        at = positions[job.overrides.get(along, job.run.label)]
        lines.setdefault("" if search else job.label(others), []).append((at, score(job.run, main)))
    for pair in pairs:
        job = pair.jobs[1]
        at = positions[job.overrides.get(along, job.run.label)]
        found = pair.comparison.differences.get(main, Estimate(math.nan, math.nan, math.nan))
        differences.setdefault("" if search else job.label(others), []).append((at, found))
    to_scale = all(as_number(name) is not None for name in positions)
    styles = dict(zip(lines, series_styles(len(lines)), strict=True))
    unit = result.unit(main)
    points = "percentage points" if unit == "%" else unit
    firsts = " or ".join(dict.fromkeys(pair.jobs[0].value(_METHOD) for pair in pairs))
    for axes, shown, label in zip(
        row,
        (lines, differences),
        (
            f"{result.benchmark} {main} ({unit}), 95 % interval",
            f"{main} less that of {firsts}\n({points}), 95 % interval",
        ),
        strict=False,
    ):
        draw_lines(axes, shown, styles, joined=to_scale and not search, against_zero=shown is differences)
        name_positions(axes, positions, to_scale=to_scale)
        axes.set_xlabel(f"{along} (lines side by side)" if len(shown) > 1 and to_scale else along)
        axes.set_ylabel(label)
        if others and not search:
            legend_above(axes)


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
