"""Finished runs side by side, and in pairs over the same questions: `python -m blink.compare FOLDER FOLDER ...`

A difference between two methods on the same questions is measured in pairs, with an interval over pictures;
flips and McNemar's p stand beside it. The share of samples that expanded is shown with every score, since a
method that never acts cannot differ.

Axes: G pictures, K sums in a tally.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from blink.bench import BENCHMARKS, Row, tallies
from blink.bench.results.given_rows import mark
from blink.bench.statistics import Estimate, McNemar, mcnemar, paired_estimates
from blink.evaluation.answering.rows import PREDICTIONS, readable_rows
from blink.evaluation.result import SCORES, Result
from blink.runs.values import UserError, about

UNREAD = "empty / unread"
"""Heading of how many responses are empty, and from how many the scorer reads nothing, so that its default counts."""

WITHOUT_BLINK = "answered without Blink"
"""Heading of how many questions a policy could not be used on: their pictures are too narrow for its regions."""

_SIDE_BY_SIDE = 4
"""How many runs fit beside each other on a screen."""


class FinishedRun(NamedTuple):
    """A finished evaluation.

    Attributes:
        label: what to call it beside others.
        folder: where it lies.
        result: what stands in its `scores.json`.
    """

    label: str
    folder: Path
    result: Result

    def rows(self) -> list[Row]:
        """Read its predictions.

        Raises:
            ValueError: there are none, or fewer or others than its scores are of, or a row lacks what its benchmark scores.
        """
        path = self.folder / PREDICTIONS
        if not path.is_file():
            raise UserError(f"{self.folder} holds no {PREDICTIONS}, of which its scores are")
        rows = readable_rows(path, path.read_bytes().split(b"\n")[:-1])
        if len(rows) != self.result.n:
            raise UserError(
                f"{path} has {len(rows):,} whole rows, and the scores beside it are of {self.result.n:,}: the run's command "
                "answers the others anew"
            )
        benchmark = BENCHMARKS[self.result.benchmark]()
        with about(path):
            for row in rows:
                mark(benchmark, row)  # raises where a column that scores are made of is missing, or is none
        return rows


def told_apart(runs: Sequence[FinishedRun]) -> list[FinishedRun]:
    """Runs of which several have one label, named by the parts of their folders' names in which they differ."""
    if len({run.label for run in runs}) == len(runs):
        return list(runs)
    parts = [run.folder.resolve().name.split("+") for run in runs]
    own = [" ".join(part for part in mine if any(part not in other for other in parts)) for mine in parts]
    names = own if len(set(own)) == len(runs) and all(own) else ["+".join(mine) for mine in parts]
    return [run._replace(label=name) for run, name in zip(runs, names, strict=True)]


class Comparison(NamedTuple):
    """What the second run gains over the first on the same questions.

    Attributes:
        first, second: labels of the runs.
        differences: second less first for each metric, with intervals over pictures, in the metric's unit (for
            percentages: percentage points).
        flips: answers that only the first, or only the second run has right, and McNemar's exact p.
        expanded: share of samples that expanded in each run.
        unread: number of responses from which the scorer read nothing in each run.
    """

    first: str
    second: str
    differences: dict[str, Estimate]
    flips: McNemar
    expanded: tuple[float | None, float | None]
    unread: tuple[int | None, int | None] = (None, None)


def read_run(folder: Path, label: str | None = None) -> FinishedRun:
    """Read a run from its folder; without a label it is named after its method.

    Raises:
        ValueError: the folder holds no finished run.
    """
    path = folder / SCORES
    if not path.is_file():
        raise UserError(f"{folder} holds no {SCORES}: give the folder of a finished `python -m blink.eval`")
    result = Result.read(path)
    if result.benchmark not in BENCHMARKS:
        raise UserError(
            f"{path} is of benchmark={result.benchmark!r}; expected one of {', '.join(BENCHMARKS)}"
        )
    return FinishedRun(label or str(result.method), folder, result)


def compare(first: FinishedRun, second: FinishedRun) -> Comparison:
    """Compare two runs over the same questions; see `compare_pairs`."""
    return compare_pairs([first, second], [(0, 1)])[0]


def compare_pairs(runs: Sequence[FinishedRun], pairs: Sequence[tuple[int, int]]) -> list[Comparison]:
    """Compare runs over the same questions.

    Args:
        pairs: (first, second), indices into `runs`.

    Raises:
        ValueError: they are of different benchmarks or versions, or about different questions.
    """
    if not pairs:
        return []
    rows = [run.rows() for run in runs]
    for run, part in zip(runs, rows, strict=True):
        check_comparable(runs[0], rows[0], run, part)
    benchmark = BENCHMARKS[runs[0].result.benchmark]()
    metrics = [benchmark.metrics(tallies(benchmark, part)) for part in rows]
    found = []
    for i, j in pairs:
        estimates = paired_estimates(metrics[i], metrics[j])
        marks = [(a["correct"], b["correct"]) for a, b in zip(rows[i], rows[j], strict=True)]
        scored = np.array([mark for mark in marks if None not in mark], dtype=bool).reshape(-1, 2)
        found.append(
            Comparison(
                runs[i].label,
                runs[j].label,
                {name: estimate for name, estimate in estimates.items() if not np.isnan(estimate.value)},
                mcnemar(scored[:, 0], scored[:, 1]),
                (runs[i].result.expanded, runs[j].result.expanded),
                (runs[i].result.unread, runs[j].result.unread),
            )
        )
    return found


def score_table(runs: Sequence[FinishedRun]) -> Table:
    """The scores with 95 % intervals, what expanded, and how many responses are empty or unread; few runs side by side,
    many as lines.

    Lines show the main two metrics only.
    """
    result = runs[0].result
    title = f"{result.benchmark} ({result.version}), {result.data}, {result.n} questions"
    caption = (
        result.unread_as and f"a response from which the scorer reads nothing counts as {result.unread_as}"
    )
    if len(runs) > _SIDE_BY_SIDE:
        names = result.headline[:2]
        table = Table("run", title=title, caption=caption)
        for name in names:
            table.add_column(_heading(result, name), justify="right")
        table.add_column("expanded", justify="right")
        table.add_column(UNREAD, justify="right")
        narrow = any(run.result.without_blink for run in runs)
        if narrow:
            table.add_column(WITHOUT_BLINK, justify="right")
        for run in runs:
            scores = (_score(run, name) for name in names)
            more = [f"{run.result.without_blink or 0:,}"] if narrow else []
            table.add_row(
                run.label, *scores, _percent(run.result.expanded), run.result.unread_responses, *more
            )
        return table
    table = Table("", title=title, caption=caption, min_width=len(title))
    for run in runs:
        table.add_column(run.label, justify="right")
    for name in result.headline:
        table.add_row(_heading(result, name), *(_score(run, name) for run in runs))
    if any(run.result.expanded is not None for run in runs):
        table.add_row("expanded", *(_percent(run.result.expanded) for run in runs))
    if any(run.result.without_blink for run in runs):
        table.add_row(WITHOUT_BLINK, *(f"{run.result.without_blink or 0:,}" for run in runs))
    unread = (UNREAD, lambda run: run.result.unread_responses)
    for name, cell in (unread, ("questions/s", _rate), ("GFLOP per question, alone", _gigaflops)):
        cells = [cell(run) for run in runs]
        if any(cells):
            table.add_row(name, *cells)
    return table


def _rate(run: FinishedRun) -> str:
    rate = run.result.questions_per_second
    return "" if rate is None else f"{rate:.3g}"


def _gigaflops(run: FinishedRun) -> str:
    flops = run.result.gflops_per_question
    if flops is None:  # of a file of rows nobody asked for them
        return "not counted" if run.result.predictions is None else ""
    return f"{flops:,.3g}"


def comparison_table(comparisons: Sequence[Comparison], result: Result) -> Table:
    """A row per pair: differences of the main two metrics, flips each way, McNemar's p, what expanded.

    Args:
        result: of one of the runs.
    """
    headline = result.headline[:2]
    table = Table(title="differences on the same questions (95 % intervals over pictures)")
    table.add_column("pair")
    for name in headline:
        table.add_column(_heading(result, name), justify="right")
    for column in ("gained", "lost", "McNemar p", "expanded"):
        table.add_column(column, justify="right")
    for pair in comparisons:
        cells = [
            f"{pair.differences[name].value:+z.2f}{_interval(pair.differences[name][1:], sign='+')}"
            for name in headline
        ]
        table.add_row(
            f"{pair.second} - {pair.first}",
            *cells,
            f"{pair.flips.only_second}",
            f"{pair.flips.only_first}",
            f"{pair.flips.p:.3g}",
            f"{_percent(pair.expanded[1])} - {_percent(pair.expanded[0])}",
        )
    return table


def comparison_record(pair: Comparison) -> dict[str, Any]:
    """A comparison as one flat row for a CSV file."""
    record: dict[str, Any] = {"first": pair.first, "second": pair.second}
    for name, estimate in pair.differences.items():
        value, low, high = (round(number, 4) for number in estimate)
        record |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return record | {
        "gained": pair.flips.only_second,
        "lost": pair.flips.only_first,
        "mcnemar_p": pair.flips.p,
        "first_expanded": pair.expanded[0],
        "second_expanded": pair.expanded[1],
        "first_unread": pair.unread[0],
        "second_unread": pair.unread[1],
    }


def screen() -> Console:
    """The terminal, or where there is none a page wide enough for the tables; brackets are no markup here."""
    return Console(markup=False, width=None if sys.stdout.isatty() else 110)


def check_comparable(
    first: FinishedRun, rows: Sequence[Row], second: FinishedRun, others: Sequence[Row]
) -> None:
    """Raise ValueError unless two runs are of one benchmark and about the same questions."""
    for key in ("benchmark", "version"):
        one, other = getattr(first.result, key), getattr(second.result, key)
        if one != other:
            raise UserError(
                f"{first.folder} has {key} {one} and {second.folder} {other}; "
                "only runs of the same benchmark compare"
            )
    asked = [[(row["id"], row["image"], row["label"]) for row in part] for part in (rows, others)]
    if asked[0] != asked[1]:
        raise UserError(
            f"{first.folder} ({len(rows)} rows) and {second.folder} ({len(others)} rows) are not about the "
            "same questions; evaluate both with the same benchmark, data and limit"
        )


def _interval(bounds: Sequence[float] | None, sign: str = "") -> str:
    """Format the bounds of an interval; nothing where there is none."""
    if bounds is None or np.isnan(bounds).any():
        return ""
    low, high = bounds
    return f" [{low:{sign}z.1f}, {high:{sign}z.1f}]"


def _score(run: FinishedRun, name: str) -> str:
    metrics, intervals = run.result.metrics, run.result.intervals
    return f"{metrics[name]:.2f}{_interval(intervals[name])}" if name in metrics else "-"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _heading(result: Result, name: str) -> str:
    """A metric in words, with its unit unless that is percent."""
    found = result.unit(name)
    return name.replace("_", " ") + ("" if found == "%" else f" ({found})")
