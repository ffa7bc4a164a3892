"""Loggers that never prompt and never block: Weights & Biases, Trackio, TensorBoard, a CSV file, or none.

The functions are the targets of `conf/logger`, and all take the same arguments. Beside the keys of their config these are

- folder: of the run; each but Trackio keeps its files in it;
- kind: what the run is: "training", "evaluation" or "summary";
- group: which sweep it is a point of, or None.

`boards/marks` keeps the run's id in its folder, so that a killed run goes on where it was in the dashboard.
"""

import hashlib
import logging
import netrc
import os
import socket
import threading
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger

from blink.runs.boards.board import Board
from blink.runs.boards.marks import run_id
from blink.runs.boards.trackio_run import TrackioLogger, started
from blink.runs.machine import is_first_process
from blink.runs.values import UserError, text

log = logging.getLogger(__name__)

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


def trackio_logger(
    folder: str,
    kind: str = "training",
    group: str | None = None,
    *,
    project: str = "blink",
    pictures_every: int = 0,
    table_rows: int = 0,
    table_pixels: int = 0,
) -> Board:
    """Log to Trackio's store on this machine, one for all runs of a project: TRACKIO_DIR, or its own place.

    Trackio continues runs by their names: the name ends in the id that is kept in the folder.

    Args:
        pictures_every, table_rows, table_pixels: see `Board`.

    Raises:
        ValueError: trackio is not installed, a size is out of range, or Trackio takes no project of that name.
    """
    sizes: dict[str, Any] = {
        "pictures_every": pictures_every,
        "table_rows": table_rows,
        "table_pixels": table_pixels,
    }
    Board(None, **sizes)  # checks them before Trackio starts
    text("logger.project", project)
    if find_spec("trackio") is None:
        raise UserError("logger=trackio needs pip install 'blink-mllm[trackio]'; logger=csv does without")
    if not is_first_process():
        return Board(TrackioLogger(), **sizes)
    name = f"{_folder_name(Path(folder), kind)} {run_id(Path(folder), group)}"
    try:
        logger = started(
            _START_SECONDS, project=project, name=name, group=group, config={"kind": kind}, resume="allow"
        )
    except ValueError as error:
        raise UserError(f"logger.project={project!r}: {error}") from error
    except Exception as error:  # client libraries raise what they like
        log.warning(
            "Trackio does not start (%s: %s); the run goes on without it", type(error).__name__, error
        )
        return Board(TrackioLogger(), **sizes)
    log.info("Trackio logs to the run %r: `trackio show --project %s`", name, project)
    return Board(logger, **sizes)


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
            "logger=tensorboard needs pip install 'blink-mllm[tensorboard]'; logger=csv does without"
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
        name=_folder_name(folder, kind),
        group=group and _short(group),
        job_type=kind,
        dir=folder.resolve(),  # W&B's service may have been started elsewhere
        id=run_id(folder, group),
        resume="allow",
        mode=mode,
        settings=wandb.Settings(**settings),
    )


def _folder_name(folder: Path, kind: str) -> str:
    """What a run is called: as its folder."""
    return _short(f"{folder.name} summary" if kind == "summary" else folder.name)


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
