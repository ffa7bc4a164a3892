"""Tables of the `datasets` library: whose files they read, and how their pictures are decoded."""

import io
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from blink.runs.inputs.hub import PictureColumn, Table, load_table, parquet_table
from blink.runs.inputs.pictures import Reading, Rules, UnreadableImageError
from blink.runs.values import UserError
from tests.bench.files import png


@pytest.fixture(autouse=True)
def arrow_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what `datasets` converts inside the test's own folder."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "arrow"))


def write(path: Path, columns: dict[str, list[Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def column(folder: Path, cells: list[Any], rules: Rules | None = None) -> PictureColumn:
    path = write(folder / "a.parquet", {"picture": cells})
    return PictureColumn(parquet_table(folder, [path]), "picture", rules or Rules())


@pytest.mark.parametrize(
    "name", ["zz[ab]", "st*r", "q?", "{a,b}", "[!x]", "[[]", "pc%20t", "a#b", ".hidden", "__x__", "图 画"]
)
def test_parquet_files_are_read_by_name(tmp_path: Path, name: str) -> None:
    """Would catch a folder taken for a pattern: zz[ab] read zza, silently."""
    for decoy in ("zza", "star", "qx", "a", "b"):
        write(tmp_path / decoy / "a.parquet", {"n": [decoy]})
    path = write(tmp_path / name / "a.parquet", {"n": [name]})
    table = parquet_table(tmp_path / name, [path])
    assert table.rows["n"][:] == [name]
    assert table.place(0) == f"{path}, row 1"


def test_names_that_datasets_cannot_read_are_refused(tmp_path: Path) -> None:
    """Would catch another folder loaded in place of the one that was named."""
    write(tmp_path / "zza" / "train.parquet", {"n": [1]})
    write(tmp_path / "zz[ab]" / "train.parquet", {"n": [2]})
    with pytest.raises(
        UserError, match=r"data.id=.*zz\[ab\]: `datasets` takes .* for a pattern.*; rename the folder"
    ):
        load_table(str(tmp_path / "zz[ab]"), "train", key="data.id")
    assert load_table(str(tmp_path / "zza"), "train", key="data.id").rows["n"][:] == [1]
    path = write(tmp_path / "a::b" / "a.parquet", {"n": [1]})
    with pytest.raises(
        UserError, match=r"a::b/a.parquet: `datasets` cannot read files whose path holds '::'"
    ):
        parquet_table(tmp_path, [path])


@pytest.mark.parametrize(
    ("id", "split", "config", "message"),
    [
        (
            "nobody/nothing",
            "train",
            None,
            r"data.id=nobody/nothing \(split train\) cannot be loaded: Couldn't reach",
        ),
        ("FOLDER", "test", None, r"Unknown split \"test\". Should be one of \['train'\]"),
        ("FOLDER", "train", "small", r"BuilderConfig 'small' not found"),
        ("FOLDER/damaged", "train", None, r"cannot be loaded: "),
        (
            "FOLDER/empty",
            "train",
            None,
            r"cannot be loaded: The directory at .* doesn't contain any data files",
        ),
        ("a//b", "train", None, r"cannot be loaded: "),
        ("", "train", None, r"cannot be loaded: "),
    ],
)
def test_data_sets_that_cannot_be_loaded_are_named(
    tmp_path: Path, id: str, split: str, config: str | None, message: str
) -> None:
    """Would catch a traceback for a mistyped id, split or configuration, and for damaged files."""
    write(tmp_path / "set" / "data" / "train.parquet", {"n": [1]})
    for name in ("damaged", "empty"):
        (tmp_path / "set" / name).mkdir()
    (tmp_path / "set" / "damaged" / "train.parquet").write_bytes(b"PAR1")
    folder = str(tmp_path / "set")
    given = f"{folder}/data" if id == "FOLDER" else id.replace("FOLDER", folder)
    with pytest.raises(UserError, match=message):
        load_table(given, split, key="data.id", config=config)


def test_damaged_parquet_files_are_named(tmp_path: Path) -> None:
    """Would catch a traceback of pyarrow's."""
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 no more")
    with pytest.raises(
        UserError, match=r"cannot read .*a.parquet \(.*\); a damaged file has to be fetched again"
    ):
        parquet_table(tmp_path, [path])


def test_pictures_are_read_as_from_any_source(tmp_path: Path) -> None:
    """Would catch `datasets` decoding the pictures, which turns them by EXIF."""
    exif = Image.Exif()
    exif[0x112] = 6
    stream = io.BytesIO()
    Image.new("RGB", (6, 3)).save(stream, "JPEG", exif=exif)
    cells = [{"bytes": stream.getvalue(), "path": "a.jpg"}]
    assert column(tmp_path / "1", cells).read(0).size == (6, 3)
    assert column(tmp_path / "2", cells, Rules(Reading(upright=True))).read(0).size == (3, 6)


def test_cells_are_told_apart(tmp_path: Path) -> None:
    """Would catch an empty cell taken for a picture, and a damaged one that is not named."""
    found = column(
        tmp_path,
        [
            {"bytes": png(Image.new("RGB", (2, 2))), "path": None},
            {"bytes": None, "path": "a.png"},
            {"bytes": None, "path": None},
            None,
            {"bytes": b"damaged", "path": None},
        ],
    )
    assert found.held() == [True, False, None, None, True]
    assert found.read(0).size == (2, 2)
    for row, message in (
        (2, "row 3: there is no picture"),
        (3, "row 4: there is no picture"),
        (4, "row 5: not a"),
    ):
        with pytest.raises(UnreadableImageError, match=f"a.parquet, {message}"):
            found.read(row)


@pytest.mark.parametrize("cells", [[1, 2], [1.5], ["a"], [["a"]], [{"bytes": 1, "path": 2}]])
def test_columns_of_something_else_are_named(tmp_path: Path, cells: list[Any]) -> None:
    """Would catch a traceback for a column that holds no pictures. Texts are names of files, which have to be there."""
    with pytest.raises(
        UserError, match=r"a.parquet(: the column picture holds no pictures|, row 1: the picture a is)"
    ):
        column(tmp_path, cells).read(0)


def test_files_that_a_hub_table_names_are_not_read(tmp_path: Path) -> None:
    """Would catch a data set of the hub that makes the command read files of this machine."""
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    path = write(tmp_path / "a.parquet", {"picture": [str(tmp_path / "a.png")]})
    rows = parquet_table(tmp_path, [path]).rows
    table = Table(rows, ["some/set (train)"], [1])
    with pytest.raises(
        UserError, match=r"some/set \(train\), row 1 does not hold its picture but names '.*a.png'"
    ):
        PictureColumn(table, "picture", Rules()).read(0)
    assert PictureColumn(table, "picture", Rules(outside=True)).read(0).size == (2, 2)


def test_folders_of_pictures_keep_their_files(tmp_path: Path) -> None:
    """Would catch the files that `datasets` itself found in a folder refused."""
    (tmp_path / "set").mkdir()
    Image.new("RGB", (2, 3)).save(tmp_path / "set" / "a.png")
    table = load_table(str(tmp_path / "set"), "train", key="data.id")
    assert PictureColumn(table, "image", Rules()).read(0).size == (2, 3)
