"""The loggers of conf/logger: none asks anything, none needs a network."""

from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger

from blink import tracking


def test_wandb_without_a_key_logs_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a prompt, an error or a connection attempt on a machine without an account."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    logger = tracking.wandb_logger(str(tmp_path))
    assert logger is not None
    logger.log_metrics({"loss": 1.0}, step=1)
    tracking.close(logger)
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_two_runs_of_one_process_get_their_own_session(tmp_path: Path) -> None:
    """Catches a multirun whose jobs all log into the first job's session."""
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        logger = tracking.wandb_logger(str(folder), mode="offline")
        logger.log_metrics({"loss": 1.0}, step=1)
        tracking.close(logger)
        assert list(folder.glob("wandb/offline-run-*/*.wandb"))


def test_csv_and_none(tmp_path: Path) -> None:
    """Catches metrics that a CSV logger keeps to itself, and logger=none that logs."""
    logger = tracking.csv_logger(str(tmp_path))
    assert isinstance(logger, CSVLogger)
    logger.log_metrics({"loss": 1.5}, step=3)
    logger.save()
    tracking.close(logger)
    assert "1.5" in (tmp_path / "csv" / "version_0" / "metrics.csv").read_text()
    tracking.no_logger(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["csv"]
