"""Locks of run folders, mostly between processes: who gets one, who is told what, and what is left of a process that was killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from blink.runs import lock as locks
from blink.runs.lock import lock, lock_file, lock_scope
from blink.runs.machine import this_process
from tests.processes import holding, inherited

TAKES = """
import sys, time
from pathlib import Path
from blink.runs.lock import lock, lock_scope
target, mark = Path(sys.argv[1]), Path(sys.argv[2])
for _ in range(5):
    with lock_scope():
        lock(target, wait=True)
        mark.open("x").close()  # fails if another process is here, too
        mark.unlink()
"""

ONCE = """
import os, sys
from pathlib import Path
from blink.runs.lock import lock
try:
    lock(Path(sys.argv[1]))
except ValueError:
    sys.exit(2)
print("mine", flush=True)
sys.stdin.read()
os._exit(0)  # as a kill leaves it
"""


def started(script: str, *arguments: object) -> subprocess.Popen[str]:
    """A script in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **inherited()},
    )


def edited(target: Path, seconds_ago: float = 0, **changes: Any) -> None:
    """Give the lock file of a path another content or time; without a lock there, that of this process."""
    path = lock_file(target)
    holder = json.loads(path.read_text()) if path.exists() else vars(this_process())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**holder, **changes}))
    then = time.time() - seconds_ago
    os.utime(path, (then, then))


def nothing_beside(target: Path) -> bool:
    """Whether no lock file, and nothing that taking one leaves, lies beside a path."""
    return not [path.name for path in target.parent.iterdir() if path.name.startswith(".")]


def test_a_second_process_is_told_who_has_the_folder(tmp_path: Path) -> None:
    """Would catch two commands that write into one folder, and a message that does not say whom to look for."""
    target = tmp_path / "run"
    with holding(target) as process:
        with pytest.raises(
            ValueError, match=f"run is in use by process {process.pid} on .* since 20.* -c "
        ) as raised:
            lock(target)
        assert "\n" not in str(raised.value)
        assert "wait=true" in str(raised.value)
        with lock_scope():
            lock(tmp_path / "other")
    assert process.returncode == -signal.SIGKILL


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    """Would catch a folder that stays locked after a kill -9, also while the parent has not asked about the dead child."""
    target = tmp_path / "run"
    with holding(target) as process:
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and a zombie still
        assert lock_file(target).exists()
        with lock_scope():
            lock(target)
            assert json.loads(lock_file(target).read_text())["pid"] == os.getpid()
        assert nothing_beside(target)


def test_released_at_the_end_of_the_scope_of_the_process_and_on_signals(tmp_path: Path) -> None:
    """Would catch lock files that pile up beside finished runs, and folders made for a lock alone."""
    target = tmp_path / "outputs" / "eval" / "run"
    with lock_scope():
        lock(target)
        with lock_scope():
            lock(target)
        assert lock_file(target).exists()
    assert not (tmp_path / "outputs").exists()
    ends = "from pathlib import Path; import sys; from blink.runs.lock import lock; lock(Path(sys.argv[1]))"
    stops = f"from blink.runs.signals import ending_on_signals\nwith ending_on_signals():\n    {ends}; print('ready', flush=True)"
    stops += "; import time; time.sleep(60)"
    for script in (ends, f"{ends}; raise KeyError", stops):
        with started(script, target) as process:
            if script is stops:
                assert process.stdout is not None
                process.stdout.readline()
                process.send_signal(signal.SIGTERM)
            process.wait(60)
        assert process.returncode == {stops: 143, ends: 0}.get(script, 1)
        assert not (tmp_path / "outputs").exists()


def test_waits_until_the_other_process_is_done(tmp_path: Path) -> None:
    """Would catch wait=true that gives up, or that goes on while the other process still works."""
    target, mark = tmp_path / "run", tmp_path / "mark"
    processes = [started(TAKES, target, mark) for _ in range(3)]
    for process in processes:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    assert nothing_beside(target)


def test_of_many_processes_one_takes_over(tmp_path: Path) -> None:
    """Would catch two processes that both find a dead one's lock and both replace it, and files that this leaves."""
    target = tmp_path / "run"
    for _ in range(3):  # from the second time on the lock is that of a process that is gone
        processes = [started(ONCE, target) for _ in range(6)]
        got = 0
        for process in processes:
            assert process.stdout is not None
            got += process.stdout.readline() == "mine\n"
        assert got == 1
        for process in processes:
            process.communicate(timeout=60)
    assert lock_file(target).exists()
    with lock_scope():
        lock(target)
    assert nothing_beside(target)


@pytest.mark.parametrize(
    ("changes", "seconds_ago", "gone"),
    [
        ({"host": "another"}, 290, False),
        ({"host": "another"}, 310, True),
        ({"machine": "another start, or a container"}, 290, False),
        ({"machine": "another start, or a container"}, 310, True),
        ({"pid": 1}, 310, True),  # alive, but started at another time than the holder
        ({"pid": 2**22 + 1}, 0, True),  # no such process
        ({"pid": os.getppid(), "started": ""}, 1000, False),  # alive
        ({}, 0, True),  # this very process, which has no such lock: of a program that it ran before
    ],
)
def test_who_is_gone(changes: dict[str, Any], seconds_ago: float, gone: bool, tmp_path: Path) -> None:
    """Would catch a lock taken from a living process, and one that a dead process keeps for ever."""
    target = tmp_path / "run"
    edited(target, seconds_ago, **changes)
    with lock_scope():
        if gone:
            lock(target)
        else:
            with pytest.raises(ValueError, match="is in use by"):
                lock(target)
    assert nothing_beside(target) == gone


@pytest.mark.parametrize("content", [b"", b"\x00" * 300, b"{}", b"[1]", b'{"token": 1, "pid": "x"}'])
def test_a_damaged_lock_is_taken_over(content: bytes, tmp_path: Path) -> None:
    """Would catch a folder that stays locked by a file that a power failure emptied, and a lock just being written that is no lock."""
    target = tmp_path / "run"
    lock_file(target).write_bytes(content)
    with pytest.raises(ValueError, match="has not said yet"):
        lock(target)
    os.utime(lock_file(target), (0, 0))
    with lock_scope():
        lock(target)
    assert nothing_beside(target)


def test_what_a_kill_leaves_in_the_middle_of_taking_a_lock(tmp_path: Path) -> None:
    """Would catch files that stay, and a lock that nobody can take over since who was about to was killed."""
    target = tmp_path / "run"
    edited(target, pid=2**22 + 1, token="dead")
    content = lock_file(target).read_text()
    for ending in ("dead.taken", "a-draft", "dead.taken.a-draft"):
        lock_file(target).with_name(f"{lock_file(target).name}.{ending}").write_text(content)
    with lock_scope():
        lock(target)
    assert nothing_beside(target)


def test_halves_of_files_that_a_killed_process_left_go_with_its_lock(tmp_path: Path) -> None:
    """Would catch halves that stay in a multirun's folder or beside a file of scores, and the removal of other files."""
    folder, file = tmp_path / "sweep[1]", tmp_path / "rows[1].scores.json"
    folder.mkdir()
    others = [
        folder / "sweep.csv",
        tmp_path / "rows1.scores.json.12.partial",
        tmp_path / "other.json.12.partial",
    ]
    halves = [folder / "sweep.csv.12.partial", tmp_path / "rows[1].scores.json.12.partial"]
    for path in (*others, *halves):
        path.touch()
    with lock_scope():
        lock(folder)
        lock(file)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(others)


def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a command that cannot be run on a file system without hard links."""

    def refuse(*_: Sequence[Any]) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    target = tmp_path / "run"
    edited(target, pid=2**22 + 1)
    with lock_scope():
        lock(target)
        assert json.loads(lock_file(target).read_text())["pid"] == os.getpid()
    assert nothing_beside(target)


def test_a_process_shows_that_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a run of many hours whose lock another machine takes over; and one that goes on when that happened."""
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(locks, "_heart", locks._Heart())
    told: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    try:
        with lock_scope():
            target = tmp_path / "run"
            lock(target)
            os.utime(lock_file(target), (0, 0))
            lock_file(tmp_path / "run").stat()
            deadline = time.monotonic() + 20
            while lock_file(target).stat().st_mtime == 0 and time.monotonic() < deadline:
                time.sleep(0.02)
            assert time.time() - lock_file(target).stat().st_mtime < 60
            assert not told
            edited(target, token="another", host="another")
            while not told and time.monotonic() < deadline:
                time.sleep(0.02)
            assert told == [signal.SIGTERM]
        assert (
            json.loads(lock_file(target).read_text())["token"] == "another"
        )  # and is not released by this one
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_forked_process_releases_nothing(tmp_path: Path) -> None:
    """Would catch a worker process that unlocks the folder of its parent when it ends."""
    with lock_scope():
        target = tmp_path / "run"
        lock(target)
        child = os.fork()
        if not child:
            locks._release_all()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert lock_file(target).exists()


def test_a_path_has_one_lock_however_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch two commands in one folder, of which one names it from elsewhere or through a link."""
    (tmp_path / "outputs").mkdir()
    (tmp_path / "link").symlink_to("outputs")
    monkeypatch.chdir(tmp_path)
    with holding(tmp_path / "outputs" / "run"):
        for name in ("outputs/run", "link/run", "outputs/../link/run"):
            with pytest.raises(ValueError, match="is in use by"):
                lock(Path(name))


def test_a_folder_where_nothing_may_be_written_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a mounted folder, whose parent belongs to someone else, that cannot be written into for want of a lock."""
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    (tmp_path / "run").mkdir()
    with lock_scope():
        lock(tmp_path / "run")
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
        assert nothing_beside(tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


def test_long_names(tmp_path: Path) -> None:
    """Would catch a folder whose lock has too long a name."""
    with lock_scope():
        lock(tmp_path / ("n" * 250))
        assert len(list(tmp_path.iterdir())) == 1
    assert not list(tmp_path.iterdir())
