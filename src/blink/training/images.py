"""Where training images come from: drawn scenes, files, the LLaVA-1.5 mixture, a data set of the hub.

Every source is a numbered collection that reads one image at a time and names it. `manifest.py` finds out which images
are readable. Knows nothing of models.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from PIL import Image

from blink.runs.files import read_json, read_jsonl
from blink.runs.inputs.hub import PictureColumn, load_table
from blink.runs.inputs.names import check_name, files_below, find_file
from blink.runs.inputs.pictures import ENDINGS, Reading, Rules, is_picture
from blink.runs.values import UserError, optional, text

OWN = Rules(Reading(scaled=True))
"""How pictures of the user's own are read unless the config says otherwise."""


class Images(Protocol):
    """A numbered collection of images.

    `fingerprint` changes when the images may have changed; a manifest of them is stored with it. `identity` is that of one
    image, whatever collection it is found in; its features are stored with it. `size` is (width, height).
    """

    @property
    def fingerprint(self) -> str: ...
    def __len__(self) -> int: ...
    def name(self, index: int) -> str: ...
    def identity(self, index: int) -> str: ...
    def size(self, index: int) -> tuple[int, int]: ...
    def read(self, index: int) -> Image.Image: ...


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

    def size(self, index: int) -> tuple[int, int]:
        return self.images[index].size

    def read(self, index: int) -> Image.Image:
        return self.images[index]


@dataclass(frozen=True)
class ImageFiles:
    """Image files, in the given order. Sizes and times of change are read once, when first needed."""

    paths: tuple[Path, ...]
    reading: Reading = OWN.reading

    @cached_property
    def fingerprint(self) -> str:
        """Hash of paths, sizes and times of change, and of how they are read where that is not the default."""
        listing = hashlib.sha256(self._turned.encode())
        for path, state in zip(self.paths, self._states, strict=True):
            listing.update(f"{path}\n{state}\n".encode())
        return listing.hexdigest()

    @property
    def _turned(self) -> str:
        return "upright" if self.reading.upright else ""

    @cached_property
    def _states(self) -> tuple[str, ...]:
        return tuple(_state(path) for path in self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return str(self.paths[index])

    def identity(self, index: int) -> str:
        return f"{self.paths[index].absolute()} {self._states[index]}{self._turned}"

    def size(self, index: int) -> tuple[int, int]:
        return self.read(index).size  # which way it is turned is not in every header's size

    def read(self, index: int) -> Image.Image:
        return self.reading(self.paths[index], self.name(index))


@dataclass(frozen=True)
class HubImages:
    """The image column of a data set."""

    pictures: PictureColumn
    fingerprint: str

    def __len__(self) -> int:
        return len(self.pictures.table.rows)

    def name(self, index: int) -> str:
        return f"row {index}"

    def identity(self, index: int) -> str:
        return f"{self.fingerprint} {index}"

    def size(self, index: int) -> tuple[int, int]:
        return self.read(index).size

    def read(self, index: int) -> Image.Image:
        return self.pictures.read(index)


@dataclass(frozen=True)
class ImageSubset:
    """Some images of a collection, by number.

    Attributes:
        content: tells collections apart by their pixels, where it is known.
        sizes: (width, height) of each, where they are known.
    """

    images: Images
    indices: tuple[int, ...]
    content: str | None = None
    sizes: tuple[tuple[int, int], ...] | None = None

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

    def size(self, index: int) -> tuple[int, int]:
        return self.images.size(self.indices[index]) if self.sizes is None else self.sizes[index]

    def read(self, index: int) -> Image.Image:
        return self.images.read(self.indices[index])


def local_images(roots: Iterable[Path], rules: Rules = OWN) -> ImageFiles:
    """Find images on disk: in folders, at any depth, sorted by path; and files that are named directly.

    Links to folders are followed. A directly named `.json` or `.jsonl` file lists images, as the LLaVA-1.5 mixture does; the
    folders given beside it, or else the folder that it lies in, are its image roots and are not searched for further images.

    Args:
        rules: how images are decoded, and where names in the mixture may lead.

    Raises:
        UserError: a root does not exist, a folder holds no image, or a directly named image is unreadable.
    """
    roots = list(roots)
    for root in roots:
        if not root.exists():
            raise UserError(f"data.root: {root} does not exist; expected a folder of images or an image file")
    listed = annotations_of(roots)
    if listed is not None:
        return mixture_images(*listed, rules)
    paths: list[Path] = []
    for root in roots:
        if root.is_file():
            rules.reading(root, f"data.root: {root}")
            paths.append(root)
            continue
        found = files_below(root, is_picture)
        if not found:
            raise UserError(f"data.root: {root} holds no images ({', '.join(sorted(ENDINGS))})")
        paths += found
    return ImageFiles(tuple(dict.fromkeys(paths)), rules.reading)


class Annotations(NamedTuple):
    """A file that lists images, and the folders that hold them."""

    file: Path
    roots: list[Path]


def annotations_of(roots: Sequence[Path]) -> Annotations | None:
    """The file among some roots that lists images; None without one.

    Raises:
        UserError: there are several.
    """
    endings = (".json", ".json.gz", ".jsonl", ".jsonl.gz")
    files = [root for root in roots if root.name.lower().endswith(endings) and root.is_file()]
    if len(files) > 1:
        raise UserError(
            f"data.root names {len(files)} JSON files; expected one that lists images, as llava_v1_5_mix665k.json"
        )
    folders = [root for root in roots if root.is_dir()]
    return Annotations(files[0], folders or [files[0].parent]) if files else None


def read_entries(annotations: Path) -> list[dict[str, Any]]:
    """The entries of a file that lists images: a JSON list, or one object a line.

    Raises:
        UserError: it is neither.
    """
    lines = annotations.name.lower().removesuffix(".gz").endswith(".jsonl")
    entries: Any = read_jsonl(annotations) if lines else read_json(annotations)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{annotations} is not a JSON list of entries, as llava_v1_5_mix665k.json is")
    return entries


def mixture_images(annotations: Path, roots: Sequence[Path], rules: Rules = OWN) -> ImageFiles:
    """List the images of `llava_v1_5_mix665k.json` or another such file, each once, in order of first mention.

    Entries without an image (text-only) are skipped. A file that no root holds stays in the list, so that the
    manifest counts it.

    Args:
        roots: folders that hold `coco/`, `gqa/` and so on; the first that has a file provides it.

    Raises:
        UserError: the file is not a JSON list of entries, or names no image, or one outside the roots that may not be.
    """
    entries = read_entries(annotations)
    names = dict.fromkeys(
        check_name(entry["image"], f"{annotations}, entry {number}", outside=rules.outside)
        for number, entry in enumerate(entries, start=1)
        if entry.get("image")
    )
    if not names:
        raise UserError(f"{annotations}: none of its {len(entries)} entries has an 'image'")
    return ImageFiles(tuple(in_first_root(name, roots) for name in names), rules.reading)


def hub_images(
    id: str, *, name: str | None = None, split: str = "train", column: str | None = None, rules: Rules = OWN
) -> HubImages:
    """Open the images of a `datasets` data set.

    Args:
        id: id on the hub, or a local folder that `datasets` can load.
        name: configuration, for a data set that has several.
        column: image column; None takes the first one.

    Raises:
        UserError: the data set cannot be loaded, or has no such image column, or no rows.
    """
    import datasets  # slow to import, and needed for this source alone

    name = optional(text, "data.name", name)
    table = load_table(text("data.id", id), text("data.split", split), key="data.id", config=name)
    rows = table.rows
    columns = [key for key, feature in rows.features.items() if isinstance(feature, datasets.Image)]
    chosen = column or next(iter(columns), None)
    if chosen is None or chosen not in columns:
        raise UserError(
            f"data.id={id!r} has the image columns {columns} and data.column is {column!r}; "
            f"its columns are {list(rows.features)}"
        )
    if not len(rows):
        raise UserError(f"data.id={id!r} (split {split!r}) has no rows")
    # folders of the cache are named after the files' revision
    kept = [Path(file["filename"]).parts[-2:] for file in rows.cache_files]
    turned = " upright" if rules.reading.upright else ""
    return HubImages(
        PictureColumn(table, chosen, rules),
        fingerprint=f"{id} {name} {split} {chosen} {len(rows)} {kept}{turned}",
    )


def _state(path: Path) -> str:
    """Size and time of change of a file."""
    try:
        known = path.stat()
    except OSError:
        return "missing"
    return f"{known.st_size} {known.st_mtime_ns}"


def in_first_root(name: str, roots: Sequence[Path]) -> Path:
    """Where a listed image lies: in the first of the roots that has it, or else would have it."""
    return find_file(roots, name) or roots[0] / name
