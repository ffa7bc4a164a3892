"""Rows of benchmarks from tables: of the hub, or of its parquet files in a folder.

Knows nothing of any one benchmark.
"""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from blink.bench.readers.rows import Entry, content_name, file_content
from blink.runs.inputs.hub import PictureColumn, Table, load_table
from blink.runs.inputs.names import files_below
from blink.runs.inputs.pictures import AS_AUTHORS, Rules
from blink.runs.values import UserError

log = logging.getLogger(__name__)

HUB_KEY = "bench.hub_id"
"""The key of a benchmark's config that says which data set of the hub it is."""

OWNER, FORMER_OWNER = "lmms-lab-encoder/", "lmms-lab/"
"""Where the benchmarks are on the hub, and where they were: caches and mirrors may have them under the former name alone."""


def hub_tables(
    hub_id: str,
    revision: str | None,
    split: str,
    configs: Sequence[str | None] = (None,),
    *,
    key: str = HUB_KEY,
) -> list[Table]:
    """Load a split of a data set of the Hugging Face hub, one table for each configuration.

    What cannot be loaded from its new place on the hub is looked for at its former one.

    Args:
        hub_id: its id, or a folder that `datasets` can load.
        configs: of the data set, if it has several; None if it has one.
        key: that the id was given by, for messages.

    Raises:
        UserError: it cannot be reached; says how to get it.
    """
    try:
        return _tables(hub_id, revision, split, configs, key)
    except UserError as error:
        cause = error
    former = f"{FORMER_OWNER}{hub_id.removeprefix(OWNER)}" if hub_id.startswith(OWNER) else None
    if former is not None:
        try:
            tables = _tables(former, revision, split, configs, key)
        except UserError:
            pass  # the reason at the new place is the one to tell
        else:
            log.warning("%s; taken under its former name %s", cause, former)
            return tables
    if Path(hub_id).is_dir():
        raise cause
    folder = f"data/{hub_id.rpartition('/')[2]}"
    raise UserError(
        f"{cause}{f', nor as {former}' if former else ''}; check the network, or fetch it elsewhere with "
        f"`hf download --repo-type dataset {hub_id} --local-dir {folder}` and pass data.root={folder}"
    ) from cause


def _tables(
    hub_id: str, revision: str | None, split: str, configs: Sequence[str | None], key: str
) -> list[Table]:
    return [load_table(hub_id, split, key=key, config=config, revision=revision) for config in configs]


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
