"""What one job of a multirun leaves for the next."""

import os
import sys

import pytest

from blink.runs.processes import one_job


def test_a_job_shows_its_own_command_and_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches children that run the whole sweep, and a next job that takes itself for a child of the last."""
    monkeypatch.setattr(sys, "argv", ["train.py", "layer=1,2", "--multirun"])
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv("NODE_RANK", "0")
    with one_job(["layer=2"]):
        assert sys.argv == ["train.py", "layer=2"]
        os.environ["LOCAL_RANK"] = "0"
        del os.environ["NODE_RANK"]
    assert sys.argv == ["train.py", "layer=1,2", "--multirun"]
    assert "LOCAL_RANK" not in os.environ
    assert os.environ["NODE_RANK"] == "0"


def test_a_failed_job_leaves_no_trace_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a sweep whose jobs after a failed one run under its arguments."""
    monkeypatch.setattr(sys, "argv", ["train.py", "layer=1,2", "--multirun"])
    with pytest.raises(RuntimeError), one_job(["layer=2"]):
        raise RuntimeError("failed")
    assert sys.argv == ["train.py", "layer=1,2", "--multirun"]
