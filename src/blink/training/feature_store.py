"""Visual hidden states of pictures on disk, in bfloat16: computed once, read by every later run over a backbone.

A folder holds `recipe.json`, all that features follow from beside the picture; `pictures.txt`, whose line n is the
picture of row n, as a digest; and for each layer `layer_12.features`, whose row n is [5, H, W, d], and `layer_12.done`,
where the digest of row n is written once that row is whole on disk. So a process may be killed at any time, several
processes and runs may write into one folder, and layers and pictures can be added to it. Knows neither models nor
training.

Axes: F = 5 views, H x W grid of visual tokens, d hidden width.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from blink.runs.files import make_folder, place_named, read_json, remove_partial, write_json, write_text
from blink.runs.values import UserError

RECIPE = "recipe.json"
PICTURES = "pictures.txt"

_FORMAT = 1
_LOCK = ".lock"
COMMIT_BYTES = 16 * 2**20
"""Bytes after which `write` commits by itself: what a kill can lose."""


class FeatureStore:
    """Rows of features in a folder.

    Args:
        folder: made if missing, with this recipe.
        recipe: what all features in it follow from, as JSON; entries of `notes` are kept beside it and not compared.
        shape: (F, H, W, d) of a row.

    Raises:
        ValueError: the folder holds features of another recipe, or other files.
    """

    def __init__(
        self, folder: Path, recipe: Mapping[str, Any], shape: tuple[int, ...], *, notes: Mapping[str, Any]
    ) -> None:
        self.folder, self.shape = folder, shape
        self.row_bytes = 2 * int(np.prod(shape))
        self._open: dict[Path, BinaryIO] = {}
        # layer, row and digest of rows that are written and not marked as whole yet
        self._written: list[tuple[int, int, int]] = []
        compared = {"format": _FORMAT, **recipe, "shape": list(shape)}
        if folder.exists() and not folder.is_dir():
            raise UserError(f"data.cache_features={folder} is a file; expected a folder")
        with self._locked():
            for name in (RECIPE, PICTURES):
                remove_partial(folder, name)
            file = folder / RECIPE
            if not file.exists():
                others = sorted(path.name for path in folder.iterdir() if path.name != _LOCK)
                if others:
                    raise UserError(
                        f"data.cache_features={folder} holds other files ({others[0]}, for instance); give a new folder"
                    )
                write_json(file, {**notes, **compared})
            _refuse_other_recipe(folder, read_json(file), compared)

    def rows(self, identities: Sequence[str]) -> list[int]:
        """Return the row numbers of some pictures; those that are new get the next free ones.

        Args:
            identities: as `Images.identity` gives them; what a picture's features depend on.
        """
        wanted = [_digest(identity) for identity in identities]
        file = self.folder / PICTURES
        with self._locked():
            known = _listed(file)
            row_of = {digest: row for row, digest in enumerate(known)}
            new = [digest for digest in dict.fromkeys(wanted) if digest not in row_of]
            if new:
                row_of |= {digest: row for row, digest in enumerate(new, start=len(known))}
                write_text(file, "".join(f"{digest:016x}\n" for digest in [*known, *new]))
        return [row_of[digest] for digest in wanted]

    def lacking(self, rows: Sequence[int], layers: Sequence[int]) -> dict[int, tuple[int, ...]]:
        """Return row -> layers that it lacks, for those rows that lack any."""
        digests = np.array(_listed(self.folder / PICTURES), dtype=np.uint64)
        unique = np.array(list(dict.fromkeys(rows)), dtype=np.int64)
        there = np.zeros((len(layers), len(unique)), dtype=bool)
        for layer, has in zip(layers, there, strict=True):
            done, features = self._path(layer, "done"), self._path(layer, "features")
            if done.exists() and features.exists():
                marks = np.zeros_like(digests)
                found = np.fromfile(done, dtype=np.uint64)[: features.stat().st_size // self.row_bytes]
                marks[: len(found)] = found[: len(marks)]
                has[:] = marks[unique] == digests[unique]
        return {
            int(row): tuple(layer for layer, whole in zip(layers, has, strict=True) if not whole)
            for row, has in zip(unique, there.T, strict=True)
            if not has.all()
        }

    def check_space(self, lacking: Mapping[int, Sequence[int]], pictures: int) -> int:
        """Return the bytes that are still to be written.

        Raises:
            ValueError: there is less space on that disk.
        """
        needed = self.row_bytes * sum(len(layers) for layers in lacking.values())
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise UserError(
                f"data.cache_features={self.folder} needs {in_words(needed)} more for {pictures:,} pictures "
                f"({in_words(self.row_bytes)} for each of them and each layer), and {in_words(free)} are free there; "
                "take fewer images or layers, or another disk"
            )
        return needed

    def write(self, row: int, identity: str, states: Mapping[int, Tensor]) -> None:
        """Write a row: layer -> [F, H, W, d], any float dtype. It counts as stored after the next `commit`."""
        for layer, state in states.items():
            assert tuple(state.shape) == self.shape, f"{tuple(state.shape)}; rows are {self.shape}"
            bits = state.to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy()
            path = self._path(layer, "features")
            with place_named(path):
                file = self._file(path)
                file.seek(row * self.row_bytes)
                file.write(bits.tobytes())
            self._written.append((layer, row, _digest(identity)))
        if len(self._written) * self.row_bytes >= COMMIT_BYTES:
            self.commit()

    def commit(self) -> None:
        """Wait until all that was written is on the disk, and then mark it as whole."""
        self._flush()
        for layer, row, digest in self._written:
            path = self._path(layer, "done")
            with place_named(path):
                file = self._file(path)
                file.seek(8 * row)
                file.write(np.uint64(digest).tobytes())
        self._flush()
        self.close()

    def close(self) -> None:
        """Close all files; rows that are not committed do not count as stored."""
        for file in self._open.values():
            with suppress(OSError):  # of what a full disk does not take
                file.close()
        self._open.clear()
        self._written.clear()

    def _flush(self) -> None:
        for path, file in self._open.items():
            with place_named(path):
                file.flush()
                os.fsync(file.fileno())

    def read(self, row: int, layers: Sequence[int], dtype: torch.dtype) -> dict[int, Tensor]:
        """Read a row that is there: layer -> [F, H, W, d]."""
        states = {}
        for layer in layers:
            bits = np.fromfile(
                self._path(layer, "features"),
                dtype=np.int16,
                count=self.row_bytes // 2,
                offset=row * self.row_bytes,
            )
            states[layer] = torch.from_numpy(bits).view(torch.bfloat16).view(self.shape).to(dtype)
        return states

    def beside(self, key: str, name: str) -> Path:
        """Path of another file in the folder, one for each key and name."""
        return self.folder / f"{_digest(key):016x}.{name}"

    def _path(self, layer: int, ending: str) -> Path:
        return self.folder / f"layer_{layer:02d}.{ending}"

    def _file(self, path: Path) -> BinaryIO:
        """A file opened for writing anywhere in it."""
        if path not in self._open:
            path.touch()
            self._open[path] = path.open("r+b")
        return self._open[path]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes from changing recipe and list; the folder is made if need be."""
        make_folder(self.folder)
        with (self.folder / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # ends with the file, or the process
            yield


def in_words(size: int) -> str:
    """A number of bytes, as "23.6 MB"."""
    unit, name = next(
        (unit, name) for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if size >= unit or name == "kB"
    )
    return f"{size / unit:,.1f} {name}"


def _digest(identity: str) -> int:
    """64 bits of a picture's identity, never 0."""
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8]) or 1


def _listed(file: Path) -> list[int]:
    return [int(line, 16) for line in file.read_text().splitlines()] if file.exists() else []


def _refuse_other_recipe(folder: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    differing = [
        f"{key}: {there.get(key, 'absent')} there, {value} now"
        for key, value in here.items()
        if there.get(key) != value
    ]
    if differing:
        raise UserError(
            f"data.cache_features={folder} holds features that are not this run's ({'; '.join(differing)}); "
            "give another folder, or delete that one"
        )
