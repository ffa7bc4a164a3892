"""Finished parts on disk."""

from pathlib import Path

from benchmarks.common import Row
from benchmarks.records import Record, Records, key


def test_records_of_other_sources_do_not_count(tmp_path: Path) -> None:
    """Would catch rows kept from before the code changed, and finished parts that a killed run measures again."""
    source = tmp_path / "package" / "module.py"
    source.parent.mkdir()
    source.write_text("a = 1")
    row = Row("a", "b", 1.0, 0.9, 1.1, "<= 1.03", True)
    old = {"first": key("words", [source.parent])}
    Records(tmp_path / "rows.jsonl", old).add(Record("first", [row], 2.0, 0.5))
    assert Records(tmp_path / "rows.jsonl", old).read() == [Record("first", [row], 2.0, 0.5)]
    source.write_text("a = 2")
    new = {"first": key("words", [source.parent])}
    assert Records(tmp_path / "rows.jsonl", new).read() == []
    assert Records(tmp_path / "rows.jsonl", {"second": old["first"]}).read() == []
