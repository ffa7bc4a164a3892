"""Signals that end a command: where it ends, what it says, and its exit code. In processes of their own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from blink.runs.signals import Pending, Stopped, ending_on_signals, finishing_first

WAITS = """
import time
from blink.runs.signals import ending_on_signals
with ending_on_signals():
    print("ready", flush=True)
    time.sleep(60)
"""

FINISHES = """
import time
from blink.runs.signals import ending_on_signals, finishing_first
with ending_on_signals():
    with finishing_first() as pending:
        for done in range(600):
            pending.check(f"{done} pictures are done")
            print("ready", flush=True)
            time.sleep(0.1)
            print("whole", flush=True)
"""

LOADS = """
import time
from torch.utils.data import DataLoader
from blink.runs.signals import ending_on_signals, finishing_first, leave_to_parent, signals_blocked

class Numbers:
    def __len__(self):
        return 600

    def __getitem__(self, index):
        time.sleep(0.05)
        return index

with ending_on_signals(), finishing_first() as pending:
    loader = DataLoader(Numbers(), num_workers=2, worker_init_fn=leave_to_parent)
    with signals_blocked():
        batches = iter(loader)
    for done, _ in enumerate(batches):
        print("ready", flush=True)
        if pending.requested:
            for _ in range(4):  # the workers still work
                next(batches)
            pending.check(f"{done} batches")
"""


@contextmanager
def started(script: str) -> Iterator[subprocess.Popen[str]]:
    """A script in a process group of its own, once it says that it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("number", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129), ("SIGUSR1", 138)]
)
def test_a_command_ends_with_one_line(number: str, code: int) -> None:
    """Would catch a traceback of KeyboardInterrupt, and a scheduler that reads exit code 0 as done."""
    with started(WAITS) as process:
        process.send_signal(signal.Signals[number])
        _, said = process.communicate(timeout=20)
    assert process.returncode == code
    assert said == f"stopped by {number}; the same command goes on\n"


def test_work_ends_at_its_safe_point_and_says_how_far_it_came() -> None:
    """Would catch a picture that is lost half done, and `timeout`, which signals twice, taken for an impatient user."""
    with started(FINISHES) as process:
        process.send_signal(signal.SIGTERM)
        os.killpg(process.pid, signal.SIGTERM)
        out, said = process.communicate(timeout=20)
    assert process.returncode == 143
    assert out.count("whole") == out.count("ready") + 1  # the first "ready" was read before
    assert said == f"stopped by SIGTERM: {out.count('whole')} pictures are done; the same command goes on\n"


def test_a_second_request_ends_at_once() -> None:
    """Would catch a user who cannot get out of work that never reaches its next safe point."""
    with started(FINISHES.replace("0.1", "60")) as process:
        process.send_signal(signal.SIGINT)
        time.sleep(2.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert process.returncode == -signal.SIGINT


def test_an_ignored_signal_stays_ignored() -> None:
    """Would catch a run under `nohup`, or in the background of a script, that ends with its terminal."""
    script = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + WAITS.replace("60", "1")
    with started(script) as process:
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=20)
    assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_leave_signals_to_the_process_that_reads_them(number: int) -> None:
    """Would catch tracebacks of workers, or a loader that raises since a worker died, where all of a group are signalled."""
    with started(LOADS) as process:
        os.killpg(process.pid, number)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert said.count("\n") == 1
    assert said.startswith(f"stopped by {signal.Signals(number).name}: ")


def test_handlers_are_put_back(tmp_path: Path) -> None:
    """Would catch a test suite, or a program that calls a command, whose own Ctrl-C no longer works."""
    before = signal.getsignal(signal.SIGINT)

    def command() -> None:
        with ending_on_signals():
            assert signal.getsignal(signal.SIGINT) != before
            with finishing_first():
                os.kill(os.getpid(), signal.SIGTERM)
                (tmp_path / "saved").touch()

    with pytest.raises(Stopped) as stopped:
        command()
    assert (tmp_path / "saved").exists()
    assert stopped.value.code == 143
    assert signal.getsignal(signal.SIGINT) == before
    with finishing_first() as pending:
        assert not pending.requested
    Pending().check()  # outside of a command nothing asks to end
