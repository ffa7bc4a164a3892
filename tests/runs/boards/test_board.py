"""What a board tells W&B, and what it does with a logger that fails."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from blink.runs.boards.board import Axis, Board, Chart
from blink.runs.loggers import wandb_logger
from tests.told_runs import ToldRun


@pytest.mark.slow
def test_everything_is_told(tmp_path: Path, told_runs: list[ToldRun]) -> None:
    """Would catch numbers without their axis, nan drawn as a value, empty tables, and charts without their points."""
    board = wandb_logger(str(tmp_path), mode="offline", table_rows=4, table_pixels=8)
    red = Image.new("RGB", (8, 4), "red")
    board.settings({"layer": [2, 3], "optimizer": {"rate": 0.5}})
    board.axis("layer", "events")
    board.best("train/loss", "min", "step")
    for layer, share in ((2, 10.0), (3, 20.0)):
        board.numbers(
            {"events/expand": share, "events/drop": float("nan"), "events/keep": None}, Axis("layer", layer)
        )
    for step, loss in enumerate((3.0, 1.0, 2.0)):
        board.numbers({"train/loss": loss}, Axis("step", step))
    board.numbers({"scores/f1": None})
    board.pictures({"features/layer_2": red}, Axis("step", 7), caption="red")
    board.histogram("ratios/all", [0.1, 0.3, 0.3, 7.0], [0.0, 0.25, 0.5])
    board.table("predictions/table", ["id", "picture", "tokens"], [["a", red, 2], ["b", red, None]])
    board.chart(
        "sweep/pope", Chart("f1", "tau_exp", {"blink": [(0.4, 90.0), (0.5, 91.0)], "interp": [(0.4, 89.0)]})
    )
    board.summary({"best/pope": 91.0})
    board.close()

    [run] = told_runs
    assert run.ended
    assert run.config["layer"] == [2, 3]
    assert run.config["optimizer"] == {"rate": 0.5}
    assert {"layer": None, "events/*": "layer", "train/loss": "step"}.items() <= run.axes.items()
    assert run.history[:2] == [{"layer": 2, "events/expand": 10}, {"layer": 3, "events/expand": 20}]
    assert run.best == {"train/loss": "min"}
    assert not run.column("scores/f1")
    [shown] = run.column("features/layer_2")
    assert shown.image.size == (8, 4)
    [histogram] = run.column("ratios/all")
    assert list(histogram.histogram) == [1, 2]
    table = run.table("predictions/table")
    assert table.columns == ["id", "picture", "tokens"]
    assert [(row[0], row[1].image.size, row[2]) for row in table.data] == [
        ("a", (8, 4), 2),
        ("b", (8, 4), None),
    ]
    kept = [path for path in tmp_path.glob("wandb/**/*") if path.suffix == ".png" or ".table." in path.name]
    assert len(kept) >= 3  # a folder that is copied takes pictures and tables along
    points = run.table("sweep/pope").data
    assert sorted(points) == [[0.4, "blink", 90], [0.4, "interp", 89], [0.5, "blink", 91]]
    assert run.summary["best/pope"] == 91


class Failing(CSVLogger):
    """A logger whose server is gone: it takes one row, and nothing after that."""

    rows = 0

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        self.rows += 1
        if self.rows > 1:
            raise RuntimeError("the server\nis gone")

    def save(self) -> None:
        raise RuntimeError("the server is gone")


def test_a_logger_that_fails_is_warned_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Would catch a run that a dashboard ends, one that goes on without a word, and a warning for every value."""
    with Board(Failing(str(tmp_path))) as board:
        board.numbers({"a": 1.0})
        assert board.logger is not None
        for _ in range(3):
            board.numbers({"a": 1.0})
        with board.spared():
            board.settings({"a": 1})
    assert board.logger is None
    assert [record.getMessage() for record in caplog.records] == [
        "the dashboard fails (RuntimeError: the server is gone); the run goes on without it"
    ]


def test_what_makes_values_for_a_logger_may_fail(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Would catch a picture for a table that ends a run, a signal that is taken for a failure, and bugs hidden from those who look."""
    with Board(CSVLogger(str(tmp_path))) as board:
        with pytest.raises(SystemExit), board.spared():
            raise SystemExit(143)
        with board.spared():
            raise OSError("the picture is gone")
    assert board.logger is None
    assert "OSError: the picture is gone" in caplog.text
    with pytest.raises(KeyError), Board().spared():
        raise KeyError
