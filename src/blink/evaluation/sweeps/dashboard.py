"""What a finished multirun logs as a run of its own: its tables and plots, every point, and the best one."""

import csv
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from blink.evaluation.dashboard import scores
from blink.evaluation.sweeps.report import Job, as_number, benchmarks, swept_keys
from blink.runs.boards.board import Axis, Board, Chart
from blink.runs.files import open_text

POINT = "point"
"""The axis of a sweep: its jobs, numbered as they were launched."""


def log_sweep(board: Board, jobs: Sequence[Job], folder: Path) -> None:
    """Log the finished jobs of a sweep, and the tables and plots in its folder."""
    keys = swept_keys(jobs)
    board.settings({"swept": keys, "benchmarks": list(benchmarks(jobs)), "points": len(jobs)})
    board.axis(POINT, "points")
    for number, job in enumerate(jobs):
        board.numbers(_point(job, keys), Axis(POINT, number))
    for path in sorted(folder.glob("*.csv")):
        with open_text(path, newline="") as file:
            names, *rows = csv.reader(file)
        columns = [_column(cells) for cells in zip(*rows, strict=True)]
        board.table(f"sweep/{path.stem}", names, zip(*columns, strict=True))
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as picture:
            board.pictures({f"sweep/{path.stem}_plot": picture})
    for bench in benchmarks(jobs):
        here = [job for job in jobs if job.run.result.benchmark == bench]
        if (chart := _chart(here, keys)) is not None:
            board.chart(f"sweep/{bench}", chart)
        best = max(here, key=_main)
        board.summary({f"best/{bench}": _main(best), f"best/{bench}_point": best.label(keys)})


def _point(job: Job, keys: Sequence[str]) -> dict[str, float | None]:
    """Score, intervals, share that expanded and cost of one job, and those of its swept values that are numbers."""
    result = job.run.result
    main = result.headline[0]
    found = scores(result)
    swept = {key: as_number(job.value(key)) for key in keys}
    return {
        "points/score": found["scores/main"],
        "points/score_low": found[f"intervals/{main}_low"],
        "points/score_high": found[f"intervals/{main}_high"],
        "points/expanded_percent": found["scores/expanded_percent"],
        "points/gflops_per_question": result.gflops_per_question,
        **{f"points/{key}": value for key, value in swept.items() if value is not None},
    }


def _chart(jobs: Sequence[Job], keys: Sequence[str]) -> Chart | None:
    """The main score against the swept number that has most values, a line per combination of the others."""
    numeric = [key for key in keys if all(as_number(job.value(key)) is not None for job in jobs)]
    counts = {key: len({job.value(key) for job in jobs}) for key in numeric}
    along = max(counts, key=lambda key: counts[key], default=None)
    if along is None or counts[along] < 2:
        return None
    others = [key for key in keys if key not in (along, "bench")]
    lines: dict[str, list[tuple[float, float]]] = {}
    for job in jobs:
        name = job.label(others) or str(job.run.result.method)
        lines.setdefault(name, []).append((float(job.value(along)), _main(job)))
    result = jobs[0].run.result
    title = f"{result.benchmark} {result.headline[0]}"
    return Chart(title, along, {name: sorted(points) for name, points in lines.items()})


def _main(job: Job) -> float:
    return job.run.result.metrics[job.run.result.headline[0]]


def _column(cells: Sequence[str]) -> list[float | str | None]:
    """Numbers where all cells that are not empty are, else texts."""
    values = [as_number(cell) for cell in cells]
    texts = any(cell and value is None for cell, value in zip(cells, values, strict=True))
    return list(cells) if texts else list(values)
