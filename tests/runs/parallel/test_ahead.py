"""Items made ready by worker processes."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch.utils.data import Dataset

from blink.runs.command import one_line_errors
from blink.runs.parallel.ahead import AHEAD, Ahead, ProcessError, ShieldedLoader, default_workers
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


class Batches(Dataset[Any]):
    """Nested tensors, some of them on one storage, and what is none; and which process has made them."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, number: int) -> Any:
        whole = torch.full((2, 50_000), number)
        return Batch({"whole": whole, "rows": [whole[0], whole[1]]}, f"number {number}", os.getpid())


class Batch(NamedTuple):
    """Of `Batches`."""

    tensors: dict[str, Any]
    name: str
    pid: int


@pytest.mark.parametrize("room", [None, 1000, 500_000])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_however_they_come(
    workers: int, room: int | None, file_size_limit: Callable[[int], None]
) -> None:
    """Catches training that dies, or waits for ever, where shared memory is full or becomes so; and tensors that change."""
    if room is not None:
        file_size_limit(room)
    loader = ShieldedLoader(Batches(), batch_size=None, collate_fn=_same, num_workers=workers)
    for _ in range(2):
        found = list(loader)
        assert [batch.name for batch in found] == [f"number {number}" for number in range(6)]
        assert ({batch.pid for batch in found} == {os.getpid()}) == (workers == 0)
        for number, batch in enumerate(found):
            assert torch.equal(batch.tensors["whole"], torch.full((2, 50_000), number))
            assert [int(row[-1]) for row in batch.tensors["rows"]] == [number, number]
            assert batch.tensors["whole"].is_shared() == (workers > 0 and room is None)


def _same(batch: Any) -> Any:
    return batch


def test_no_room_for_a_queue_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a traceback of multiprocessing's where shared memory has no room even for its locks."""

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", full)
    with pytest.raises(SystemExit) as ended, one_line_errors():
        list(ShieldedLoader(Batches(), batch_size=None, num_workers=1))
    assert ended.value.code == 1
    assert "/dev/shm" in capsys.readouterr().err


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


@pytest.mark.slow
def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    """Catches workers that wait for ever to send what nobody will take: each item fills the pipe."""
    program = """
import os, pathlib, sys, time
from blink.runs.parallel.ahead import Ahead

def make(item):
    pathlib.Path(sys.argv[1], str(os.getpid())).touch()
    return bytes(1_000_000)

ahead = iter(Ahead(range(100), make, workers=2))
next(ahead)
print("begun", flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "begun\n"
    time.sleep(0.5)
    workers = [int(path.name) for path in tmp_path.iterdir()]
    assert len(workers) == 2
    parent.kill()
    parent.communicate()
    until = time.monotonic() + 30
    while (left := [pid for pid in workers if Path(f"/proc/{pid}").exists()]) and time.monotonic() < until:
        time.sleep(0.1)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left
