"""The end of an experiment: the paper's table from finished runs, on screen and in files.

The table in the paper's layout, what happened inside the model, paired differences of every row with its baseline and
reference, and what to know about them: on screen, as `table.md` and `table.csv` (one line per row, benchmark and
metric), `comparison.csv` (one line per difference) and a plot.
"""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from blink.bench import BENCHMARKS
from blink.bench.statistics import Estimate
from blink.evaluation.compare import compare_pairs, comparison_record
from blink.evaluation.sweeps.drawing import score
from blink.evaluation.sweeps.experiments import Experiment, Line
from blink.evaluation.sweeps.paper import POPE_REMARK, TABLES, PaperTable
from blink.evaluation.sweeps.paper_tables import (
    MARK,
    POPE_MARK,
    Difference,
    Entry,
    Unlike,
    difference_grid,
    first_runs,
    main_grids,
    paper_value,
    what_happened,
)
from blink.evaluation.sweeps.report import COMPARISONS, read_jobs
from blink.evaluation.sweeps.text_tables import markdown, on_screen, transposed
from blink.runs.files import write_csv, write_text
from blink.runs.folder import CONFIG_FILE, read_config
from blink.runs.names import run_name
from blink.runs.provenance import software
from blink.runs.style import interval_rows, look, plain, save_figure, series_styles
from blink.runs.values import UserError

log = logging.getLogger(__name__)

MARKDOWN, CSV, PLOT = "table.md", "table.csv", "table.png"
_MOST_COLUMNS = 7
"""Beside the labels, on a screen."""
_LETTERS_AN_INCH = 13
"""That a title takes at most."""
_NONE = Estimate(math.nan, math.nan, math.nan)


def report(folder: Path, experiment: Experiment, lines: Sequence[Line], console: Console) -> None:
    """Write `table.md`, `table.csv`, `comparison.csv` and `table.png` into the sweep's folder, and print the tables.

    Raises:
        ValueError: a row has no finished run, or its runs are about different questions.
    """
    entries = read_entries(folder, lines)
    differences = compared(entries)
    paper = TABLES.get(experiment.paper or "")
    unlike = {bench: differs(entries, bench, paper) for bench in first_runs(entries)}
    tables = main_grids(experiment, entries, unlike)
    grids = [
        *(map(transposed, tables) if experiment.transposed else tables),
        what_happened(entries),
        *([difference_grid(differences, paper, unlike)] if differences else []),
    ]
    remarks = notes(experiment, entries, paper, unlike)
    for grid in grids:
        for table in on_screen(grid, _MOST_COLUMNS):
            console.print(table)
    for note in remarks:
        console.print(f"- {note}", soft_wrap=True)
    text = [f"# {experiment.title}", *map(markdown, grids), "\n".join(f"- {note}" for note in remarks)]
    write_text(folder / MARKDOWN, "\n\n".join(text) + "\n")
    write_csv(folder / CSV, records(entries, paper, unlike))
    write_csv(folder / COMPARISONS, [difference_record(difference) for difference in differences])
    with look():
        save_figure(plot(experiment, entries, differences), folder / PLOT, dpi=150)
    log.info("written to %s: %s", folder, ", ".join((MARKDOWN, CSV, COMPARISONS, PLOT)))


def read_entries(folder: Path, lines: Sequence[Line]) -> list[Entry]:
    """Find the run of every row by its overrides.

    Raises:
        ValueError: a row has no finished run.
    """
    runs = {
        run_name([f"{key}={value}" for key, value in job.overrides.items()]): job.run
        for job in read_jobs(folder)
    }
    entries = []
    for line in lines:
        run = runs.get(run_name(line.overrides))
        if run is None:
            raise UserError(f"{folder}: the row {line.label!r} on {line.bench} has no finished run")
        entries.append(Entry(line, run._replace(label=line.label)))
    return entries


def compared(entries: Sequence[Entry]) -> list[Difference]:
    """Compare every row with its baseline and references, about the same questions.

    A benchmark may be asked several times, of pictures of each difficulty for instance.
    """
    found: list[Difference] = []
    for here in _alike(entries):
        indices = {entry.line.name: i for i, entry in enumerate(here)}
        pairs = [
            (indices[name], i)
            for i, entry in enumerate(here)
            for name in entry.line.against
            if name in indices
        ]
        comparisons = compare_pairs([entry.run for entry in here], pairs)
        found += [
            Difference(here[second], here[first], comparison)
            for (first, second), comparison in zip(pairs, comparisons, strict=True)
        ]
    return found


def _alike(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Entries of one benchmark and one sweep of the user's own, which are about the same questions."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.line.bench, entry.line.swept), []).append(entry)
    return list(groups.values())


def differs(entries: Sequence[Entry], bench: str, paper: PaperTable | None) -> list[str]:
    """List how the runs on a benchmark differ from the paper's, beside their settings."""
    found: list[str] = []
    for run in (entry.run for entry in entries if entry.line.bench == bench):
        result, path = run.result, run.folder / CONFIG_FILE
        config = read_config(path) if path.exists() else {}
        family = config.get("model", {}).get("family", "unknown")
        if paper is not None and family != paper.family:
            found.append(f"backbone {result.backbone or family} instead of {paper.family}")
        if result.data.startswith("scenes"):
            found.append(f"{result.data} instead of the benchmark's own pictures")
        if config.get("limit") is not None:
            found.append(f"the first {config['limit']} questions only")
    return list(dict.fromkeys(found))


def notes(
    experiment: Experiment,
    entries: Sequence[Entry],
    paper: PaperTable | None,
    unlike: Unlike,
) -> list[str]:
    """Explain the cells, differences from the paper's setting, and warnings of the runs."""
    remarks = [
        "under each score: its 95 % interval over pictures; in points on MME, else in %. expanded: share "
        "of samples with at least one expansion"
    ]
    if any(entry.line.noise for entry in entries):
        remarks.append(
            "noise: the same run with questions batched otherwise (engine.reuse), which changes nothing but rounding; a "
            "difference that is no larger is none"
        )
    if paper is not None:
        if experiment.transposed:
            remarks.append(f"in brackets: {paper.number}")
        for reasons in dict.fromkeys(tuple(reasons) for reasons in unlike.values() if reasons):
            alike = [BENCHMARKS[bench].title for bench, other in unlike.items() if tuple(other) == reasons]
            remarks.append(
                f"{MARK} {paper.number} and these runs on {', '.join(alike)} do not compare: {'; '.join(reasons)}"
            )
        if "pope" in unlike and any("pope" in row for row in paper.rows.values()):
            remarks.append(f"{POPE_MARK} {POPE_REMARK}")
        remarks += [f"{paper.number}: {remark}" for remark in paper.remarks]
    made_with = dict.fromkeys(
        software(entry.run.result.provenance) for entry in entries if entry.run.result.provenance
    )
    remarks += [f"made with {words}" for words in made_with]
    warnings = dict.fromkeys(warning for entry in entries for warning in entry.run.result.warnings)
    return remarks + [f"warning: {warning}" for warning in warnings]


def records(entries: Sequence[Entry], paper: PaperTable | None, unlike: Unlike) -> list[dict[str, Any]]:
    """Return one flat record per row, benchmark and metric."""
    found = []
    for line, run in entries:
        result = run.result
        policy = result.policy
        for metric, value in result.metrics.items():
            low, high = result.intervals[metric] or (None, None)
            found.append(
                {
                    "row": line.label,
                    "benchmark": line.bench,
                    "metric": metric,
                    "value": value,
                    "low": low,
                    "high": high,
                    "unit": result.unit(metric),
                    "paper": paper_value(paper, line, metric),
                    "differs_from_paper": "; ".join(unlike[line.bench]),
                    "expanded": result.expanded,
                    "events": json.dumps(result.events),
                    "empty": result.empty,
                    "unread": result.unread,
                    "n": result.n,
                    "images": result.images,
                    "version": result.version,
                    "method": result.method,
                    "layers": " ".join(map(str, policy.layers if policy else ())),
                    "tau_exp": policy and policy.tau_exp,
                    "tau_drop": policy and policy.tau_drop,
                    "overrides": " ".join(line.overrides),
                    "folder": str(run.folder),
                }
            )
    return found


def difference_record(difference: Difference) -> dict[str, Any]:
    """Return a difference as one flat record."""
    line = difference.entry.line
    return {"benchmark": line.bench, "noise": line.noise, **comparison_record(difference.found)}


def plot(experiment: Experiment, entries: Sequence[Entry], differences: Sequence[Difference] = ()) -> Figure:
    """Draw the main metric of every row with its interval, and its paired difference to the baseline; benchmarks below each other.

    A band shows the baseline. Rows of one method have one colour.
    """
    benches = first_runs(entries)
    counts = [sum(entry.line.bench == bench for entry in entries) for bench in benches]
    across = 2 if differences else 1
    figure = Figure(
        figsize=(5.5 + 3.5 * (across - 1), 0.9 + sum(0.8 + 0.3 * n for n in counts)), layout="constrained"
    )
    grid = figure.subplots(
        len(benches), across, squeeze=False, sharey="row", height_ratios=[n + 1 for n in counts]
    )
    for row, (bench, first) in zip(grid, benches.items(), strict=True):
        metric, unit = BENCHMARKS[bench].main, first.result.unit(BENCHMARKS[bench].main)
        here = [entry for entry in entries if entry.line.bench == bench]
        groups = list(dict.fromkeys(entry.line.group for entry in here))
        styles = series_styles(len(groups))
        colours = [styles[groups.index(line.group)].colour for line, _ in here]
        found = {line.label: score(run, metric) for line, run in here}
        interval_rows(row[0], found, colours)
        for line, run in here:
            if (
                line.name.removesuffix(line.swept) == experiment.baseline
                and not np.isnan(score(run, metric)).any()
            ):
                value, low, high = score(run, metric)
                row[0].axvspan(low, high, color="0.93", zorder=0)
                row[0].axvline(value, color="0.7", linewidth=1, zorder=0)
        named = f"{BENCHMARKS[bench].title}: {metric.replace('_', ' ')} ({unit})"
        row[0].set_xlabel(
            plain(named if _all_have_intervals(found) else f"{named}; bars where there is an interval")
        )
        if differences:
            paired = {
                difference.entry.line.label: difference.found.differences.get(metric, _NONE)
                for difference in differences
                if difference.entry.line.bench == bench
                and difference.other.line.name == experiment.baseline + difference.entry.line.swept
            }
            interval_rows(
                row[1], {label: paired.get(label, _NONE) for label in found}, colours, against_zero=True
            )
            points = "percentage points" if unit == "%" else unit
            row[1].set_xlabel(plain(f"less {experiment.baseline}'s, in pairs ({points})"))
            row[1].tick_params(labelleft=False)
    result = next(iter(benches.values())).result
    asked = f"{result.data}, {result.n:,} questions" if len(benches) == 1 else ""
    about = ", ".join(part for part in (result.backbone, asked) if part)
    width = int(_LETTERS_AN_INCH * figure.get_figwidth())
    figure.suptitle("\n".join(plain(text, width) for text in (experiment.title, about)))
    filled = "; filled at the right: the interval leaves 0 out" if differences else ""
    figure.supxlabel(f"bars: 95 % intervals over pictures{filled}", fontsize="small")
    return figure


def _all_have_intervals(found: Mapping[str, Estimate]) -> bool:
    return not any(np.isnan(estimate).any() for estimate in found.values())
