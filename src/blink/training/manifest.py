"""Which images of a source are readable: checked once, before training, and the same on every process.

Knows image sources, and neither models nor training.
"""

import hashlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from rich.progress import track

from blink.runs.files import read_json, write_json
from blink.runs.inputs.pictures import Notes, Rules, UnreadableImageError
from blink.runs.machine import is_first_process
from blink.runs.signals import wait_for_others
from blink.runs.values import UserError, fits
from blink.training.images import OWN, Images, ImageSubset, local_images

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
"""File with the result of the check, in a run's folder or beside stored features."""

_THREADS = min(16, 4 * (os.cpu_count() or 1))
_SHOWN = 3


class Manifest(NamedTuple):
    """Readable and unreadable images of a source.

    Attributes:
        readable: numbers of the readable images, ascending.
        unreadable: name -> reason, of those that are left out.
        pixels: hash of all that could be decoded, in order.
        sizes: (width, height) of the readable images.
        notes: what to know about those that were not simply read, as 16-bit ones.
    """

    readable: tuple[int, ...]
    unreadable: dict[str, str]
    pixels: str
    sizes: tuple[tuple[int, int], ...]
    notes: tuple[str, ...] = ()

    def only(self, fits: Callable[[tuple[int, int]], bool]) -> "Manifest":
        """Without the images of some sizes."""
        kept = [(number, size) for number, size in zip(self.readable, self.sizes, strict=True) if fits(size)]
        return self._replace(
            readable=tuple(number for number, _ in kept), sizes=tuple(size for _, size in kept)
        )


class _Decoded(NamedTuple):
    """Reasons why images are unreadable, by number, and of the others the hash of the pixels, the sizes, and notes."""

    unreadable: dict[int, str]
    pixels: str
    sizes: tuple[tuple[int, int], ...]
    notes: tuple[str, ...]


class Portions(NamedTuple):
    """Images to train on, and images held out to measure on."""

    train: ImageSubset
    held_out: ImageSubset


def check_images(images: Images, file: Path) -> Manifest:
    """Decode every image once, and keep what was found in `file` for later starts and other processes.

    The first process checks; the others wait for its file. So all of them go by one list, and if it holds too
    many unreadable images all of them stop.

    Raises:
        ValueError: more than max(1, 1 %) of the images are unreadable, or none is left.
    """
    fingerprint = images.fingerprint
    decoded = _kept(file, fingerprint)
    if decoded is None and not is_first_process():
        while decoded is None:
            wait_for_others(0.2)
            decoded = _kept(file, fingerprint)
    if decoded is None:
        decoded = _checked(images)
        names = {images.name(index): reason for index, reason in decoded.unreadable.items()}
        report = {"fingerprint": fingerprint, "images": len(images), "pixels": decoded.pixels}
        report |= {"unreadable": names, "numbers": list(decoded.unreadable), "notes": list(decoded.notes)}
        report["sizes"] = " ".join(f"{width}x{height}" for width, height in decoded.sizes)
        write_json(file, report)
    manifest = Manifest(
        readable=tuple(index for index in range(len(images)) if index not in decoded.unreadable),
        unreadable={images.name(index): reason for index, reason in decoded.unreadable.items()},
        pixels=decoded.pixels,
        sizes=decoded.sizes,
        notes=decoded.notes,
    )
    for line in manifest.notes:
        log.warning("%s", line)
    _stop_if_too_many(manifest, len(images), file)
    return manifest


def changed_since(file: Path, roots: Sequence[Path], rules: Rules = OWN) -> bool:
    """Whether image files, where they are still there, are not as they were when `check_images` wrote `file`."""
    if not roots or not file.exists():
        return False
    try:
        images = local_images(roots, rules)
    except ValueError:
        return False
    try:
        return bool(images.fingerprint != read_json(file)["fingerprint"])
    except (KeyError, TypeError, ValueError):
        return False  # damaged; of a run that is done it serves for nothing else


def split(images: Images, manifest: Manifest, *, held_out: int, limit: int | None, seed: int) -> Portions:
    """Shuffle the readable images by `seed`, hold out the first of them, and take up to `limit` to train on.

    Args:
        held_out: images to measure on; at most a tenth of the readable ones are taken, and at least one.
        limit: images to train on; None takes all that are left.

    Raises:
        ValueError: there are fewer than two readable images.
    """
    readable = manifest.readable
    if len(readable) < 2:
        raise UserError(
            f"{len(readable)} readable image(s); training needs at least two, one of them to measure on"
        )
    order = np.random.default_rng([seed, 0]).permutation(len(readable))
    kept_back = min(held_out, max(1, len(readable) // 10))
    end = len(order) if limit is None else kept_back + limit

    def portion(chosen: npt.NDArray[np.int64]) -> ImageSubset:
        return ImageSubset(
            images,
            tuple(readable[i] for i in chosen),
            manifest.pixels,
            tuple(manifest.sizes[i] for i in chosen),
        )

    return Portions(train=portion(order[kept_back:end]), held_out=portion(order[:kept_back]))


def _kept(file: Path, fingerprint: str) -> _Decoded | None:
    """What an earlier check of the same images found, if there was one."""
    if not file.exists():
        return None
    try:
        report = read_json(file)
        if (
            report["fingerprint"] != fingerprint or "sizes" not in report
        ):  # which earlier versions did not keep
            return None
        numbers, reasons, notes = report["numbers"], report["unreadable"], report.get("notes", [])
        sound = fits(numbers, list[int]) and fits(reasons, dict[str, str]) and fits(notes, list[str])
        if not sound or not fits(report["pixels"], str):
            raise TypeError("values of other types")
        sizes = [size.split("x") for size in report["sizes"].split()]
        return _Decoded(
            unreadable=dict(zip(numbers, reasons.values(), strict=True)),
            pixels=report["pixels"],
            sizes=tuple((int(width), int(height)) for width, height in sizes),
            notes=tuple(notes),
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        if is_first_process():
            log.warning("%s is damaged: the images are checked again", file)
        return None


def _checked(images: Images) -> _Decoded:
    """Decode every image."""

    notes = Notes()

    def decode(index: int) -> tuple[str, None, bytes] | tuple[None, tuple[int, int], bytes]:
        try:
            image = images.read(index)
        except UnreadableImageError as error:
            return str(error), None, b"unreadable"
        notes.add(images.name(index), image)
        return None, image.size, hashlib.sha256(f"{image.size}".encode() + image.tobytes()).digest()

    start = time.monotonic()
    unreadable, sizes, pixels = {}, [], hashlib.sha256()
    pool = ThreadPoolExecutor(_THREADS)
    try:
        decoded = pool.map(decode, range(len(images)))
        for index, (reason, size, digest) in enumerate(
            track(decoded, "Checking images", total=len(images), transient=True)
        ):
            pixels.update(digest)
            if size is None:
                unreadable[index] = str(reason)
            else:
                sizes.append(size)
    finally:
        pool.shutdown(cancel_futures=True)  # or Ctrl-C would wait for all images
    seconds = time.monotonic() - start
    log.info("checked %d images in %.1f s: %d unreadable", len(images), seconds, len(unreadable))
    return _Decoded(unreadable, pixels.hexdigest()[:16], tuple(sizes), tuple(notes.lines(OWN.reading)))


def _stop_if_too_many(manifest: Manifest, total: int, file: Path) -> None:
    count = len(manifest.unreadable)
    allowed = max(1, total // 100)
    shown = "; ".join(list(manifest.unreadable.values())[:_SHOWN])
    if count > allowed:
        raise UserError(
            f"{count} of {total} images cannot be read, at most {allowed} may: {shown}; all are listed in {file}"
        )
    if count:
        log.warning("left out %d unreadable of %d images (listed in %s): %s", count, total, file, shown)
