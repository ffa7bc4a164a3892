"""The loggers of conf/logger: none asks anything, none needs a network, and a run that goes on is the same run."""

import importlib.util
import sys
from pathlib import Path

import pytest

from blink.runs.boards.board import Board
from blink.runs.loggers import csv_logger, no_logger, tensorboard_logger, wandb_logger
from tests.told_runs import ToldRun


@pytest.fixture
def no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which nobody has logged in to W&B, or said that it is offline."""
    for variable in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.usefixtures("no_account")
def test_a_run_that_goes_on_keeps_its_id_and_another_has_its_own(
    tmp_path: Path, told_runs: list[ToldRun]
) -> None:
    """Would catch a prompt or an error without an account, a resumed run that begins anew, and jobs that share a run.

    The second session is in the same folder, the third is that folder as a point of a sweep, the fourth another folder.
    """
    other = tmp_path / "other"
    other.mkdir()
    for number, (folder, group) in enumerate(
        [(tmp_path, None), (tmp_path, None), (tmp_path, "sweep"), (other, None)]
    ):
        board = wandb_logger(str(folder), "evaluation", group)
        board.numbers({"scores/f1": float(number)})
        board.close()
    assert [run.history for run in told_runs] == [[{"scores/f1": float(number)}] for number in range(4)]
    first, again, in_sweep, of_other = (run.identity for run in told_runs)
    assert first["id"] == again["id"]
    assert len({first["id"], in_sweep["id"], of_other["id"]}) == 3
    assert (first["group"], in_sweep["group"]) == ("", "sweep")
    assert (of_other["name"], of_other["job_type"], of_other["project"]) == ("other", "evaluation", "blink")
    assert all(run.ended for run in told_runs)
    assert len(list(tmp_path.glob("**/offline-run-*"))) == 4


@pytest.mark.usefixtures("no_account")
def test_online_without_a_key_is_one_line(tmp_path: Path) -> None:
    """Would catch W&B asking on the terminal for an account."""
    with pytest.raises(ValueError, match=r"mode online needs a key: WANDB_API_KEY, or `wandb login`"):
        wandb_logger(str(tmp_path), mode="online")


@pytest.mark.usefixtures("no_account")
def test_a_server_out_of_reach_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Would catch a key on a machine without network that stops the run, or holds it up at the start of every job."""
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    for variable in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    for _ in range(2):
        board = wandb_logger(str(tmp_path))
        board.numbers({"scores/f1": 1.0})
        board.close()
    assert caplog.text.count("http://127.0.0.1:9 is not reached") == 1
    assert {path.name.startswith("offline-run-") for path in (tmp_path / "wandb").glob("*run-*")} == {True}


def test_sizes_out_of_range_are_refused_before_anything_starts(tmp_path: Path) -> None:
    """Would catch a table of -1 rows that is cut somewhere deep, or a W&B run left behind by a mistake."""
    with pytest.raises(ValueError, match=r"logger.table_rows=-1: expected a whole number of at least 0"):
        wandb_logger(str(tmp_path), table_rows=-1)
    with pytest.raises(ValueError, match=r"logger.table_pixels=0 with logger.table_rows=4"):
        wandb_logger(str(tmp_path), table_rows=4)
    assert list(tmp_path.iterdir()) == []


def test_csv_and_none(tmp_path: Path) -> None:
    """Would catch metrics that a CSV logger keeps to itself, and logger=none that logs."""
    for board in (csv_logger(str(tmp_path)), no_logger(str(tmp_path))):
        tell(board)
    assert [path.name for path in tmp_path.iterdir()] == ["csv"]
    head, *rows = (tmp_path / "csv" / "version_0" / "metrics.csv").read_text(encoding="utf-8").splitlines()
    assert dict(zip(head.split(","), rows[0].split(","), strict=True)) == {
        "layer": "3",
        "events/expand": "1.5",
        "step": "3",
    }


def tell(board: Board) -> None:
    """One number at layer 3, and what only some loggers show."""
    from blink.runs.boards.board import Axis

    board.axis("layer", "events")
    board.numbers({"events/expand": 1.5, "events/drop": float("nan"), "events/keep": None}, Axis("layer", 3))
    board.histogram("ratios/all", [0.2, 0.3], [0.0, 0.25, 1.0])
    board.close()


def test_tensorboard_is_optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a traceback of Lightning's where the package is not installed."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"logger=tensorboard needs pip install 'blink-mllm\[tensorboard\]'"):
        tensorboard_logger(str(tmp_path))


@pytest.mark.skipif(not importlib.util.find_spec("tensorboard"), reason="tensorboard is not installed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # tensorboard's own
def test_tensorboard_shows_numbers_and_histograms(tmp_path: Path) -> None:
    """Would catch a place on the layer axis that is lost, and histograms that only W&B gets."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tell(tensorboard_logger(str(tmp_path)))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("events/expand")] == [(3, 1.5)]
    assert events.Tags()["histograms"] == ["ratios/all"]
