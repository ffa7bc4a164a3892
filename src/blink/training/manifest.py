"""Which images of a source are readable: checked once, before training, and the same on every process.

Knows image sources, and neither models nor training.
"""

import hashlib
import logging
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.progress import track

from blink.inputs.pictures import Notes, Rules, UnreadableImageError
from blink.runs.files import read_json, write_json
from blink.runs.machine import is_first_process
from blink.runs.signals import wait_for_others
from blink.runs.values import UserError
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
        notes: what to know about those that were not simply read, as 16-bit ones.
    """

    readable: tuple[int, ...]
    unreadable: dict[str, str]
    pixels: str
    notes: tuple[str, ...] = ()


class _Decoded(NamedTuple):
    """Reasons why images are unreadable, by number, the hash of the others' pixels, and notes about these."""

    unreadable: dict[int, str]
    pixels: str
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
        write_json(file, report)
    manifest = Manifest(
        readable=tuple(index for index in range(len(images)) if index not in decoded.unreadable),
        unreadable={images.name(index): reason for index, reason in decoded.unreadable.items()},
        pixels=decoded.pixels,
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
    return images.fingerprint != str(read_json(file)["fingerprint"])


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
    order = [readable[i] for i in np.random.default_rng([seed, 0]).permutation(len(readable))]
    kept_back = min(held_out, max(1, len(readable) // 10))
    end = len(order) if limit is None else kept_back + limit
    return Portions(
        train=ImageSubset(images, tuple(order[kept_back:end]), manifest.pixels),
        held_out=ImageSubset(images, tuple(order[:kept_back]), manifest.pixels),
    )


def _kept(file: Path, fingerprint: str) -> _Decoded | None:
    """What an earlier check of the same images found, if there was one."""
    if not file.exists():
        return None
    report = read_json(file)
    if report["fingerprint"] != fingerprint:
        return None
    unreadable = dict(zip(report["numbers"], report["unreadable"].values(), strict=True))
    return _Decoded(unreadable, report["pixels"], tuple(report.get("notes", ())))


def _checked(images: Images) -> _Decoded:
    """Decode every image."""

    notes = Notes()

    def decode(index: int) -> tuple[str | None, bytes]:
        try:
            image = images.read(index)
        except UnreadableImageError as error:
            return str(error), b""
        notes.add(images.name(index), image)
        return None, hashlib.sha256(f"{image.size}".encode() + image.tobytes()).digest()

    start = time.monotonic()
    unreadable, pixels = {}, hashlib.sha256()
    pool = ThreadPoolExecutor(_THREADS)
    try:
        decoded = pool.map(decode, range(len(images)))
        for index, (reason, digest) in enumerate(
            track(decoded, "Checking images", total=len(images), transient=True)
        ):
            pixels.update(digest or b"unreadable")
            if reason is not None:
                unreadable[index] = reason
    finally:
        pool.shutdown(cancel_futures=True)  # or Ctrl-C would wait for all images
    seconds = time.monotonic() - start
    log.info("checked %d images in %.1f s: %d unreadable", len(images), seconds, len(unreadable))
    return _Decoded(unreadable, pixels.hexdigest()[:16], tuple(notes.lines(OWN.reading)))


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
