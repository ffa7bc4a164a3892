"""Files of text: what is read of other systems, what is named where it cannot be, and what is written whole."""

import codecs
import errno
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blink.runs.files import (
    make_folder,
    numbered_rows,
    read_json,
    read_jsonl,
    read_text,
    whole_file,
    write_csv,
    write_json,
)
from blink.runs.values import UserError


def test_json_is_written_whole(tmp_path: Path) -> None:
    """Catches leftovers of the partial file and escaped non-ASCII text."""
    write_json(tmp_path / "a.json", {"answer": "是"})
    assert read_json(tmp_path / "a.json") == {"answer": "是"}
    assert "是" in (tmp_path / "a.json").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_file_whose_writing_fails_stays_as_it_was(tmp_path: Path) -> None:
    """Would catch a result that is lost, or half there, because the next one was interrupted."""
    kept = tmp_path / "a.txt"
    kept.write_text("old")

    def interrupted() -> None:
        with whole_file(kept) as partial:
            partial.write_text("ne")
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        interrupted()
    assert kept.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk_is_named(tmp_path: Path, file_size_limit: Callable[[int], None]) -> None:
    """Would catch "No space left on device" without a word where, and the half of a file that stays behind."""
    kept = tmp_path / "a.json"
    write_json(kept, ["old"])
    file_size_limit(4096)
    with pytest.raises(OSError, match=r"a\.json") as failed:
        write_json(kept, ["new"] * 4096)
    assert failed.value.errno == errno.EFBIG
    assert read_json(kept) == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_records_have_a_column_for_every_key(tmp_path: Path) -> None:
    """Would catch columns of the first record alone, None written as a word, and other line ends than before."""
    records = [{"method": "blink", "f1": 1.5, "p": None}, {"method": "a,b", "f1": 2, "label": "是"}]
    write_csv(tmp_path / "a.csv", records)
    assert (tmp_path / "a.csv").read_bytes().decode() == (
        'method,f1,p,label\r\nblink,1.5,,\r\n"a,b",2,,是\r\n'
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


ROW = {"id": "1", "response": "Yes"}
READERS: list[Callable[[Path], Any]] = [read_text, read_json, read_jsonl]


@pytest.mark.parametrize("packed", [False, True])
def test_lines_are_read(tmp_path: Path, packed: bool) -> None:
    """Would catch packed files read as text, an empty last line taken for a row, and lines counted without empty ones."""
    text = f"{json.dumps(ROW)}\n\n{json.dumps(ROW | {'id': '图'}, ensure_ascii=False)}\n\n"
    path = tmp_path / ("rows.jsonl.gz" if packed else "rows.jsonl")
    path.write_bytes(gzip.compress(text.encode(), mtime=0) if packed else text.encode())
    assert [row["id"] for row in read_jsonl(path)] == ["1", "图"]
    assert [line for line, _ in numbered_rows(path)] == [1, 3]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"id": 1}\n\n{"id": \n', "a.jsonl, line 3 is not JSON"),
        ("a.jsonl", b'{"id": 1}\n[1, 2]\n', r"a.jsonl, line 2 is no JSON object but \[1, 2\]"),
        ("a.jsonl", b'{"id": 1}\n{"id": "\\ud83d"}\n', r"a.jsonl, line 2 has half of a surrogate pair"),
        ("a.jsonl", b'{"a": ' * 100_000, r"a.jsonl, line 1 is not JSON: .*recursion"),
        ("a.jsonl", b'{"a": ' + b"1" * 5000 + b"}", r"a.jsonl, line 1 is not JSON: .*4300 digits"),
        ("a.jsonl.gz", b"no gzip", "cannot read .*a.jsonl.gz"),
        ("a.jsonl.gz", gzip.compress(b"x" * 99, mtime=0)[:14] + b"\xff" * 20, "cannot read .*a.jsonl.gz"),
    ],
)
def test_unreadable_lines_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    """Would catch a traceback, or a damaged line left out in silence."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_jsonl(tmp_path / name)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}é".encode("latin-1"), r"a.txt is not UTF-8: byte 0xe9 at offset 2; save it as UTF-8"),
        (b"{}" + "好".encode("gbk") + b"{}", r"byte 0xba at offset 2"),
        (b" " * (2**20 - 1) + "é".encode()[:1] + b"{}", r"byte 0xc3 at offset 1048575"),
        (b"{}" + "é".encode()[:1], r"byte 0xc3 at offset 2"),
        ("{}".encode("utf-16"), r"byte 0xff at offset 0, as UTF-16 begins"),
        (codecs.BOM_UTF8 + b"{}\xff", r"byte 0xff at offset 5"),
    ],
)
def test_other_encodings_are_named(
    tmp_path: Path, reader: Callable[[Path], Any], content: bytes, message: str
) -> None:
    """Would catch a traceback that names no file, and offsets within a block that was read instead of the file."""
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        reader(path)
    packed = tmp_path / "a.txt.gz"
    packed.write_bytes(gzip.compress(content))
    with pytest.raises(UserError, match=message.replace("a.txt", "a.txt.gz")):
        reader(packed)


def test_files_of_other_systems_are_read(tmp_path: Path) -> None:
    """Would catch the byte order mark and line ends of Windows taken for text, and a text cut at U+2028."""
    rows = [ROW, ROW | {"id": "2", "response": "Yes\u2028No"}]
    lines = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(codecs.BOM_UTF8 + lines.encode())
    assert read_jsonl(path) == rows
    path.write_bytes(codecs.BOM_UTF8 + b'{"a": 1}')
    assert read_json(path) == {"a": 1}
    path.write_bytes(codecs.BOM_UTF8 + b"a\r\nb\rc\n")
    assert read_text(path) == "a\nb\nc\n"


def test_escaped_characters_beyond_the_first_plane_are_read(tmp_path: Path) -> None:
    """Would catch a whole surrogate pair refused as half of one."""
    path = tmp_path / "a.json"
    path.write_text('{"a": "\\ud83d\\ude00 \\\\ud83d"}')
    assert read_json(path) == {"a": "\U0001f600 \\ud83d"}


def test_files_without_text_are_named(tmp_path: Path) -> None:
    """Would catch a file that a power failure filled with zeros read as a text, and a traceback for a folder."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"a\n\0\0")
    with pytest.raises(UserError, match=r"a.txt is not text: it has a zero byte behind 2 characters"):
        read_text(path)
    for reader in READERS:
        with pytest.raises(UserError, match=f"cannot read {tmp_path}: Is a directory"):
            reader(tmp_path)


@pytest.mark.parametrize("place", ["file/folder", "file", "/proc/x"])
def test_a_folder_that_cannot_be_made_is_a_mistake(place: str, tmp_path: Path) -> None:
    """Would catch a traceback where a path leads through a file, or to where no folder can be."""
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"{place}: no folder can be made there: .*; give another path"):
        make_folder(tmp_path / place)
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
