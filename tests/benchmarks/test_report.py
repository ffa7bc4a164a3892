"""Rows as a table, and the page of all."""

from benchmarks import pictures, sweep
from benchmarks.__main__ import page
from benchmarks.common import Row
from benchmarks.records import Record
from benchmarks.report import markdown


def test_table_marks_what_misses() -> None:
    """Would catch a missed bar that reads like a kept one."""
    rows = [Row("a", "b", 1.0, 0.9, 1.1, "<= 1.03", holds, 1.02) for holds in (True, False)]
    kept, missed = markdown(rows).splitlines()[-2:]
    assert "| yes |" in kept
    assert "| **no** |" in missed


def test_the_page_gives_each_reason_once() -> None:
    """Would catch rows that miss and are not named, rows that hold and are, and a reason said of another part's rows."""
    rows = [
        Row(name, "tiny", 1.0, 1.0, 1.0, "<= 1", holds)
        for name, holds in (("a", False), ("b", True), ("c", False))
    ]
    records = [Record("pictures, tiny", rows, 1.0, 0.0), Record("sweep, tiny", rows[:1], 1.0, 0.0)]
    found = page(records).split("## What misses its bar, and why\n")[1].split("\n## ")[0]
    lines = [line for line in found.splitlines() if line]
    assert lines[1:] == ["- a (tiny)", "- c (tiny)", pictures.WHY, "- a (tiny)", sweep.WHY]
