"""What a machine computes fast, the default that follows from it, and what one job of a multirun leaves for the next; processes by name."""

import os
import platform
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir

from blink.runs import machine
from blink.runs.config.groups import CONF_DIR
from blink.runs.machine import Holder, has_ended, keep_freed_memory, this_process

PRINTS = "from blink.runs.machine import this_process; print(repr(this_process()), flush=True); import time; time.sleep(60)"


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


def test_a_process_is_told_from_one_that_has_ended_or_has_its_number() -> None:
    """Would catch a killed process that counts as running until its parent asks about it, and another one with its number."""
    with subprocess.Popen([sys.executable, "-c", PRINTS], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        other: Holder = eval(process.stdout.readline(), {"Holder": Holder})
        assert other.pid == process.pid
        assert has_ended(other) is False
        assert has_ended(replace(other, started=f"{other.started}0")) is True
        assert has_ended(replace(other, started="")) is False
        assert has_ended(replace(other, host="elsewhere")) is None
        assert has_ended(replace(other, machine="a container")) is None
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and a zombie still
        assert has_ended(other) is True
    assert has_ended(other) is True
    assert has_ended(Holder("token")) is None


def test_a_process_says_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a name that does not lead to the process, or one that takes several lines."""
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "blink.eval", "question=a\nb", "x" * 500])
    name = str(this_process())
    assert f"process {os.getpid()} on " in name
    assert "(python -m blink.eval 'question=a b'" in name
    assert len(name) < 400
    assert "\n" not in name
    assert this_process().token != this_process().token


def faults_of_a_second_round(keep: bool) -> int:
    """Pages that a new process gets again for blocks of memory like those it had just freed."""
    script = f"""
import resource
from blink.runs.machine import keep_freed_memory
{"assert keep_freed_memory()" if keep else ""}
def work():
    blocks = [bytearray(6 << 20) for _ in range(16)]
    del blocks
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD"))
    }
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, check=True, capture_output=True, text=True, timeout=60
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_kept() -> None:
    """Would catch a setting that the C library does not take, or does not act by: 96 MiB are 24,576 pages."""
    assert faults_of_a_second_round(keep=True) < 1000 < faults_of_a_second_round(keep=False)


def test_the_users_own_settings_of_memory_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a command that overrides what somebody has set with care."""
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000000")
    assert not keep_freed_memory()
