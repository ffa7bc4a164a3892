"""Where training images come from: drawn scenes, files, the LLaVA-1.5 mixture, a data set of the hub.

Every source is a numbered collection that reads one image at a time and names it. `manifest.py` finds out which images
are readable. Knows nothing of models.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from blink.runs.values import UserError

ENDINGS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""File name endings that a folder is searched for, in lower case."""


class Images(Protocol):
    """A numbered collection of images.

    `fingerprint` changes when the images may have changed; a manifest of them is stored with it. `identity` is that of one
    image, whatever collection it is found in; its features are stored with it.
    """

    @property
    def fingerprint(self) -> str: ...
    def __len__(self) -> int: ...
    def name(self, index: int) -> str: ...
    def identity(self, index: int) -> str: ...
    def read(self, index: int) -> Image.Image: ...


class UnreadableImageError(UserError):
    """An image file that is missing or cannot be decoded; says which, and why."""


def read_image(file: Path | bytes, name: str) -> Image.Image:
    """Decode an image completely, as RGB; of an animation the first frame. The ending of the name is ignored.

    Raises:
        UnreadableImageError: for whatever reason it cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            return image.convert("RGB")
    except Exception as error:  # Pillow's decoders raise almost any type on a damaged file
        raise UnreadableImageError(f"{name}: {type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class DrawnImages:
    """Generated images, such as `blink.scenes.draw.SceneImages`, from number `first` of a series on; always readable."""

    images: Sequence[Image.Image]
    series: str
    first: int = 0

    @property
    def fingerprint(self) -> str:
        return f"{self.series} {self.first} + {len(self)}"

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return f"drawn image {index}"

    def identity(self, index: int) -> str:
        return f"{self.series} {self.first + index}"

    def read(self, index: int) -> Image.Image:
        return self.images[index]


@dataclass(frozen=True)
class ImageFiles:
    """Image files, in the given order. Sizes and times of change are read once, when first needed."""

    paths: tuple[Path, ...]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of paths, sizes and times of change."""
        listing = hashlib.sha256()
        for path, state in zip(self.paths, self._states, strict=True):
            listing.update(f"{path}\n{state}\n".encode())
        return listing.hexdigest()

    @cached_property
    def _states(self) -> tuple[str, ...]:
        return tuple(_state(path) for path in self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return str(self.paths[index])

    def identity(self, index: int) -> str:
        return f"{self.paths[index].absolute()} {self._states[index]}"

    def read(self, index: int) -> Image.Image:
        return read_image(self.paths[index], self.name(index))


@dataclass(frozen=True)
class HubImages:
    """The image column of a data set; `encoded(row)` gives the bytes or the path of a row's image."""

    encoded: Callable[[int], bytes | Path]
    rows: int
    fingerprint: str

    def __len__(self) -> int:
        return self.rows

    def name(self, index: int) -> str:
        return f"row {index}"

    def identity(self, index: int) -> str:
        return f"{self.fingerprint} {index}"

    def read(self, index: int) -> Image.Image:
        return read_image(self.encoded(index), self.name(index))


@dataclass(frozen=True)
class ImageSubset:
    """Some images of a collection, by number; `content`, where it is known, tells collections apart by their pixels."""

    images: Images
    indices: tuple[int, ...]
    content: str | None = None

    @property
    def fingerprint(self) -> str:
        numbers = hashlib.sha256(str(self.indices).encode()).hexdigest()
        return f"{self.content or self.images.fingerprint} {numbers}"

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        return self.images.name(self.indices[index])

    def identity(self, index: int) -> str:
        return self.images.identity(self.indices[index])

    def read(self, index: int) -> Image.Image:
        return self.images.read(self.indices[index])


def all_of(images: Images) -> ImageSubset:
    """Choose every image of a collection."""
    return ImageSubset(images, tuple(range(len(images))))


def local_images(roots: Iterable[Path]) -> ImageFiles:
    """Find images on disk: in folders, at any depth, sorted by path; and files that are named directly.

    A directly named `.json` file is the LLaVA-1.5 mixture; the folders given beside it, or else the folder
    that it lies in, are its image roots and are not searched for further images.

    Raises:
        ValueError: a root does not exist, a folder holds no image, or a directly named image is unreadable.
    """
    roots = list(roots)
    for root in roots:
        if not root.exists():
            raise UserError(f"data.root: {root} does not exist; expected a folder of images or an image file")
    mixtures = [root for root in roots if root.suffix == ".json"]
    folders = [root for root in roots if root.is_dir()]
    if len(mixtures) > 1:
        raise UserError(f"data.root names {len(mixtures)} JSON files; expected one llava_v1_5_mix665k.json")
    if mixtures:
        return mixture_images(mixtures[0], folders or [mixtures[0].parent])
    paths: list[Path] = []
    for root in roots:
        if root.is_file():
            read_image(root, f"data.root: {root}")
            paths.append(root)
            continue
        found = sorted(path for path in root.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
        if not found:
            raise UserError(f"data.root: {root} holds no images ({', '.join(sorted(ENDINGS))})")
        paths += found
    return ImageFiles(tuple(dict.fromkeys(paths)))


def mixture_images(annotations: Path, roots: Sequence[Path]) -> ImageFiles:
    """List the images of `llava_v1_5_mix665k.json`, each once, in order of first mention.

    Entries without an image (text-only) are skipped. A file that no root holds stays in the list, so that the
    manifest counts it.

    Args:
        roots: folders that hold `coco/`, `gqa/` and so on; the first that has a file provides it.

    Raises:
        ValueError: the file is not a JSON list of entries, or names no image.
    """
    try:
        entries: Any = json.loads(annotations.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{annotations} is not JSON: {error}") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{annotations} is not a JSON list of entries, as llava_v1_5_mix665k.json is")
    names = list(dict.fromkeys(str(entry["image"]) for entry in entries if entry.get("image")))
    if not names:
        raise UserError(f"{annotations}: none of its {len(entries)} entries has an 'image'")
    return ImageFiles(tuple(_in_first_root(name, roots) for name in names))


def hub_images(
    id: str, *, name: str | None = None, split: str = "train", column: str | None = None
) -> HubImages:
    """Open the images of a `datasets` data set.

    Args:
        id: id on the hub, or a local folder that `datasets` can load.
        name: configuration, for a data set that has several.
        column: image column; None takes the first one.

    Raises:
        ValueError: the data set cannot be loaded, or has no such image column, or no rows.
    """
    import datasets  # slow to import, and needed for this source alone

    try:
        table = datasets.load_dataset(id, name, split=split)
    except (OSError, ValueError) as error:
        raise UserError(f"data.id={id!r} (split {split!r}) cannot be loaded: {error}") from error
    columns = [key for key, feature in table.features.items() if isinstance(feature, datasets.Image)]
    chosen = column or next(iter(columns), None)
    if chosen not in columns:
        raise UserError(
            f"data.id={id!r} has the image columns {columns} and data.column is {column!r}; "
            f"its columns are {list(table.features)}"
        )
    if not len(table):
        raise UserError(f"data.id={id!r} (split {split!r}) has no rows")
    undecoded = table.select_columns([chosen]).cast_column(chosen, datasets.Image(decode=False))

    def encoded(row: int) -> bytes | Path:
        cell = undecoded[row][chosen]
        return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"])

    # folders of the cache are named after the files' revision
    kept = [Path(file["filename"]).parts[-2:] for file in table.cache_files]
    return HubImages(
        encoded, rows=len(undecoded), fingerprint=f"{id} {name} {split} {chosen} {len(undecoded)} {kept}"
    )


def _state(path: Path) -> str:
    """Size and time of change of a file."""
    known = path.stat() if path.exists() else None
    return f"{known.st_size} {known.st_mtime_ns}" if known else "missing"


def _in_first_root(name: str, roots: Sequence[Path]) -> Path:
    return next((root / name for root in roots if (root / name).is_file()), roots[0] / name)
