"""Where metrics go beside the run folder: Weights & Biases, a CSV file, or nowhere.

The functions are the targets of `conf/logger`. None of them asks a question, and the default needs no network.
"""

import logging
import netrc
import os
from pathlib import Path
from urllib.parse import urlsplit

from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

log = logging.getLogger(__name__)

_PATIENCE_SECONDS = 10
"""How long to wait for W&B's server when the user has a key but did not ask to be online."""


def wandb_logger(folder: str, project: str = "blink", mode: str | None = None) -> Logger:
    """Log to W&B: online with a key, offline without, offline too if the server does not answer.

    Args:
        folder: run folder; W&B keeps its files in its `wandb/`.
        mode: "online", "offline" or "disabled"; None: the environment's WANDB_MODE if set, else as above.

    Raises:
        ValueError: wandb is not installed, or `mode="online"` was asked for and fails.
    """
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # it looks a server up even when offline
    try:
        import wandb
    except ImportError as error:
        raise ValueError("logger=wandb needs `pip install wandb`; logger=none does without") from error
    asked = mode or os.environ.get("WANDB_MODE")
    chosen = asked or ("online" if _has_key() else "offline")
    try:
        return _started(folder, project, chosen)
    except wandb.Error as error:
        if asked:
            raise ValueError(f"W&B does not start in mode {asked!r}: {error}") from error
        log.warning("W&B does not answer within %d s; logging offline", _PATIENCE_SECONDS)
        return _started(folder, project, "offline")


def csv_logger(folder: str) -> Logger:
    """Log to `metrics.csv` in the run folder; a continued run adds `version_1/metrics.csv` and so on."""
    return CSVLogger(folder, name="csv")


def no_logger(folder: str) -> None:
    """Log nowhere; `folder` is what every logger is given."""


def close(logger: Logger | None) -> None:
    """End a run's W&B session, so that the next run of this process begins its own."""
    if isinstance(logger, WandbLogger):
        logger.experiment.finish()


def _started(folder: str, project: str, mode: str) -> Logger:
    import wandb

    settings = wandb.Settings(silent=mode != "online", init_timeout=_PATIENCE_SECONDS)
    logger = WandbLogger(
        name=Path(folder).name, save_dir=folder, project=project, mode=mode, settings=settings
    )
    logger.experiment  # noqa: B018 (the first access starts W&B)
    log.info("W&B logs in mode %s, files in %s", mode, Path(folder) / "wandb")
    return logger


def _has_key() -> bool:
    """Whether a key is configured, in the environment or by `wandb login` in a netrc file.

    `wandb.login` would tell, too, but looks its server up even when asked not to verify.
    """
    import wandb

    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url).hostname or ""
    named = os.environ.get("NETRC")
    for path in [Path(named)] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            if netrc.netrc(path).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False
