"""The paper's table layouts, filled with finished runs: what stands in which cell.

A score stands over its 95 % interval and beside the share of samples that expanded; the paper's value under ours. A
paper value that was not measured on the same backbone and data carries a mark. Reads no files.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from blink.bench import BENCHMARKS
from blink.evaluation.compare import UNREAD, Comparison, FinishedRun
from blink.evaluation.result import Result
from blink.evaluation.sweeps.experiments import Experiment, Line
from blink.evaluation.sweeps.paper import TABLES, PaperTable, Scores
from blink.evaluation.sweeps.text_tables import Grid, GridRow

Unlike = Mapping[str, Sequence[str]]
"""Benchmark -> in what our runs on it differ from the paper's, in words; empty if in nothing."""

MARK, POPE_MARK = "†", "‡"
"""After a paper value: not measured on the same backbone and data; one number for POPE, of which kind is not said."""

_EXPANDED = "expanded"
_EVENTS_A_LINE = 2

_POPE_NUMBER = "adversarial_accuracy"
"""Column beside which the paper's one number for POPE stands; a note says why."""

_METRICS = {
    "existence": "Exist.",
    "position": "Pos.",
    "celebrity": "Celeb.",
    "landmark": "Landm.",
    "artwork": "Artw.",
    "commonsense_reasoning": "CS",
    "numerical_calculation": "Num",
    "text_translation": "Text",
    "code_reasoning": "Code",
    "perception": "Perc.",
    "cognition": "Cogn.",
    "adversarial_accuracy": "adv. acc.",
    "popular_accuracy": "pop. acc.",
    "random_accuracy": "rand. acc.",
    "f1": "mean F1",
}


class Entry(NamedTuple):
    """A row of the experiment on one benchmark, and its run."""

    line: Line
    run: FinishedRun


class Difference(NamedTuple):
    """A row compared with its baseline or reference."""

    entry: Entry
    other: Entry
    found: Comparison


def columns(experiment: Experiment, result: Result) -> list[str]:
    """Return the metrics of a result that the experiment's table shows, in the paper's order."""
    bench = result.benchmark
    wanted = experiment.metrics.get(bench) or BENCHMARKS[bench].tabled
    return [name for name in wanted if name in result.metrics]


def main_grids(experiment: Experiment, entries: Sequence[Entry], unlike: Unlike) -> list[Grid]:
    """The table in the paper's layout: MME Perception, MME Cognition and the other benchmarks, as far as they are.

    Under each of our rows stands the paper's, if it has one; its rows that none of ours matches come last.
    """
    paper = TABLES.get(experiment.paper or "")
    shown = {bench: columns(experiment, run.result) for bench, run in first_runs(entries).items()}
    blocks: dict[str, list[tuple[str, str]]] = {}
    for bench, metrics in shown.items():
        parts: dict[str, list[str]] = {"other benchmarks": metrics}
        if groups := BENCHMARKS[bench].groups:
            parts = {BENCHMARKS[bench].title: metrics}
            if len(metrics) > len(BENCHMARKS[bench].compared):  # a group of its own needs more than sums
                part_of = {name: part for part, names in groups.items() for name in names}
                parts, last = {}, list(groups)[-1]
                for name in metrics:
                    parts.setdefault(part_of.get(name, last), []).append(name)
        for part, names in parts.items():
            if names:
                blocks.setdefault(part, []).extend((bench, name) for name in (*names, _EXPANDED))
    return [
        Grid(
            experiment.title if len(blocks) == 1 else f"{experiment.title}: {part}",
            "",
            [_heading(bench, name, alone=len(shown[bench]) == 1) for bench, name in block],
            [bench for bench, _ in block],
            list(_rows(entries, block, paper, unlike)),
        )
        for part, block in blocks.items()
    ]


def what_happened(entries: Sequence[Entry]) -> Grid:
    """Responses that are empty or unread, share of samples that expanded, cost of a question alone, and per scanned layer the shares that expanded, kept and dropped."""
    rows = []
    for line, run in entries:
        n = run.result.n
        events = [
            f"{layer}: "
            + "/".join(f"{100 * counts[action] / n:.0f}" for action in ("expand", "keep", "drop"))
            for layer, counts in (run.result.events or {}).items()
        ]
        lines = ["   ".join(events[i : i + _EVENTS_A_LINE]) for i in range(0, len(events), _EVENTS_A_LINE)]
        bench = BENCHMARKS[line.bench].title
        share = f"{run.result.expanded_percent:.1f} %"
        unread = run.result.unread_responses or "-"
        flops = run.result.gflops_per_question
        cost = "-" if flops is None else f"{flops:,.3g}"
        rows.append(GridRow(line.label, [bench, str(n), unread, share, cost, "\n".join(lines) or "-"]))
    headings = ["benchmark", "n", UNREAD, _EXPANDED, "GFLOP per question", "layer: % expand/keep/drop"]
    return Grid("What happened", "row", headings, [""] * len(headings), rows, numbers=False)


def difference_grid(differences: Sequence[Difference], paper: PaperTable | None, unlike: Unlike) -> Grid:
    """Paired differences of the main metrics, flips each way, McNemar's p, and the paper's difference."""
    rows = []
    for entry, other, found in differences:
        result, ours, printed = entry.run.result, [], []
        for name in main_metrics(result):
            if name not in found.differences:
                continue
            value, low, high = found.differences[name]
            interval = "" if math.isnan(low) else f" [{low:+z.1f}, {high:+z.1f}]"
            ours.append(f"{_words(name)} {value:+z.2f}{interval}")
            end, start = (paper_value(paper, side.line, name) for side in (entry, other))
            known = "" if end is None or start is None else f"{end - start:+.2f}"
            printed.append(f"{known}{_mark(unlike, entry.line.bench)}" if known else "")
        flips = found.flips
        kind = "noise: " if entry.line.noise else ""
        cells = [
            BENCHMARKS[entry.line.bench].title,
            "\n".join(ours),
            "\n".join(printed).rstrip("\n"),
            str(flips.only_second),
            str(flips.only_first),
            f"{flips.p:.3g}",
        ]
        rows.append(GridRow(f"{kind}{entry.line.label} - {other.line.label}", cells))
    headings = ["benchmark", "difference", "paper", "gained", "lost", "McNemar p"]
    return Grid(
        "Differences on the same questions", "pair", headings, [""] * len(headings), rows, numbers=False
    )


def main_metrics(result: Result) -> list[str]:
    """The metrics of a result that are compared, as far as it has them."""
    return [name for name in BENCHMARKS[result.benchmark].compared if name in result.metrics]


def paper_value(paper: PaperTable | None, line: Line, metric: str) -> float | None:
    """Return what the paper prints for a row and metric, or None where it prints nothing."""
    return None if paper is None else _printed(paper.rows.get(line.paper, {}), line.bench, metric)


def _printed(row: Scores, bench: str, metric: str) -> float | None:
    """The value of a paper's row for one of our metrics; a benchmark's only number stands beside the main one."""
    values = row.get(bench, {})
    only = _POPE_NUMBER if bench == "pope" else BENCHMARKS[bench].main
    return values.get("score") if "score" in values and metric == only else values.get(metric)


def _rows(
    entries: Sequence[Entry], block: Sequence[tuple[str, str]], paper: PaperTable | None, unlike: Unlike
) -> Iterator[GridRow]:
    """Our rows with the paper's below them, then the paper's that no row of ours matches."""
    benches = list(dict.fromkeys(bench for bench, _ in block))

    def printed(row: Scores) -> list[str]:
        values = [_printed(row, bench, name) for bench, name in block]
        return [
            ""
            if value is None
            else f"{value:.2f}{_mark(unlike, bench)}{POPE_MARK if bench == 'pope' else ''}"
            for value, (bench, _) in zip(values, block, strict=True)
        ]

    matched = set()
    for label in dict.fromkeys(entry.line.label for entry in entries):
        here = {entry.line.bench: entry for entry in entries if entry.line.label == label}
        if not here.keys() & set(benches):
            continue
        line = next(iter(here.values())).line
        below = None
        if paper is not None and line.paper in paper.rows:
            matched.add(line.paper)
            cells = printed(paper.rows[line.paper])
            below = (f"  {paper.number}", cells) if any(cells) else None
        ours = [_cell(here[bench].run, name) if bench in here else "" for bench, name in block]
        yield GridRow(label, ours, below, line.group)
    for name, row in ({} if paper is None else paper.rows).items():
        cells = printed(row)
        if name not in matched and any(cells):
            yield GridRow(f"{paper.number if paper else ''}: {name}", cells, None, "paper")


def _cell(run: FinishedRun, metric: str) -> str:
    """A score over its interval, or the share of samples that expanded."""
    if metric == _EXPANDED:
        return f"{run.result.expanded_percent:.1f} %"
    if metric not in run.result.metrics:
        return "-"
    bounds = run.result.intervals.get(metric)
    digits = 0 if run.result.unit(metric) == "points" else 1
    interval = "" if bounds is None else f"\n{bounds[0]:.{digits}f}..{bounds[1]:.{digits}f}"
    return f"{run.result.metrics[metric]:.2f}{interval}"


def _heading(bench: str, metric: str, *, alone: bool) -> str:
    """The heading of a column: of benchmarks with several columns the metric, of others (`alone`) the benchmark."""
    if metric == _EXPANDED:
        return _EXPANDED
    benchmark = BENCHMARKS[bench]
    if benchmark.groups:  # their titles name the benchmark
        return _words(metric)
    return benchmark.title if alone else f"{benchmark.title}\n{_words(metric)}"


def _words(metric: str) -> str:
    return _METRICS.get(metric, metric.replace("_", " ").capitalize() if metric.islower() else metric)


def first_runs(entries: Sequence[Entry]) -> dict[str, FinishedRun]:
    """Return the run of each benchmark's first row."""
    found: dict[str, FinishedRun] = {}
    for entry in entries:
        found.setdefault(entry.line.bench, entry.run)
    return found


def _mark(unlike: Unlike, bench: str) -> str:
    return MARK if unlike[bench] else ""
