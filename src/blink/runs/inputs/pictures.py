"""Pictures: the one place where a file's bytes become RGB, for every source and every command.

They are loaded as LLaVA's authors load them (`Image.open(file).convert("RGB")`), so that published numbers hold: EXIF
orientations are not applied (that of TIFF, which is the format's own, always is), transparency is dropped (what it hides is seen), palettes are looked up, CMYK is converted
without a profile, one-bit pictures become 0 and 255, of several frames the first one is taken, and the ending of the name
does not count. Pictures of more than 8 bits a channel, which are grey ones, saturate, mostly to white; a `Reading` can do
better for pictures that have no published numbers.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import isqrt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from blink.runs.inputs.names import check_name, find_file, look_alikes
from blink.runs.values import UserError, choice, flag

Opener = Callable[[], Image.Image]

ORIENTATIONS = ("ignore", "apply")
"""What to do with EXIF orientations, as the keys `exif` say it."""

MOST_PIXELS = 178_956_970
"""Of a picture that is padded to a square, as LLaVA-1.5 pads it: 13,377 x 13,377. Pillow refuses as many in a file, but
30,000 x 2 pixels are few in the file, and took 12 GB and two minutes once they were padded."""

ENDINGS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""Name endings, in lower case, by which pictures are found in folders."""

_DEEP = ("I", "F")
"""What the names of Pillow's modes of more than 8 bits a channel begin with."""

_IN_FRAMES = ("AVIF", "GIF", "PNG", "TIFF", "WEBP")
"""Formats whose frames are pictures in their own right; those of MPO, which telephones write, are sizes of one."""

_SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""

_NOTE = "blink"
"""Key of a picture's `info` that holds its `_Note`."""


def is_picture(name: str) -> bool:
    """Whether a file is one of pictures, by the ending of its name."""
    return Path(name).suffix.lower() in ENDINGS


class UnreadableImageError(UserError):
    """A picture that is missing, too large, or cannot be decoded; says which, and why."""


class _Note(NamedTuple):
    """What was special about a picture: the mode and range of a deep one, else "", and whether it has several frames."""

    deep: str
    frames: bool


@dataclass(frozen=True)
class Reading:
    """How a picture is decoded; the default is what the authors of benchmarks do.

    Attributes:
        upright: whether pictures are turned as their EXIF orientation says.
        scaled: whether pictures of more than 8 bits a channel are scaled to 8 bits, each from its own range, and do not
            saturate. Pictures of one value do.
    """

    upright: bool = False
    scaled: bool = False

    def __call__(self, source: Path | bytes, name: str) -> Image.Image:
        """Decode a picture completely, as RGB.

        Args:
            source: a file, or the bytes of one.
            name: for messages.

        Raises:
            UnreadableImageError: whatever the reason why it cannot be decoded, or it is larger than `MOST_PIXELS`.
        """
        try:
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                _check_size(image.size)
                if self.upright:
                    ImageOps.exif_transpose(image, in_place=True)
                image.info.pop("transparency", None)  # not used, and Pillow warns of some kinds of it
                deep = image.mode.startswith(_DEEP)
                rgb = _scaled(image) if deep and self.scaled else image.convert("RGB")
                rgb.info = {_NOTE: _Note(_range(image) if deep else "", _has_frames(image))}
        except Exception as error:  # Pillow's decoders raise almost any type on a damaged file
            raise UnreadableImageError(f"{name}: {_reason(error, source)}") from error
        return rgb

    def size(self, source: Path | bytes, name: str = "") -> tuple[int, int]:
        """Return width and height as `__call__` gives them, from the beginning of a file.

        Args:
            source: a file, or the bytes of one.
            name: for messages; of a file it is its path.

        Raises:
            UnreadableImageError: it is no picture, or larger than `MOST_PIXELS`.
        """
        try:
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                _check_size(image.size)
                if not self.upright or image.format == "TIFF":
                    return image.size
                sideways = image.getexif().get(ExifTags.Base.Orientation) in _SIDEWAYS
                return image.size[::-1] if sideways else image.size
        except Exception as error:  # as above
            raise UnreadableImageError(f"{name or source!s}: {_reason(error, source)}") from error


@dataclass(frozen=True)
class Rules:
    """How pictures that files name are found and read.

    Attributes:
        reading: how they are decoded.
        outside: whether a name that stands in a data file may lead out of the data folder.
    """

    reading: Reading = field(default_factory=Reading)
    outside: bool = False

    @classmethod
    def of(cls, data: Mapping[str, Any], *, scaled: bool) -> "Rules":
        """Return what the keys `exif` and `allow_outside` of the group `data` say; those that it lacks are not set.

        Args:
            scaled: as in `Reading`: whether they are pictures of the user's own, and no benchmark's.

        Raises:
            UserError: one of them has another value than it may have.
        """
        exif = choice("data.exif", data.get("exif", "ignore"), ORIENTATIONS)
        outside = flag("data.allow_outside", data.get("allow_outside", False))
        return cls(Reading(exif == "apply", scaled), outside)

    def find(self, folders: Sequence[Path], name: object, where: str) -> Path:
        """Return where a picture is, in the first of the folders that has it.

        Args:
            name: as it stands in a data file, at `where`.

        Raises:
            UserError: it is no name, or may not lead where it does, or none of the folders has it.
        """
        name = check_name(name, where, outside=self.outside)
        path = find_file(folders, name)
        if path is None:
            other = look_alikes(folders, name)
            raise UserError(
                f"{where}: the picture {name} is missing; looked in {', '.join(map(str, folders))}"
                + (f", where {other[0]} has another ending" if other else "")
            )
        return path

    def opener(self, folders: Sequence[Path], name: object, where: str) -> Opener:
        """Find a picture as `find` does, to be decoded when it is needed."""
        path = self.find(folders, name, where)
        return partial(self.reading, path, str(path))


AS_AUTHORS = Rules()
"""Pictures as the authors of benchmarks load them."""


class Notes:
    """What readers of results should know about the pictures that were read: how many were special, and one of each kind."""

    def __init__(self) -> None:
        self._deep: list[str] = []
        self._frames: list[str] = []

    def add(self, name: str, image: Image.Image) -> None:
        """Look at a picture that a `Reading` decoded; one from elsewhere has nothing to note."""
        note: _Note = image.info.get(_NOTE, _Note("", False))
        if note.deep:
            self._deep.append(f"{name} ({note.deep})")
        if note.frames:
            self._frames.append(name)

    def lines(self, reading: Reading) -> list[str]:
        """Return a line for each kind of special pictures that there were, read with `reading`."""
        what = (
            "scaled to 8 bits, each from its own range"
            if reading.scaled
            else "saturated, as by the authors' code"
        )
        kinds = {
            f"of more than 8 bits a channel, {what}": self._deep,
            "of several frames, the first one taken": self._frames,
        }
        return [
            f"pictures {kind}: {len(found):,}, such as {found[0]}" for kind, found in kinds.items() if found
        ]


def _check_size(size: tuple[int, int]) -> None:
    """Raise an error unless the picture and the square that it may be padded to are of a size that can be processed."""
    width, height = size
    padded = max(size) ** 2
    if padded > MOST_PIXELS:
        side = isqrt(MOST_PIXELS)
        raise UnreadableImageError(
            f"{width:,} x {height:,} pixels are {padded:,} once padded to a square, and {side:,} x {side:,} the most; "
            "scale it down"
        )


def _scaled(image: Image.Image) -> Image.Image:
    """A grey picture of many bits as RGB, its least value black and its largest white; one of a single value saturates.

    What is not a number becomes black, infinity the least or the largest.
    """
    with np.errstate(invalid="ignore"):  # nan of all kinds are left out below
        values_HW = np.asarray(image, dtype=np.float64)
    finite = values_HW[np.isfinite(values_HW)]
    if not finite.size:
        raise UnreadableImageError("it holds no finite number")
    low, high = float(finite.min()), float(finite.max())
    if low == high:
        return image.convert("RGB")
    shares_HW = np.nan_to_num((values_HW - low) / (high - low), nan=0.0)
    return Image.fromarray((255 * shares_HW.clip(0, 1)).round().astype(np.uint8)).convert("RGB")


def _range(image: Image.Image) -> str:
    """The mode of a grey picture, and its least and largest value."""
    low, high = np.asarray(image).min(), np.asarray(image).max()
    return f"{image.mode} from {low:g} to {high:g}"


def _has_frames(image: Image.Image) -> bool:
    if image.format not in _IN_FRAMES:
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # a second frame that is damaged, of which nothing is needed
        return True


def _reason(error: Exception, source: Path | bytes) -> str:
    """Why a picture could not be decoded, in one line that does not change from run to run."""
    if isinstance(error, UnreadableImageError):
        return str(error)
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, UnidentifiedImageError):
        empty = not (source if isinstance(source, bytes) else source.stat().st_size)
        return "an empty file" if empty else "not a picture of a format that Pillow knows"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
