"""Rows on the screen and in `docs/performance.md`, with the machine that they were measured on."""

import os
import platform
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path

import torch
import transformers
from rich.console import Console
from rich.table import Table

from benchmarks.common import Options, Row, command_line
from blink.runs.machine import keep_freed_memory


def show(rows: Iterable[Row], why: str) -> list[Row]:
    """Print rows as they come, and at the end why any misses its bar."""
    console, found = Console(), []
    for row in rows:
        found.append(row)
        floor = "" if row.floor is None else f", in FLOPs {row.floor:.3g}"
        verdict = "holds" if row.holds else "MISSES"
        console.print(
            f"{row.what} | {row.where} | {_spread(row)} ({row.bar}: {verdict}{floor}) {row.note}",
            soft_wrap=True,
            highlight=False,
        )
    if not all(row.holds for row in found):
        console.print(why, soft_wrap=True)
    return found


def main(
    part: str, description: str | None, measures: Sequence[Callable[[Options], Iterable[Row]]], why: str
) -> None:
    """The command line of one part: measure with its options, and print the rows.

    Args:
        part, description: as `command_line` takes them.
        measures: one per kind of backbone.
        why: printed where a row misses its bar.
    """
    options = Options.of(command_line(part, description).parse_args())
    keep_freed_memory()  # as the commands do; it is quicker for both sides
    show(chain.from_iterable(measure(options) for measure in measures), why)


def markdown(rows: Sequence[Row]) -> str:
    """A table of rows."""
    lines = ["| what | where | measured | bar | holds | in FLOPs | |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        floor = "" if row.floor is None else f"{row.floor:.3g}"
        holds = "yes" if row.holds else "**no**"
        cells = (row.what, row.where, _spread(row), row.bar, holds, floor, row.note)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def machine() -> str:
    """What the numbers were measured on, in one line."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    threads = f", {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return (
        f"{device}{threads}; Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}"
    )


def paper_table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> tuple[Table, str]:
    """The same table for the screen and as Markdown."""
    table = Table(*header)
    written = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for line in lines:
        table.add_row(*line)
        written.append("| " + " | ".join(line) + " |")
    return table, "\n".join(written)


def _spread(row: Row) -> str:
    return f"{row.value:.3g} [{row.low:.3g}, {row.high:.3g}]"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
