"""Tables of the hub and of parquet files taken apart into rows with their pictures."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from blink.bench.readers.sources import hub_tables, parquet_files, table_entries
from blink.runs.inputs.hub import Table, parquet_table
from blink.runs.inputs.pictures import Reading, Rules
from blink.runs.values import UserError
from tests.bench.files import png

pytestmark = pytest.mark.usefixtures("arrow_cache")


def table(folder: Path, columns: dict[str, list[Any]], name: str = "test-0.parquet") -> Table:
    """A parquet file of a folder, as a table."""
    import pyarrow
    import pyarrow.parquet

    folder.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / name)
    return parquet_table(folder, [folder / name])


def held(colour: str) -> dict[str, Any]:
    return {"bytes": png(Image.new("RGB", (2, 2), colour)), "path": None}


def test_rows_know_their_file_and_their_picture(tmp_path: Path) -> None:
    """Would catch pictures of another row, one name for different pictures, and a row whose place in its file is lost."""
    table(tmp_path, {"n": [0, 1], "image": [held("red"), held("blue")]}, "test-0.parquet")
    table(tmp_path, {"n": [2, 3], "image": [held("red"), None]}, "test-1.parquet")
    entries = table_entries(parquet_table(tmp_path, parquet_files(tmp_path)), ["n"])
    assert [entry.row for entry in entries] == [{"n": n} for n in range(4)]
    assert entries[0].image == entries[2].image != entries[1].image
    assert entries[3].image is None
    assert entries[1].open_image().getpixel((0, 0)) == (0, 0, 255)
    assert [entry.where for entry in entries] == [
        f"{tmp_path / name}, row {row}" for name in ("test-0.parquet", "test-1.parquet") for row in (1, 2)
    ]


def test_missing_columns_are_named(tmp_path: Path) -> None:
    """Would catch a traceback for a file of another data set."""
    found = table(tmp_path, {"n": [0], "image": [held("red")]})
    with pytest.raises(UserError, match=r"test-0.parquet: the table lacks a, b; it has n, image"):
        table_entries(found, ["n", "a", "b"])
    with pytest.raises(UserError, match=r"test-0.parquet: the table lacks image"):
        table_entries(table(tmp_path, {"n": [0]}), ["n"])


def test_files_that_a_table_names_lie_in_its_folder(tmp_path: Path) -> None:
    """Would catch a table that makes the command read any file of the machine, and names taken from the current folder."""
    Image.new("RGB", (2, 2), "red").save(tmp_path / "a.png")
    inside = table(tmp_path / "data", {"n": [0], "image": ["b.png"]})
    with pytest.raises(
        UserError, match=r"test-0.parquet, row 1: the picture b.png is missing; looked in .*data"
    ):
        table_entries(inside, ["n"], named_by="n")
    (tmp_path / "a.png").rename(tmp_path / "data" / "b.png")
    [entry] = table_entries(inside, ["n"])
    assert entry.open_image().getpixel((0, 0)) == (255, 0, 0)
    outside = table(tmp_path / "other", {"n": [0], "image": ["../data/b.png"]})
    with pytest.raises(UserError, match=r"row 1: '../data/b.png' leads out of the data folder"):
        table_entries(outside, ["n"], named_by="n")
    [entry] = table_entries(outside, ["n"], rules=Rules(Reading(), outside=True))
    assert entry.open_image().size == (2, 2)


def data_set(folder: Path, **parts: int) -> None:
    """A data set that `datasets` loads: a configuration for each of `parts`, whose one row holds the number."""
    configs = ["---", "configs:"]
    for name, number in parts.items():
        table(folder / name, {"n": [number]})
        configs += [
            f"- config_name: {name}",
            "  data_files:",
            "  - split: test",
            f"    path: {name}/test-*",
        ]
    (folder / "README.md").write_text("\n".join([*configs, "---", ""]))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose sub-folders are loaded like data sets of the hub, by owner and name."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_moved_data_sets_are_taken_from_their_new_place(hub: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Would catch the former name asked first, which is said not to be relied on."""
    data_set(hub / "lmms-lab-encoder" / "SET", one=1)
    data_set(hub / "lmms-lab" / "SET", one=2)
    [found] = hub_tables("lmms-lab-encoder/SET", None, "test", ("one",))
    assert (found.rows["n"][:], found.name) == ([1], "lmms-lab-encoder/SET (test)")
    assert not caplog.records


def test_moved_data_sets_are_looked_for_at_their_former_place(
    hub: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Would catch a machine that has the data in its cache under the former name, and is refused; and two tables of which
    each is from another place.
    """
    data_set(hub / "lmms-lab-encoder" / "SET", one=1)
    data_set(hub / "lmms-lab" / "SET", one=2, two=3)
    tables = hub_tables("lmms-lab-encoder/SET", None, "test", ("one", "two"))
    assert [found.rows["n"][:] for found in tables] == [[2], [3]]
    assert {found.name for found in tables} == {"lmms-lab/SET (test)"}
    assert "bench.hub_id=lmms-lab-encoder/SET (split test) cannot be loaded" in caplog.text
    assert "taken under its former name lmms-lab/SET" in caplog.text


def test_data_sets_of_others_have_one_name(hub: Path) -> None:
    """Would catch a data set that the user named, replaced by another."""
    data_set(hub / "lmms-lab" / "SET", one=2)
    with pytest.raises(UserError, match=r"hub_id=somebody/SET .*loaded: [^;]*; check the network"):
        hub_tables("somebody/SET", None, "test", ("one",))
    with pytest.raises(
        UserError, match=r"hub_id=lmms-lab-encoder/NONE .*, nor as lmms-lab/NONE; check the network"
    ):
        hub_tables("lmms-lab-encoder/NONE", None, "test", ("one",))


def test_a_folder_is_not_to_be_fetched(hub: Path) -> None:
    """Would catch advice to download a folder of this machine, and a message that names a key that nobody has typed."""
    data_set(hub / "here", one=1)
    with pytest.raises(UserError, match=r"^data.id=here \(split test\) cannot be loaded: (?!.*hf download)"):
        hub_tables("here", None, "test", ("two",), key="data.id")
