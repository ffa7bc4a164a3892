"""Rows of benchmarks from tables: of the hub, or of its parquet files in a folder.

Knows nothing of any one benchmark.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from blink.bench.rows import Entry, content_name, file_content
from blink.inputs.hub import PictureColumn, Table, load_table
from blink.inputs.names import files_below
from blink.inputs.pictures import AS_AUTHORS, Rules
from blink.runs.values import UserError


def hub_table(hub_id: str, revision: str | None, split: str, config: str | None = None) -> Table:
    """Load a split of a data set of the Hugging Face hub.

    Args:
        hub_id: its id, or a folder that `datasets` can load.
        config: configuration of the data set, if it has several.

    Raises:
        UserError: it cannot be reached; says how to get it.
    """
    try:
        return load_table(hub_id, split, key="bench.hub_id", config=config, revision=revision)
    except UserError as cause:
        folder = f"data/{hub_id.rpartition('/')[2]}"
        raise UserError(
            f"{cause}; check the network, or fetch it elsewhere with `hf download --repo-type dataset {hub_id} "
            f"--local-dir {folder}` and pass data.root={folder}"
        ) from cause


def parquet_files(root: Path, *preferred: str | tuple[str, ...]) -> list[Path]:
    """Find parquet files below a folder, at any depth.

    Args:
        preferred: beginnings of file names; the first that any file has decides, and all files count if none does.
            The editions of one data set that a folder may hold side by side are so not read twice.
    """
    found = files_below(root, lambda name: name.endswith(".parquet"))
    chosen = ([path for path in found if path.name.startswith(start)] for start in preferred)
    return next(filter(None, chosen), found)


def table_entries(
    table: Table,
    columns: Sequence[str],
    optional: Sequence[str] = (),
    named_by: str | None = None,
    rules: Rules = AS_AUTHORS,
) -> list[Entry]:
    """Take a table apart: of each row the text columns, the picture's name and what reads it from the column `image`.

    Args:
        columns: text columns to take.
        optional: text columns to take where the table has them.
        named_by: the one of the columns that names the picture; None makes a name from its content, by which rows
            about one picture are recognised.
        rules: how pictures are found, where the table names files instead of holding them, and read.

    Raises:
        UserError: the table lacks a column, or `image` holds no pictures, or names one that is missing or may not be read.
    """
    rows = table_rows(table, columns, optional, also=("image",))
    pictures = PictureColumn(table, "image", rules)
    entries = []
    for position, (row, held) in enumerate(zip(rows, pictures.held(), strict=True)):
        name = None
        if held is not None:
            encoded = pictures.encoded(position) if named_by is None or not held else b""
            name = _content_name(encoded) if named_by is None else str(row[named_by])
        entries.append(Entry(row, name, partial(pictures.read, position), table.place(position)))
    return entries


def table_rows(
    table: Table, columns: Sequence[str], optional: Sequence[str] = (), *, also: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Take the rows of a table's text columns, and of those `optional` ones that it has.

    Args:
        also: columns that it must have, too, and that are not taken.

    Raises:
        UserError: the table lacks a column.
    """
    has = table.rows.column_names
    missing = [name for name in (*columns, *also) if name not in has]
    if missing:
        raise UserError(f"{table.name}: the table lacks {', '.join(missing)}; it has {', '.join(has)}")
    wanted = [*columns, *(name for name in optional if name in has)]
    rows: list[dict[str, Any]] = table.rows.select_columns(wanted).to_list()
    return rows


def _content_name(encoded: bytes | Path) -> str:
    return content_name(encoded if isinstance(encoded, bytes) else file_content(encoded))
