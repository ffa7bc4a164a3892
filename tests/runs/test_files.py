"""Files written whole, and records as CSV."""

import errno
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blink.runs.files import read_json, whole_file, write_csv, write_json


@pytest.fixture
def file_size_limit() -> Iterator[Callable[[int], None]]:
    """Lets no file grow beyond some bytes, as a full disk does, until the test ends."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


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
