"""All measurements, into `docs/performance.md`: `python -m benchmarks`; takes the options of each."""

import time
from pathlib import Path

from benchmarks import extensions, never, on_paper, questions, sweep, training
from benchmarks.common import options
from benchmarks.report import machine, markdown, paper_table, show
from blink.hardware import has_bfloat16

MEASUREMENTS = (never, extensions, questions, sweep, training)

TARGET = Path("docs/performance.md")

HEAD = """# Performance

Written by `make bench` in {minutes:.0f} minutes. {machine}.

Ratios of two sides that ran in turn in one process: the ratio of their medians, in brackets the extremes over the
repetitions. "In FLOPs" is the same ratio counted on paper (`blink.cost`). The wide backbones have random weights, a few
decoder layers, and two layers of the vision tower.{bfloat16}
"""

NO_BFLOAT16 = " This machine has no bfloat16 in hardware: what bfloat16 costs here says little of machines that have it."


def main() -> None:
    asked = options(str(__doc__))
    started = time.monotonic()
    parts, misses = [], []
    for measurement in MEASUREMENTS:
        rows = show(measurement.measure(asked), measurement.WHY)
        parts += rows
        if not all(row.holds for row in rows):
            missed = "; ".join(f"{row.what} ({row.where})" for row in rows if not row.holds)
            misses.append(f"- {missed}. {measurement.WHY}")
    minutes = (time.monotonic() - started) / 60
    note = "" if has_bfloat16() else NO_BFLOAT16
    text = [HEAD.format(minutes=minutes, machine=machine(), bfloat16=note), markdown(parts)]
    if misses:
        text += ["", "## What misses its bar, and why", "", *misses]
    _, table = paper_table(on_paper.HEADER, on_paper.lines())
    text += ["", "## At full size, computed", "", f"Nothing here was measured. {on_paper.ASSUMED}", "", table]
    if asked.quick:
        print("\n".join(text))
    else:
        TARGET.write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
