"""Items made ready by worker processes."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from blink.runs.parallel.ahead import AHEAD, Ahead, ProcessError, default_workers
from blink.runs.values import UserError


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_items_come_in_order(workers: int) -> None:
    """Catches items that overtake each other, are lost, or are made where they should not be."""
    ahead = Ahead(range(20), lambda item: (item * item, os.getpid()), workers=workers)
    made = list(ahead)
    assert [square for square, _ in made] == [item * item for item in range(20)]
    assert ({pid for _, pid in made} == {os.getpid()}) == (workers == 0)
    assert ahead.waited > 0
    assert list(Ahead([], str, workers=workers)) == []


def test_only_some_are_made_ahead(tmp_path: Path) -> None:
    """Catches workers that read a whole data set into memory, and such as wait until they are asked."""

    def make(item: int) -> int:
        (tmp_path / str(item)).touch()
        return item

    def made() -> int:
        return len(list(tmp_path.iterdir()))

    ahead = Ahead(range(1000), make, workers=2)
    until = time.monotonic() + 20
    while made() < 2 * AHEAD and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.1)
    assert made() == 2 * AHEAD
    assert next(iter(ahead)) == 0


def test_tensors_need_no_shared_memory(file_size_limit: Callable[[int], None]) -> None:
    """Catches a consumer that waits for ever where shared memory, which is made of files, is full."""
    file_size_limit(1000)
    made = list(Ahead(range(3), lambda item: torch.full((100_000,), item), workers=1))
    assert [int(tensor[-1]) for tensor in made] == [0, 1, 2]


def test_a_process_without_a_core_to_spare_reads_for_itself() -> None:
    """Catches a negative number where there are more processes than cores."""
    assert 0 <= default_workers() <= 4
    assert default_workers(10**6) == 0


def refuse(item: int) -> int:
    if item == 3:
        raise UserError("cannot read the picture 3: it is cut off")
    return item


@pytest.mark.parametrize("workers", [0, 2])
def test_a_mistake_comes_at_its_item(workers: int) -> None:
    """Catches an error that comes before the items in front of it, and torch's traceback in its message."""
    items = iter(Ahead(range(9), refuse, workers=workers))
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(UserError, match=r"^cannot read the picture 3: it is cut off$"):
        next(items)


def test_a_worker_that_is_killed_is_one_line() -> None:
    """Catches a consumer that waits for ever, and a traceback of torch's."""
    items = iter(Ahead(range(99), _pid_or_die, workers=1))
    with pytest.raises(ProcessError, match="a process that reads pictures ahead has ended"):
        list(items)


def _pid_or_die(item: int) -> int:
    if item == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def test_signals_are_left_to_the_parent() -> None:
    """Catches workers that Ctrl-C ends, which reaches all processes of a terminal's group."""
    items = iter(Ahead(range(50), _slow_pid, workers=1))
    pid = next(items)
    subprocess.run(["kill", "-INT", str(pid)], check=True)
    assert set(items) == {pid}


def _slow_pid(_: int) -> int:
    time.sleep(0.002)
    return os.getpid()
