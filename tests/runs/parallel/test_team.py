"""The first of several processes, and the others that it starts."""

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from torch import distributed

from blink.runs.parallel.ahead import ProcessError
from blink.runs.parallel.team import Post, Team, end_teams, team
from blink.runs.values import UserError
from tests.processes import python

MODULE = "tests.runs.parallel.serving"


@pytest.fixture(scope="module")
def three() -> Iterator[Team]:
    """This process and two others."""
    team = Team(3, MODULE)
    yield team
    children = list(team._children)
    team.end()
    assert [child.returncode for child in children] == [0, 0]


def messages(team: Team, count: int) -> list[tuple[int, dict[str, Any]]]:
    """So many messages of the others."""
    found: list[tuple[int, dict[str, Any]]] = []
    until = time.monotonic() + 120
    while len(found) < count:
        found += team.arrived()
        team.wait()
        assert time.monotonic() < until
    return found


def test_all_answer_in_their_own_order(three: Team) -> None:
    """Catches messages that are lost, come twice, overtake each other, or come from another process."""
    assert list(three.others) == [1, 2]
    for rank in three.others:
        three.send(rank, {"number": 10 * rank})
    found = messages(three, 6)
    for rank in three.others:
        mine = [message for sender, message in found if sender == rank]
        assert mine == [{"doubled": 20 * rank, "each": each, "rank": rank} for each in range(3)]


def test_errors_of_others_are_this_ones(three: Team) -> None:
    """Catches a mistake that another process found and nobody hears of, and processes that end of one."""
    three.send(1, {"number": -1})
    with pytest.raises(UserError, match=r"^-1 cannot be doubled$"):
        messages(three, 1)
    three.send(2, {"number": -2})
    with pytest.raises(ProcessError, match=r"^process 2 of 3 failed: ArithmeticError: too small$"):
        messages(three, 1)
    three.send(1, {"number": 5})
    assert [message["doubled"] for _, message in messages(three, 3)] == [10, 10, 10]


def test_work_is_taken_back(three: Team) -> None:
    """Catches a process that goes on with what nobody waits for."""
    three.send(1, {"number": -3})
    messages(three, 1)
    three.send(1, {"stop": True})
    assert len(messages(three, 3)) == 3


def test_one_that_is_killed_is_noticed() -> None:
    """Catches a first process that waits for ever, and others that stay behind."""
    team = Team(2, MODULE)
    try:
        team.send(1, {"number": -3})
        [(_, message)] = messages(team, 1)
        os.kill(message["pid"], signal.SIGKILL)
        with pytest.raises(ProcessError, match=r"^process 1 of 2 has ended \(SIGKILL\)"):
            messages(team, 1)
    finally:
        team.end()


_FIRST = f"""
import os, signal
from blink.runs.parallel.team import Post, Team, end_teams, team
team = Team(2, {MODULE!r})
team.send(1, {{"number": -3}})
while not (found := list(team.arrived())):
    team.wait()
print(found[0][1]["pid"], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_others_end_with_the_first() -> None:
    """Catches orphans that hold a GPU after the first process was killed."""
    ended = python("-c", _FIRST)
    assert ended.returncode == -signal.SIGKILL
    until = time.monotonic() + 20
    while _lives(int(ended.stdout)):
        assert time.monotonic() < until
        time.sleep(0.05)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"


def test_nobody_is_let_go_before_the_first_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches processes of torchrun's that are told to end as the first one comes to know of them, and so may or may not."""
    store = distributed.HashStore()
    monkeypatch.setattr("blink.runs.parallel.team._common_store", lambda: store)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    other = Post(store, 1)
    found = team(2, "")
    assert other.take(0) is None
    found.send(1, {"number": 1})
    assert other.take(0) == {"number": 1}
    end_teams()
    assert other.take(0) == {"end": True}


def test_one_that_was_stopped_alone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a first process that waits for ever for one that a signal has ended, of which torchrun makes nothing."""
    store = distributed.HashStore()
    monkeypatch.setattr("blink.runs.parallel.team._common_store", lambda: store)
    monkeypatch.setattr("blink.runs.parallel.team._SAME_SIGNAL_SECONDS", 0.0)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    first = Team(2, "")
    Post(store, 1).send(0, {"stopped": "SIGTERM"})
    assert list(first.arrived()) == []
    assert first.stopped == {1}
    with pytest.raises(
        ProcessError, match=r"^process 1 of 2 was stopped by SIGTERM; what is written is kept"
    ):
        first.check_stopped()
