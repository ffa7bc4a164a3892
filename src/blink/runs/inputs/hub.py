"""Tables of the `datasets` library: of the hub, of a folder that it can load, or of parquet files; and their pictures.

Pictures are taken out of the tables as bytes and decoded by `pictures.py`: `datasets` itself would turn them by EXIF.
"""

import glob
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from tarfile import TarError
from typing import Any
from zipfile import BadZipFile

from PIL import Image

from blink.runs.inputs.pictures import Rules, UnreadableImageError
from blink.runs.values import UserError

_FINDS_FILES = ("imagefolder",)
"""Builders of `datasets` that look for pictures themselves: the paths in their tables are no author's."""


@dataclass(frozen=True)
class Table:
    """A table of the `datasets` library.

    Attributes:
        rows: the table.
        files: what it was made from, by name, in the order of the rows.
        counts: how many rows each of these has.
        folder: that the files lie in, where it is given as a folder.
    """

    rows: Any
    files: Sequence[str]
    counts: Sequence[int]
    folder: Path | None = None

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.files[0]}{' ...' * (len(self.files) > 1)}"

    def place(self, position: int) -> str:
        """Where a row is, for messages."""
        ends = list(accumulate(self.counts))
        file = bisect_right(ends, position)
        return f"{self.files[file]}, row {position - ends[file] + self.counts[file] + 1}"


def load_table(
    id: str, split: str, *, key: str, config: str | None = None, revision: str | None = None
) -> Table:
    """Load a split of a data set of the hub, downloaded or from its cache, or of a folder that `datasets` can load.

    Args:
        id: on the hub, or the folder.
        key: that it was given by, for messages.
        config: configuration of the data set, if it has several.

    Raises:
        UserError: it cannot be loaded; says why.
    """
    import datasets  # takes over a second to import, and scenes do not need it

    if Path(id).is_dir() and any(sign in str(Path(id).absolute()) for sign in "*?["):
        raise UserError(
            f"{key}={id}: `datasets` takes *, ? and [ in the path of a folder for a pattern, and would load whatever "
            "folders it fits; rename the folder"
        )
    try:
        rows = datasets.load_dataset(id, config, split=split, revision=revision)
    except _failures() as cause:
        raise UserError(f"{key}={id} (split {split}) cannot be loaded: {_reason(cause)}") from cause
    return Table(rows, [f"{id} ({split})"], [len(rows)])


def parquet_table(folder: Path, files: Sequence[Path]) -> Table:
    """Load parquet files of a folder as one table.

    Raises:
        UserError: one of them cannot be read; names them.
    """
    import datasets  # as above
    import pyarrow.parquet

    for path in files:
        if "::" in str(path.absolute()):
            raise UserError(f"{path}: `datasets` cannot read files whose path holds '::'; rename the folder")
    try:
        counts = [pyarrow.parquet.read_metadata(path).num_rows for path in files]
        escaped = [glob.escape(str(path)) for path in files]  # else a folder a[bc] would stand for ab
        rows = datasets.load_dataset("parquet", data_files=escaped, split="train")
    except _failures() as cause:
        names = " or ".join(map(str, files))
        raise UserError(
            f"cannot read {names} ({_reason(cause)}); a damaged file has to be fetched again"
        ) from cause
    assert len(rows) == sum(counts), "the files' own counts of rows are those of the table"
    return Table(rows, list(map(str, files)), counts, folder)


@dataclass(frozen=True)
class PictureColumn:
    """The pictures of a table, each as bytes or as the name of a file.

    Args:
        table: the table.
        column: its column of pictures.
        rules: how they are found, where the table names them, and read.

    Raises:
        UserError: the column holds something else.
    """

    table: Table
    column: str
    rules: Rules

    def __post_init__(self) -> None:
        _ = self._cells

    @cached_property
    def _cells(self) -> Any:
        import datasets  # as above
        import pyarrow

        pictures = self.table.rows.select_columns(self.column)
        try:
            return pictures.cast_column(self.column, datasets.Image(decode=False))
        except (pyarrow.ArrowException, TypeError, ValueError) as cause:
            kind = pictures.features[self.column]
            raise UserError(
                f"{self.table.name}: the column {self.column} holds no pictures but {kind}"
            ) from cause

    def held(self) -> list[bool | None]:
        """For each row whether it holds its picture; False where it names a file, None where there is no picture."""
        import pyarrow.compute as pc

        column = self._cells.data.column(self.column)
        valid = (pc.is_valid(pc.struct_field(column, part)).to_pylist() for part in ("bytes", "path"))
        return [True if encoded else False if named else None for encoded, named in zip(*valid, strict=True)]

    def encoded(self, position: int) -> bytes | Path:
        """The bytes of a row's picture, or its file.

        Raises:
            UserError: there is neither, or the file that the row names is missing or may not be read.
        """
        cell, where = self._cells[position][self.column], self.table.place(position)
        if cell is not None and cell["bytes"] is not None:
            encoded: bytes = cell["bytes"]
            return encoded
        if cell is None or cell["path"] is None:
            raise UnreadableImageError(f"{where}: there is no picture")
        path = str(cell["path"])
        if self.table.rows.info.builder_name in _FINDS_FILES:
            return Path(path)
        if self.table.folder is None and not self.rules.outside:
            raise UserError(
                f"{where} does not hold its picture but names {path!r}; data.allow_outside=true reads that file"
            )
        return self.rules.find((self.table.folder or Path(),), path, where)

    def read(self, position: int) -> Image.Image:
        """Decode a row's picture, as RGB.

        Raises:
            UserError: as `encoded` does, or it cannot be decoded.
        """
        return self.rules.reading(self.encoded(position), self.table.place(position))


def _failures() -> tuple[type[Exception], ...]:
    """What `datasets` raises where files, ids, splits or configurations are not as they should be.

    Its readers of archives and tables raise what their libraries do, and its search for files a bare StopIteration.
    """
    import datasets  # as above

    from_files = (BadZipFile, TarError, StopIteration)
    return OSError, ValueError, TypeError, LookupError, datasets.exceptions.DatasetsError, *from_files


def _reason(error: BaseException) -> str:
    """The first line of an error's root cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).splitlines() or [type(error).__name__])[0]
