"""Visual hidden states of pictures on disk, in bfloat16: computed once, read by every later run over a backbone.

A folder holds `recipe.json`, all that features follow from beside the picture; `pictures.txt`, whose line n is the
picture of row n, as a digest, with its grid where that depends on the picture; and for each layer `layer_12.features`,
whose row n is [5, H, W, d], and `layer_12.done`, where the digest of row n is written once that row is whole on disk. So
a process may be killed at any time, several processes and runs may write into one folder, and layers and pictures can be
added to it. Knows neither models nor training.

Axes: F = 5 views, H x W grid of visual tokens, d hidden width.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
Shape = tuple[int, int | None, int | None, int]
"""(F, H, W, d)."""

COMMIT_BYTES = 16 * 2**20
"""Bytes after which `write` commits by itself: what a kill can lose."""


class FeatureStore:
    """Rows of features in a folder.

    Args:
        folder: made if missing, with this recipe.
        recipe: what all features in it follow from, as JSON; entries of `notes` are kept beside it and not compared.
        shape: (F, H, W, d) of a row; H and W are None where they depend on the picture.

    Raises:
        ValueError: the folder holds features of another recipe, or other files.
    """

    def __init__(
        self, folder: Path, recipe: Mapping[str, Any], shape: Shape, *, notes: Mapping[str, Any]
    ) -> None:
        self.folder, self.shape = folder, shape
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
            try:
                there = read_json(file)
            except UserError as error:
                raise UserError(f"{error}; delete {folder}, and its features are computed anew") from error
            _refuse_other_recipe(folder, there if isinstance(there, dict) else {}, compared)
            self._rows = self._listed()[1]

    def rows(self, identities: Sequence[str], grids: Sequence[tuple[int, int]] | None = None) -> list[int]:
        """Return the row numbers of some pictures; those that are new get the next free ones.

        Args:
            identities: as `Images.identity` gives them; what a picture's features depend on.
            grids: (H, W) of each picture, where it depends on that.
        """
        assert (grids is None) == (self.shape[1] is not None), (
            "grids belong to rows whose shape depends on them"
        )
        wanted = [_digest(identity) for identity in identities]
        lines = [f"{digest:016x}" for digest in wanted]
        if grids is not None:
            lines = [f"{line} {H} {W}" for line, (H, W) in zip(lines, grids, strict=True)]
        file = self.folder / PICTURES
        with self._locked():
            known, _ = self._listed()
            row_of = {int(line[:16], 16): row for row, line in enumerate(known)}
            new = {digest: line for digest, line in zip(wanted, lines, strict=True) if digest not in row_of}
            if new:
                row_of |= {digest: row for row, digest in enumerate(new, start=len(known))}
                known += new.values()
                write_text(file, "".join(f"{line}\n" for line in known))
        self._rows = _Rows(known, self.shape)
        return [row_of[digest] for digest in wanted]

    def grid(self, row: int) -> tuple[int, int]:
        """Rows and columns of visual tokens of a row that `rows` returned."""
        return self._rows.grid(row)

    def bytes_of(self, rows: Iterable[int]) -> int:
        """Bytes of some rows at one layer."""
        return sum(self._rows.size(row) for row in rows)

    def lacking(self, rows: Sequence[int], layers: Sequence[int]) -> dict[int, tuple[int, ...]]:
        """Return row -> layers that it lacks, for those rows that lack any."""
        digests = self._rows.digests
        unique = np.array(list(dict.fromkeys(rows)), dtype=np.int64)
        there = np.zeros((len(layers), len(unique)), dtype=bool)
        for layer, has in zip(layers, there, strict=True):
            done, features = self._path(layer, "done"), self._path(layer, "features")
            if done.exists() and features.exists():
                marks = np.zeros_like(digests)
                found = np.fromfile(done, dtype=np.uint64)[: self._rows.whole_in(features.stat().st_size)]
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
        needed = sum(self._rows.size(row) * len(layers) for row, layers in lacking.items())
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise UserError(
                f"data.cache_features={self.folder} needs {in_words(needed)} more for {pictures:,} pictures "
                f"({in_words(self.bytes_of(lacking) // len(lacking))} for each of them and each layer), and "
                f"{in_words(free)} are free there; take fewer images or layers, or another disk"
            )
        return needed

    def write(self, row: int, identity: str, states: Mapping[int, Tensor]) -> None:
        """Write a row: layer -> [F, H, W, d], any float dtype. It counts as stored after the next `commit`."""
        for layer, state in states.items():
            shape = self._rows.shape(row)
            assert tuple(state.shape) == shape, f"{tuple(state.shape)}; row {row} is {shape}"
            bits = state.to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy()
            path = self._path(layer, "features")
            with place_named(path):
                file = self._file(path)
                file.seek(self._rows.start(row))
                file.write(bits.tobytes())
            self._written.append((layer, row, _digest(identity)))
        if self.bytes_of(row for _, row, _ in self._written) >= COMMIT_BYTES:
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
                count=self._rows.size(row) // 2,
                offset=self._rows.start(row),
            )
            states[layer] = torch.from_numpy(bits).view(torch.bfloat16).view(self._rows.shape(row)).to(dtype)
        return states

    def beside(self, key: str, name: str) -> Path:
        """Path of another file in the folder, one for each key and name."""
        return self.folder / f"{_digest(key):016x}.{name}"

    def _listed(self) -> "tuple[list[str], _Rows]":
        """Read the list of pictures, while no other process changes it.

        Raises:
            UserError: it is damaged, or shorter than the files of features: where rows lie there is not known then.
        """
        file = self.folder / PICTURES
        try:
            lines = file.read_text(encoding="ascii").splitlines() if file.exists() else []
            rows = _Rows(lines, self.shape)
            marked = max((done.stat().st_size // 8 for done in self.folder.glob("layer_*.done")), default=0)
            if marked > len(lines):
                raise ValueError(f"it lists {len(lines)} pictures, and there are features of {marked}")
        except (IndexError, OverflowError, ValueError) as error:
            raise UserError(
                f"{file} is damaged: {error}; delete {self.folder}, and its features are computed anew"
            ) from error
        return lines, rows

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


class _Rows:
    """Where rows lie in a file of features.

    Args:
        lines: of the list of pictures, one for each row.
        shape: as for `FeatureStore`.
    """

    def __init__(self, lines: Sequence[str], shape: Shape) -> None:
        views, H, W, width = shape
        entries = [line.split() for line in lines]
        self._views, self._width = views, width
        self.digests = np.array([int(entry[0], 16) for entry in entries], dtype=np.uint64)
        self._grids = np.array(
            [(H, W) if H is not None else (int(entry[1]), int(entry[2])) for entry in entries], dtype=np.int64
        ).reshape(-1, 2)
        self._ends = (2 * views * width * self._grids.prod(axis=1)).cumsum()

    def grid(self, row: int) -> tuple[int, int]:
        H, W = self._grids[row].tolist()
        return H, W

    def shape(self, row: int) -> tuple[int, ...]:
        return self._views, *self.grid(row), self._width

    def start(self, row: int) -> int:
        return int(self._ends[row - 1]) if row else 0

    def size(self, row: int) -> int:
        return int(self._ends[row]) - self.start(row)

    def whole_in(self, size: int) -> int:
        """How many rows end within a file of this size."""
        return int(np.searchsorted(self._ends, size, side="right"))


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
