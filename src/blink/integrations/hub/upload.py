"""`push_token_sr`: a repository on the Hugging Face hub for TokenSR modules, in one commit."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import HfApi, ModelInfo, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from blink.integrations.hub.facts import Facts, read_facts
from blink.integrations.hub.release import OURS, write_release
from blink.model.token_sr.files import check_finite, check_token_sr, load_token_sr
from blink.model.token_sr.source import CONFIG, SHIPPED
from blink.runs.values import UserError, flag, optional, path, text

log = logging.getLogger("blink.push")

LICENSE = "apache-2.0"
"""Of the modules where their owner names no other."""

_REVISION = re.compile(r"(?!.*\.\.)[\w][\w./-]*")


@dataclass(frozen=True)
class Pushed:
    """What `push_token_sr` did.

    Attributes:
        repo: id of the repository.
        files: names of all files.
        folder: in which they were written; None where that was a temporary one.
        url: of the commit; None of a dry run.
        commit: its hash; None of a dry run.
    """

    repo: str
    files: tuple[str, ...]
    folder: Path | None = None
    url: str | None = None
    commit: str | None = None

    @property
    def token_sr(self) -> str:
        """What `blink.attach` and `token_sr=` take for these very modules."""
        return self.repo if self.commit is None else f"{self.repo}@{self.commit}"


def push_token_sr(
    token_sr: str | os.PathLike[str],
    repo: str,
    *,
    base_model: str | None = None,
    license: str | None = LICENSE,
    private: bool | None = None,
    revision: str | None = None,
    message: str | None = None,
    card: str | os.PathLike[str] | None = None,
    token: str | None = None,
    folder: str | os.PathLike[str] | None = None,
    dry_run: bool = False,
) -> Pushed:
    """Upload TokenSR modules to a model repository of the Hugging Face hub, with a model card.

    `blink.attach(model, policy, token_sr="name/repo")` then loads them. What is uploaded names no folder of this machine.

    Args:
        token_sr: folder of the modules, or the folder of the training run that made them, whose summary tells the card
            what they achieve.
        repo: id of the repository (owner/name); made if there is none. One that holds something else is refused.
        base_model: hub id of the backbone; None: the recorded one, where that is a hub id.
        license: of the modules, as the hub names licences; None names none.
        private: whether only its owner sees the repository; None: as it is, or the owner's default for a new one.
        revision: branch to commit to, made if there is none; None: main.
        message: of the commit.
        card: a README.md of your own, in place of the written one.
        token: of an account that may write there; None: that of `hf auth login` or of HF_TOKEN.
        folder: where to write what is uploaded, beside other files; None: a temporary folder.
        dry_run: write the folder, and ask the hub nothing.

    Raises:
        ValueError: an argument does not fit, weights are nan or infinite, there is no token, the hub refuses or cannot be
            reached.
    """
    repo = check_repo(repo)
    optional(check_revision, "revision", revision)
    for name, given in (("license", license), ("message", message), ("token", token)):
        optional(text, name, given, "")
    optional(flag, "private", private)
    target = optional(path, "folder", folder)
    own = optional(path, "card", card)
    if flag("dry_run", dry_run) and target is None:
        raise UserError("dry_run=True writes what would be uploaded: say where with folder=FOLDER")
    facts = read_facts(_path_of(token_sr), base_model)
    check_token_sr(facts.folder)
    if not dry_run and token is None and get_token() is None:
        raise UserError(
            "the hub has no token of an account that may write: run `hf auth login`, or set HF_TOKEN; dry_run=true does without"
        )
    for layer in facts.config.layers:  # one at a time, as they may be large
        check_finite(load_token_sr(facts.folder, layers=[layer]), f"token_sr={token_sr}")
    if facts.base_model is None and facts.backbone != SHIPPED:
        log.warning(
            "these modules were trained on %s, which is no hub id: name the backbone by base_model=owner/name, or nobody can load "
            "what they belong to",
            facts.config.backbone,
        )
    if facts.worse:
        log.warning(
            "worse than interpolation on held-out images at layer(s) %s, which the card says",
            ", ".join(map(str, facts.worse)),
        )
    if target is not None:
        return _released(facts, target, own, repo, license, private, revision, message, token, dry_run)
    with TemporaryDirectory(prefix="blink-push-") as temporary:
        pushed = _released(
            facts, Path(temporary), own, repo, license, private, revision, message, token, dry_run
        )
        return Pushed(pushed.repo, pushed.files, None, pushed.url, pushed.commit)


def check_repo(repo: object) -> str:
    """Return a repository's id.

    Raises:
        UserError: it is none.
    """
    given = text("repo", repo)
    if given.count("/") != 1:
        raise UserError(f"repo={given!r}: expected owner/name, as in me/blink-token-sr-llava-1.5-7b")
    try:
        validate_repo_id(given)
    except HFValidationError as error:
        raise UserError(f"repo={given!r}: {_first_line(error)}") from error
    return given


def check_revision(name: str, value: object) -> str:
    """Return the name of a branch.

    Raises:
        UserError: it is none.
    """
    given = text(name, value)
    if not _REVISION.fullmatch(given) or given.endswith(("/", ".lock", ".")):
        raise UserError(f"{name}={given!r}: expected the name of a branch, of letters, digits and . _ - /")
    return given


def _path_of(token_sr: str | os.PathLike[str]) -> str | Path:
    """The modules' folder, or what ships, as `find_token_sr` takes it."""
    return token_sr if token_sr == SHIPPED and isinstance(token_sr, str) else path("token_sr", token_sr)


def _released(
    facts: Facts,
    folder: Path,
    card: Path | None,
    repo: str,
    license: str | None,
    private: bool | None,
    revision: str | None,
    message: str | None,
    token: str | None,
    dry_run: bool,
) -> Pushed:
    """Write the folder, and upload it unless told otherwise."""
    files = tuple(write_release(facts, folder, repo=repo, license=license, card=card))
    if dry_run:
        return Pushed(repo, files, folder)
    layers = ", ".join(map(str, facts.config.layers))
    with _one_line(repo):
        api = HfApi(token=token, library_name="blink-mllm")
        _make_repository(api, repo, private)
        if revision is not None and revision != "main":
            api.create_branch(repo, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            revision=revision,
            commit_message=message or f"TokenSR modules of layers {layers} for {facts.backbone}",
            allow_patterns=list(files),
            delete_patterns=list(OURS),
        )
    return Pushed(repo, files, folder, commit.commit_url, commit.oid)


def _make_repository(api: HfApi, repo: str, private: bool | None) -> None:
    """Make the repository, or check the one that is there.

    Raises:
        UserError: it holds something else than modules, or is public and should not be.
    """
    there = _repository(api, repo)
    if there is None:
        api.create_repo(repo, private=private, exist_ok=True)
        return
    names = [file.rfilename for file in there.siblings or ()]
    if CONFIG in names and not any(fnmatch(name, "layer_*.safetensors") for name in names):
        raise UserError(
            f"repo={repo} is there already and holds something else than TokenSR modules ({CONFIG} without layer_*.safetensors); "
            "give another name"
        )
    if private is not None and private != there.private:
        raise UserError(
            f"private={str(private).lower()}: {repo} is there already and is {'private' if there.private else 'public'}; change "
            "that in its settings on the hub, or leave private out"
        )


def _repository(api: HfApi, repo: str) -> ModelInfo | None:
    try:
        return api.model_info(repo)
    except RepositoryNotFoundError:
        return None


@contextmanager
def _one_line(repo: str) -> Iterator[None]:
    """Context in which what the hub's client raises becomes a mistake that says what the hub has said.

    Raises:
        UserError: as the context does, and in place of the client's errors.
    """
    try:
        yield
    except UserError:
        raise
    except (HfHubHTTPError, HTTPError, OSError, ValueError, RuntimeError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None and not isinstance(cause, HfHubHTTPError):
            cause = cause.__cause__
        answered = isinstance(cause, HfHubHTTPError)
        said = " ".join(str(getattr(cause, "server_message", None) or _first_line(cause)).split())
        status = f" ({cause.response.status_code})" if isinstance(cause, HfHubHTTPError) else ""
        raise UserError(
            f"repo={repo}: the hub {'refuses' if answered else 'cannot be reached, or the upload broke off'}{status}: {said}; "
            f"{'check the name and what the token may do' if answered else 'the same command tries again'}"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
