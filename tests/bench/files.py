"""Data sets written to disk as the hub stores them, tiny pictures inside."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image


def png(image: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    stream = BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def write_parquet(folder: Path, rows: Sequence[Mapping[str, Any]], name: str) -> None:
    """Write rows as the hub stores them, pictures of the column `image` as PNG bytes, None where there is none."""
    import datasets

    folder.mkdir(parents=True, exist_ok=True)
    columns: dict[str, list[Any]] = {key: [row[key] for row in rows] for key in rows[0]}
    if "image" in columns:
        columns["image"] = [image and {"bytes": png(image), "path": None} for image in columns["image"]]
    table = datasets.Dataset.from_dict(columns)
    if "image" in columns:
        table = table.cast_column("image", datasets.Image())
    table.to_parquet(folder / name)
