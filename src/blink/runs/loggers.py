"""Loggers that never prompt and never block: Weights & Biases, TensorBoard, a CSV file, or none.

The functions are the targets of `conf/logger`, and all take the same arguments. Beside the keys of their config these are

- folder: of the run; each keeps its files in it;
- kind: what the run is: "training", "evaluation" or "summary";
- group: which sweep it is a point of, or None.

One file in the folder holds the run's id in the dashboard and what was logged already, so that a killed run goes on
where it was in the dashboard, and a finished one is logged once.
"""

import hashlib
import logging
import netrc
import os
import secrets
import socket
import threading
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger

from blink.runs.board import Board
from blink.runs.files import read_json, write_json
from blink.runs.machine import is_first_process
from blink.runs.values import UserError, fits

log = logging.getLogger(__name__)

MARKS = "tracking.json"
"""Ids in dashboards, and what was logged already, in the folder of a run or sweep."""

_NAMES = {
    "wandb_logger": "wandb",
    "tensorboard_logger": "tensorboard",
    "csv_logger": "csv",
    "no_logger": "none",
}
"""Functions of this file -> files in `conf/logger`."""

_CONNECT_SECONDS = 3
_START_SECONDS = 10
_FINISH_SECONDS = 60
"""How long W&B's server may take to be reached, to answer, and to take what is left at the end. Where it takes longer,
the run goes on offline, and all that was logged stays on disk for `wandb sync`."""

_LONGEST = 120
"""Characters of a name or group; W&B takes 128."""

_KEEPS_DATA_IN_FOLDER = "WANDB_DATA_DIR" not in os.environ
"""By default W&B keeps the tables of offline runs in the user's home, where `wandb sync` on another machine does not find them."""


def wandb_logger(
    folder: str,
    kind: str = "training",
    group: str | None = None,
    *,
    project: str = "blink",
    mode: str | None = None,
    pictures_every: int = 0,
    table_rows: int = 0,
    table_pixels: int = 0,
) -> Board:
    """Log to W&B: online with a key, offline without, offline too if the server does not answer.

    The run's id is kept in the folder, so that a run that goes on is the same run there.

    Args:
        mode: "online", "offline" or "disabled"; None: the environment's WANDB_MODE if set, else as above.
        pictures_every, table_rows, table_pixels: see `Board`.

    Raises:
        ValueError: wandb is not installed, a size is out of range, or `mode="online"` was asked for and fails.
    """
    sizes: dict[str, Any] = {
        "pictures_every": pictures_every,
        "table_rows": table_rows,
        "table_pixels": table_pixels,
    }
    Board(None, **sizes)  # checks them before W&B starts
    os.environ.setdefault(
        "WANDB_ERROR_REPORTING", "false"
    )  # error reporting makes a DNS look-up even offline
    try:
        import wandb
    except ImportError as error:
        raise UserError("logger=wandb needs `pip install wandb`; logger=none does without") from error
    if not is_first_process():
        return Board(WandbLogger(save_dir=folder, project=project), **sizes)  # Lightning keeps it silent
    requested = mode or os.environ.get("WANDB_MODE")
    if requested == "online" and not _has_key():
        raise UserError(
            "W&B in mode online needs a key: WANDB_API_KEY, or `wandb login`; logger.mode=offline needs none"
        )
    chosen = requested or ("online" if _has_key() and _reachable(_server()) else "offline")
    try:
        run = _started(Path(folder), project, chosen, kind, group)
    except wandb.Error as error:
        if requested:
            raise UserError(f"W&B does not start in mode {requested!r}: {error}") from error
        log.warning("W&B does not answer within %d s; logging offline", _START_SECONDS)
        run = _started(Path(folder), project, "offline", kind, group)
    log.info("W&B logs in mode %s, files in %s", run.settings.mode, Path(folder) / "wandb")
    return Board(WandbLogger(save_dir=folder, project=project, experiment=run), **sizes)


def tensorboard_logger(
    folder: str, kind: str = "training", group: str | None = None, *, pictures_every: int = 0
) -> Board:
    """Log to TensorBoard, into the folder's `tensorboard/`.

    Args:
        pictures_every: see `Board`.

    Raises:
        ValueError: tensorboard is not installed.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise UserError(
            "logger=tensorboard needs `pip install tensorboard`; logger=csv does without"
        ) from error
    return Board(
        TensorBoardLogger(folder, name="tensorboard", version=group or ""), pictures_every=pictures_every
    )


def csv_logger(folder: str, kind: str = "training", group: str | None = None) -> Board:
    """Log to `metrics.csv` in the folder; a continued run adds `version_1/metrics.csv` and so on."""
    return Board(CSVLogger(folder, name="csv"))


def no_logger(folder: str, kind: str = "training", group: str | None = None) -> Board:
    """Log nowhere."""
    return Board()


def run_id(folder: Path, group: str | None) -> str:
    """Return the id of a folder's run in the dashboard; made at the first call.

    A run that is a point of two sweeps is in the dashboard twice, once in each group, under an id for each.
    """
    marks = _read_marks(folder)
    ids = marks.setdefault("ids", {})
    if (group or "") not in ids:
        ids[group or ""] = secrets.token_hex(4)
        write_json(folder / MARKS, marks)
    known: str = ids[group or ""]
    return known


def already_logged(folder: Path, logger: str, group: str | None, digest: str) -> bool:
    """Whether a finished run, or a sweep's summary, was logged already.

    Args:
        folder: of the run or sweep.
        logger: `_target_` of its config.
        group: the sweep that the run is a point of, or None.
        digest: hash of all that there is to log, so that other results are logged again.
    """
    return bool(_read_marks(folder).get("told", {}).get(f"{_name(logger)} {group or ''}") == digest)


def note_logged(folder: Path, logger: str, group: str | None, digest: str) -> None:
    """Note in the folder that `already_logged` is true of these arguments from now on."""
    marks = _read_marks(folder)
    marks.setdefault("told", {})[f"{_name(logger)} {group or ''}"] = digest
    write_json(folder / MARKS, marks)


def _read_marks(folder: Path) -> dict[str, Any]:
    """The content of the folder's `MARKS`, with loggers by their names in `conf/logger`."""
    file = folder / MARKS
    if not file.exists():
        return {}
    try:
        marks: dict[str, Any] = read_json(file)
        if not fits(marks, Mapping[str, Mapping[str, str]]):
            raise TypeError(marks)
    except (TypeError, ValueError):
        log.warning("%s is damaged: the run is a new one in the dashboard", file)
        return {}
    if "told" in marks:
        keys = {key: key.partition(" ") for key in marks["told"]}
        marks["told"] = {
            f"{_name(logger)} {group}": marks["told"][key] for key, (logger, _, group) in keys.items()
        }
    return marks


def _name(logger: str) -> str:
    """The name in `conf/logger` of a logger of this package, wherever its function lies or lay; others keep their path.

    Marks of earlier versions hold `blink.tracking.loggers.wandb_logger`.
    """
    package, _, function = logger.rpartition(".")
    return _NAMES.get(function, logger) if package.partition(".")[0] == "blink" else logger


def _started(folder: Path, project: str, mode: Any, kind: str, group: str | None) -> Any:
    """Begin or continue a run of W&B."""
    import wandb

    settings: dict[str, Any] = {"silent": mode != "online", "init_timeout": _START_SECONDS}
    if _KEEPS_DATA_IN_FOLDER:
        os.environ["WANDB_DATA_DIR"] = str((folder / "wandb").resolve())
    if "finish_timeout" in wandb.Settings.model_fields:
        settings["finish_timeout"] = _FINISH_SECONDS
    return wandb.init(
        project=project,
        name=_short(f"{folder.name} summary" if kind == "summary" else folder.name),
        group=group and _short(group),
        job_type=kind,
        dir=folder.resolve(),  # W&B's service may have been started elsewhere
        id=run_id(folder, group),
        resume="allow",
        mode=mode,
        settings=wandb.Settings(**settings),
    )


def _short(name: str) -> str:
    """A name that W&B takes; one that is too long ends in a hash."""
    if len(name) <= _LONGEST:
        return name
    return f"{name[: _LONGEST - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _server() -> str:
    """The address of W&B's server."""
    import wandb

    return os.environ.get("WANDB_BASE_URL") or str(wandb.Settings().base_url)


@lru_cache(maxsize=4)
def _reachable(server: str) -> bool:
    """Whether a server, or the proxy before it, accepts a connection within a few seconds; tried once per process.

    W&B's own attempt takes up to half a minute where there is no network. A DNS look-up has no time limit of its
    own, so it runs in a thread.
    """
    proxy = getproxies().get(urlsplit(server).scheme)
    address = urlsplit(proxy if proxy and "//" in proxy else server)
    connected = threading.Event()

    def connect() -> None:
        try:
            port = address.port or (80 if address.scheme == "http" else 443)
            socket.create_connection((address.hostname or "", port), timeout=_CONNECT_SECONDS).close()
            connected.set()
        except OSError:
            pass

    attempt = threading.Thread(target=connect, daemon=True)
    attempt.start()
    attempt.join(_CONNECT_SECONDS)
    if not connected.is_set():
        log.warning("W&B's server %s is not reached within %d s; logging offline", server, _CONNECT_SECONDS)
    return connected.is_set()


def _has_key() -> bool:
    """Whether a key is configured, in the environment or by `wandb login` in a netrc file.

    `wandb.login` would find it, too, but contacts the server even with `verify=False`.
    """
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(_server()).hostname or ""
    named = os.environ.get("NETRC")
    for path in [Path(named)] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            if netrc.netrc(path).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False
