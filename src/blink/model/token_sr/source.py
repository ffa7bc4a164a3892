"""Where TokenSR modules come from: a folder, what ships with the project, or a repository of the Hugging Face hub.

    outputs/train/layer-12/token_sr     a folder of `save_token_sr`, or the run folder that holds one
    tiny                                the modules that ship with the tiny backbone
    name/repo, name/repo@revision       a model repository, at its main branch or at a branch, tag or commit

So it is read wherever modules are named: by the API, by the commands, and in the files that they leave.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from blink.model.fingerprint import TINY, files_digest
from blink.runs.values import UserError

SHIPPED = "tiny"
"""Name of the modules that ship with the project. A folder of that name is given as ./tiny."""

CONFIG = "config.json"
"""The file that makes a folder one of TokenSR modules."""

_INNER = "token_sr"
"""Folder of the modules in the folder of a training run."""

_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


@dataclass(frozen=True)
class Source:
    """One place of modules.

    Attributes:
        given: as the user wrote it, for messages.
        folder: on this machine; None for the hub.
        repo: id on the hub; empty for a folder.
        revision: branch, tag or commit there; None for its main branch.
    """

    given: str
    folder: Path | None = None
    repo: str = ""
    revision: str | None = None

    def fetch(self, *files: str) -> Path:
        """Return a folder on this machine in which the files lie, those of the hub downloaded or from its cache.

        Of a folder nothing is checked. That of the hub is named after the commit, and may hold other files as well.

        Raises:
            UserError: they cannot be had from the hub.
        """
        if self.folder is not None:
            return self.folder
        try:
            if files == (CONFIG,):  # without a list of all files, and without progress bars for one small one
                return Path(hf_hub_download(self.repo, CONFIG, revision=self.revision)).parent
            found = Path(snapshot_download(self.repo, revision=self.revision, allow_patterns=list(files)))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise UserError(
                f"token_sr={self.given!r} is not a folder, and {', '.join(files)} not found on the hub: {error}"
            ) from error
        missing = [name for name in files if not (found / name).is_file()]
        if missing:
            raise UserError(
                f"token_sr={self.given!r}: {', '.join(missing)} is neither in that repository's commit {found.name[:12]} "
                "nor among the files that were downloaded from it"
            )
        return found

    def pinned(self) -> "Source":
        """The same modules at the commit that the revision names now."""
        return Source(self.given, self.folder, self.repo, self.commit)

    @property
    def commit(self) -> str | None:
        """The commit that the revision names now; None for a folder."""
        return None if self.folder is not None else self.fetch(CONFIG).name

    @property
    def digest(self) -> str:
        """A hash by which changed modules are noticed: of the folder's files (see `files_digest`), or the commit."""
        return files_digest(self.folder) if self.folder is not None else self.fetch(CONFIG).name


def find_token_sr(path: str | os.PathLike[str], revision: str | None = None) -> Source:
    """Say where the modules of `path` are; the hub is not asked.

    Args:
        path: a folder, "tiny", a hub id, or a hub id with a revision behind an @.
        revision: branch, tag or commit of a hub id that names none.

    Raises:
        UserError: it is none of these, or there is a revision beside a folder or another revision.
    """
    given = os.fspath(path)
    shipped = given == SHIPPED and isinstance(path, str)
    folder = TINY / "token_sr" if shipped else Path(given).expanduser()
    if given and folder.is_dir():
        if revision is not None:
            raise UserError(
                f"revision={revision!r}: token_sr={given!r} is a folder, which holds one revision; leave it out, or give a "
                "hub id"
            )
        within = folder / _INNER
        return Source(
            given, within if (within / CONFIG).is_file() and not (folder / CONFIG).exists() else folder
        )
    found = _HUB_ID.fullmatch(given)
    if found is None:
        raise UserError(
            f"token_sr={given!r} is neither a folder nor a hub id (owner/name, or owner/name@revision), nor "
            f"{SHIPPED!r}, whose modules ship with the project"
        )
    if revision is not None and found[2] is not None and revision != found[2]:
        raise UserError(
            f"token_sr={given!r} names the revision {found[2]!r}, and revision={revision!r} another"
        )
    return Source(given, None, found[1], found[2] or revision)
