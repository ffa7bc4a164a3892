"""Files of JSON lines."""

import gzip
import json
from pathlib import Path

import pytest

from blink.runs.files import read_jsonl

ROW = {"id": "1", "response": "Yes"}


@pytest.mark.parametrize("packed", [False, True])
def test_lines_are_read(tmp_path: Path, packed: bool) -> None:
    """Would catch packed files read as text, and an empty last line taken for a row."""
    text = f"{json.dumps(ROW)}\n\n{json.dumps(ROW | {'id': '图'}, ensure_ascii=False)}\n\n"
    path = tmp_path / ("rows.jsonl.gz" if packed else "rows.jsonl")
    path.write_bytes(gzip.compress(text.encode(), mtime=0) if packed else text.encode())
    assert [row["id"] for row in read_jsonl(path)] == ["1", "图"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"id": 1}\n{"id": \n', "a.jsonl, line 2 is not JSON"),
        ("a.jsonl", b'{"id": 1}\n[1, 2]\n', r"a.jsonl, line 2 is no JSON object but \[1, 2\]"),
        ("a.jsonl", b"\xff\xfe", "cannot read"),
        ("a.jsonl.gz", b"no gzip", "cannot read"),
        ("a.jsonl.gz", gzip.compress(b"x" * 99, mtime=0)[:14] + b"\xff" * 20, "cannot read"),
    ],
)
def test_unreadable_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    """Would catch a traceback, or a damaged line left out in silence."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_jsonl(tmp_path / name)


def test_files_of_other_systems_are_read(tmp_path: Path) -> None:
    """Would catch the byte order mark and line ends of Windows taken for damage, and a text cut at U+2028."""
    rows = [ROW, ROW | {"id": "2", "response": "Yes\u2028No"}]
    lines = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    assert read_jsonl(tmp_path / "rows.jsonl") == rows
