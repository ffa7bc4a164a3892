"""Names of processes: one that runs, one that has ended, and those of which nothing can be said."""

import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from blink.runs.process import Holder, has_ended, this_process

PRINTS = "from blink.runs.process import this_process; print(repr(this_process()), flush=True); import time; time.sleep(60)"


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
