"""Rows as a table."""

from benchmarks.common import Row
from benchmarks.report import markdown


def test_table_marks_what_misses() -> None:
    """Would catch a missed bar that reads like a kept one."""
    rows = [Row("a", "b", 1.0, 0.9, 1.1, "<= 1.03", holds, 1.02) for holds in (True, False)]
    kept, missed = markdown(rows).splitlines()[-2:]
    assert "| yes |" in kept
    assert "| **no** |" in missed
