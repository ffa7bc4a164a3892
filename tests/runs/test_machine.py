"""What a machine computes fast, the default that follows from it, and what one job of a multirun leaves for the next."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir

from blink.runs import machine
from blink.runs.overrides import CONF_DIR


@pytest.mark.parametrize(("units", "dtype"), [({"avx2": True}, "float32"), ({"amx_bf16": True}, "bfloat16")])
def test_a_cpu_that_emulates_bfloat16_computes_in_float32(
    units: dict[str, bool], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a backbone of full size that runs many times slower than it could, and an override that loses."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)
    assert machine.default_dtype() == dtype
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        chosen: Any = compose("train", overrides=["layer=1", "model=llava15_7b"])
        overridden = compose("train", overrides=["layer=1", "model=llava15_7b", "model.dtype=float16"])
    assert chosen.model.dtype == dtype
    assert overridden.model.dtype == "float16"


def test_a_job_shows_its_own_command_and_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches children that run the whole sweep, and a next job that takes itself for a child of the last."""
    monkeypatch.setattr(sys, "argv", ["train.py", "layer=1,2", "--multirun"])
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv("NODE_RANK", "0")
    with machine.one_job(["layer=2"]):
        assert sys.argv == ["train.py", "layer=2"]
        os.environ["LOCAL_RANK"] = "0"
        del os.environ["NODE_RANK"]
    assert sys.argv == ["train.py", "layer=1,2", "--multirun"]
    assert "LOCAL_RANK" not in os.environ
    assert os.environ["NODE_RANK"] == "0"


def test_a_failed_job_leaves_no_trace_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a sweep whose jobs after a failed one run under its arguments."""
    monkeypatch.setattr(sys, "argv", ["train.py", "layer=1,2", "--multirun"])
    with pytest.raises(RuntimeError), machine.one_job(["layer=2"]):
        raise RuntimeError("failed")
    assert sys.argv == ["train.py", "layer=1,2", "--multirun"]


def test_memory_is_that_of_the_container(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a limit of a container that is not seen, and "max" taken for one."""
    whole = machine.memory_bytes()
    assert 2**28 < whole < 2**50
    limits = {"/sys/fs/cgroup/memory.max": "max", "/sys/fs/cgroup/memory/memory.limit_in_bytes": "1000000"}
    monkeypatch.setattr(Path, "read_text", lambda self, **_: limits[str(self)])
    assert machine.memory_bytes() == 1_000_000
