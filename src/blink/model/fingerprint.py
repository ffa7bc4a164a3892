"""Hashes of checkpoints and modules, which runs and stored features record to notice that a file has changed.

A run that was begun with one checkpoint refuses to continue with another, so a hash of the same files must never change.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from blink.runs.values import UserError

TINY = Path(__file__).parents[1] / "assets" / "tiny"
"""Folder of the backbone that ships with the project."""

_ENDINGS = (".safetensors", ".json")

_BLOCKS, _BLOCK_BYTES = 64, 4096


def checkpoint_source(name: str) -> str:
    """What transformers loads the checkpoint `name` from: a folder, or a hub id."""
    return str(TINY) if name == "tiny" else name


def check_place(name: str) -> None:
    """Raise UserError for what is neither a folder nor can be a hub id; the hub need not know the id."""
    source = checkpoint_source(name)
    if Path(source).is_dir():
        return
    try:
        validate_repo_id(source)
    except HFValidationError as error:
        raise UserError(
            f"no backbone at {name!r}: there is no such folder; expected one, or a hub id (owner/name)"
        ) from error


def files_digest(folder: Path) -> str:
    """Return a hash by which changed weights and settings in a folder are noticed: of each file its name, size, first
    and last MiB, since the whole of a large checkpoint would take minutes to read.
    """
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.glob("*") if path.suffix in _ENDINGS and path.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(2**20))
            file.seek(max(0, size - 2**20))
            digest.update(file.read())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Fingerprint:
    """Identifies a checkpoint without reading all of it.

    Attributes:
        name: folder or hub id, or "tiny".
        revision: its commit on the hub; None for a folder.
    """

    name: str
    revision: str | None = None

    @property
    def files(self) -> str:
        """Hash of a folder's weights and settings, the tokenizer's included: see `files_digest`.

        For a hub id, which its revision identifies, the hash of no files.
        """
        return files_digest(self._folder)

    @property
    def weights(self) -> str:
        """The revision, or else a hash of a folder's config and of evenly spaced blocks of its weight files.

        Other weights change it; a copy of the folder, or another tokenizer in it, does not.

        Raises:
            OSError: there is no such folder.
        """
        if self.revision is not None:
            return self.revision
        contents = hashlib.sha256((self._folder / "config.json").read_bytes())
        for file in sorted(self._folder.glob("*.safetensors")):
            size = file.stat().st_size
            contents.update(f"{file.name} {size}".encode())
            with file.open("rb") as stream:
                for block in range(_BLOCKS):
                    stream.seek(max(0, size - _BLOCK_BYTES) * block // (_BLOCKS - 1))
                    contents.update(stream.read(_BLOCK_BYTES))
        return contents.hexdigest()[:16]

    @property
    def _folder(self) -> Path:
        return Path(checkpoint_source(self.name))


def same_checkpoint(name: str, recorded: str, weights: str | None = None) -> bool:
    """Whether a checkpoint is the one that a record speaks of: by its weights where both are known, else by name.

    Args:
        name: folder or hub id, or "tiny".
        recorded: the same of the recorded one, wherever it lay.
        weights: the recorded one's `Fingerprint.weights` if it was a folder, and that was kept.
    """
    folder = Path(checkpoint_source(name))
    if weights is not None and (folder / "config.json").is_file():
        return Fingerprint(name).weights == weights
    return recorded == name or Path(checkpoint_source(recorded)).resolve() == folder.resolve()
