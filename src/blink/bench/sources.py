"""Where benchmarks come from: the hub, its parquet files on disk, or JSON lines and picture folders.

Knows nothing of any one benchmark.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from blink.runs.files import short_digest
from blink.runs.values import UserError

Opener = Callable[[], Image.Image]


class Entry(NamedTuple):
    """A row of a source and its picture.

    Attributes:
        row: its columns, but for the picture.
        image: name of the picture, the same for all rows about it; None if the row has none.
        open_image: reads it.
    """

    row: Mapping[str, Any]
    image: str | None
    open_image: Opener


def hub_table(hub_id: str, revision: str | None, split: str, config: str | None = None) -> Any:
    """Load a split of a data set of the Hugging Face hub as a `datasets` table.

    Args:
        config: configuration of the data set, if it has several.

    Raises:
        ValueError: it cannot be reached; says how to get it.
    """
    import datasets  # takes over a second to import, and scenes do not need it

    try:
        return datasets.load_dataset(hub_id, config, split=split, revision=revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as cause:
        folder = f"data/{hub_id.rpartition('/')[2]}"
        raise UserError(
            f"cannot load {hub_id} from the Hugging Face hub ({_reason(cause)}); check the network, or fetch it elsewhere "
            f"with `hf download --repo-type dataset {hub_id} --local-dir {folder}` and pass data.root={folder}"
        ) from cause


def parquet_files(root: Path, *preferred: str | tuple[str, ...]) -> list[Path]:
    """Find parquet files below a folder, at any depth.

    Args:
        preferred: beginnings of file names; the first that any file has decides, and all files count if none does.
            The editions of one data set that a folder may hold side by side are so not read twice.
    """
    found = sorted(root.rglob("*.parquet"))
    chosen = ([path for path in found if path.name.startswith(start)] for start in preferred)
    return next(filter(None, chosen), found)


def parquet_table(files: Sequence[Path]) -> Any:
    """Load parquet files as one `datasets` table.

    Raises:
        ValueError: one of them cannot be read; names them.
    """
    import datasets  # as above

    names = [str(path) for path in files]
    try:
        return datasets.load_dataset("parquet", data_files=names, split="train")
    except (OSError, ValueError, TypeError, datasets.exceptions.DatasetsError) as cause:
        raise UserError(
            f"cannot read {' or '.join(names)} ({_reason(cause)}); a damaged file has to be fetched again"
        ) from cause


def table_entries(
    table: Any, columns: Sequence[str], optional: Sequence[str] = (), named_by: str | None = None
) -> list[Entry]:
    """Take a table apart: of each row the text columns, the picture's name and what reads it from the column `image`.

    Args:
        columns: text columns to take.
        optional: text columns to take where the table has them.
        named_by: the one of the columns that names the picture; None makes a name from its content, by which rows
            about one picture are recognised.

    Raises:
        ValueError: the table lacks a column.
    """
    import datasets  # as above

    _check_columns(table, (*columns, "image"))
    rows = table_rows(table, columns, optional)
    pictures = table.select_columns("image").cast_column("image", datasets.Image())
    if named_by is None:
        encoded = table.select_columns("image").cast_column("image", datasets.Image(decode=False))
        names = [_encoded_name(row["image"]) for row in encoded]
    else:
        names = [str(row[named_by]) for row in rows]
    openers = [partial(_cell, pictures, position) for position in range(len(table))]
    return [Entry(*entry) for entry in zip(rows, names, openers, strict=True)]


def content_name(encoded: bytes) -> str:
    """Return a name for a picture that follows from its bytes alone."""
    return short_digest(encoded)


def table_rows(table: Any, columns: Sequence[str], optional: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Take the rows of a table's text columns, and of those `optional` ones that it has.

    Raises:
        ValueError: the table lacks a column.
    """
    _check_columns(table, columns)
    wanted = [*columns, *(name for name in optional if name in table.column_names)]
    rows: list[dict[str, Any]] = table.select_columns(wanted).to_list()
    return rows


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: it is not JSON; says which.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as cause:
        raise UserError(f"{path} is not JSON: {cause}") from cause


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read a file of one JSON object per line, packed by gzip if it ends in .gz.

    Empty lines and a byte order mark are skipped.

    Raises:
        ValueError: the file cannot be read as text, or a line is no JSON object; names file and line.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig") as file:
            lines = list(file)  # str.splitlines would also cut at U+2028, which JSON allows inside texts
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as cause:
        raise UserError(f"cannot read {path}: {cause}") from cause
    return parse_jsonl(path, lines)


def parse_jsonl(path: Path, lines: Iterable[str | bytes]) -> list[dict[str, Any]]:
    """Parse the lines of a JSONL file, of which empty ones are skipped.

    Args:
        path: the file, for messages.

    Raises:
        ValueError: a line is no JSON object; names file and line.
    """
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as cause:  # no JSON, or bytes that are no text
            raise UserError(f"{path}, line {number} is not JSON: {cause}") from cause
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number} is no JSON object but {json.dumps(row)[:40]}")
        rows.append(row)
    return rows


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows as the text of a JSONL file."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def picture_file(folders: Sequence[Path], name: str) -> Opener:
    """Find a picture in the first of the folders that has it.

    Raises:
        ValueError: none has it.
    """
    return partial(Image.open, picture_path(folders, name))


def picture_path(folders: Sequence[Path], name: str) -> Path:
    """Return where a picture is: in the first of the folders that has it.

    Raises:
        ValueError: none has it.
    """
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"the picture {name} is missing; looked in {', '.join(map(str, folders))}")


def in_memory(image: Image.Image) -> Opener:
    """Give out a picture that is in memory already."""
    return lambda: image


def _check_columns(table: Any, columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise UserError(f"the table lacks {', '.join(missing)}; it has {', '.join(table.column_names)}")


def _reason(error: BaseException) -> str:
    """The first line of an error's root cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).splitlines() or [type(error).__name__])[0]


def _encoded_name(cell: Mapping[str, Any] | None) -> str | None:
    if cell is None:
        return None
    return content_name(Path(cell["path"]).read_bytes() if cell["bytes"] is None else cell["bytes"])


def _cell(pictures: Any, position: int) -> Image.Image:
    image: Image.Image = pictures[position]["image"]
    return image
