"""Intermediate results on disk, so that the same command goes on where a signal, a kill or a full disk ended it."""

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from blink.runs.files import as_json, place_named, read_json, short_digest, whole_file, write_json

log = logging.getLogger(__name__)

_OF = "of.json"
_NOTES = "notes"


class Piece(NamedTuple):
    """One intermediate result: tensors by name, and JSON values beside them."""

    tensors: dict[str, Tensor]
    notes: Any


class Kept:
    """Intermediate results in a folder, each computed once.

    Args:
        folder: None keeps nothing.
        of: what all pieces follow from beside their names, as JSON; those of anything else are thrown away.

    Attributes:
        begun: whether there are pieces of an earlier process.
    """

    def __init__(self, folder: Path | None = None, of: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.of: Any = as_json(of or {})
        self.begun = folder is not None and self._fits(folder)
        if folder is not None and folder.exists() and not self.begun:
            shutil.rmtree(folder)

    def piece(self, name: str, make: Callable[[], Piece]) -> Piece:
        """Read an intermediate result, or compute and write it.

        Args:
            name: of all that tells it from other pieces.

        Raises:
            OSError: it cannot be written; names the file.
        """
        if self.folder is None:
            return _as_kept(make())
        path = self._path(self.folder, name)
        if path.exists():
            try:
                with safe_open(path, framework="pt") as file:
                    notes = json.loads(file.metadata()[_NOTES])
                    return Piece({key: file.get_tensor(key) for key in file.keys()}, notes)  # noqa: SIM118 (not a mapping)
            except (OSError, SafetensorError, ValueError, LookupError, TypeError):
                log.warning("%s is damaged: that part is done again", path)
        made = _as_kept(make())
        if not self.folder.exists():
            self.folder.mkdir(parents=True)
            write_json(self.folder / _OF, self.of)
        with whole_file(path) as partial, place_named(path):
            save_file(
                {
                    key: tensor.clone().contiguous() for key, tensor in made.tensors.items()
                },  # none is a view of another
                partial,
                metadata={_NOTES: json.dumps(made.notes)},
            )
        return made

    def forget(self, name: str) -> None:
        """Remove one intermediate result, so that it is computed anew."""
        if self.folder is not None:
            self._path(self.folder, name).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove all intermediate results, once the final one is written."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    @staticmethod
    def _path(folder: Path, name: str) -> Path:
        return folder / f"{short_digest(name)}.safetensors"

    def _fits(self, folder: Path) -> bool:
        try:
            return bool(read_json(folder / _OF) == self.of)
        except (OSError, ValueError):
            return False


def _as_kept(made: Piece) -> Piece:
    """A new piece as it is when it is read: keys and tuples of its notes become what JSON has."""
    return made._replace(notes=as_json(made.notes))
