"""The eval command over several processes: started by itself or by torchrun, alone and as a multirun, killed and resumed."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.crash import kills
from tests.processes import python

pytestmark = [pytest.mark.usefixtures("in_empty_folder"), pytest.mark.slow]

SMALL = (
    "bench=mme",
    "scenes.images=5",
    "bench.max_new_tokens=2",
    "logger=none",
    "layer=8-10",
    "engine.pictures=1",
)
MEASURED = ("seconds", "seconds_waiting_for_pictures", "questions_per_second", "peak_memory_mb", "provenance")


def command(*arguments: str, torchrun: bool = False) -> subprocess.CompletedProcess[str]:
    """`python -m blink.eval`, or torchrun's two of them, as a user types it."""
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node=2") if torchrun else ()
    return python(*launcher, "-m", "blink.eval", *arguments)


def only(pattern: str, root: Path) -> Path:
    [found] = root.rglob(pattern)
    return found


def scores(root: Path) -> dict[str, Any]:
    """Scores without what differs from run to run."""
    found = json.loads(only("scores.json", root).read_text())
    return {key: value for key, value in found.items() if key not in MEASURED}


def same(root: Path, whole: Path) -> None:
    """Assert that rows are equal, ratios to 1e-5, and so are scores."""
    rows, expected = (
        [json.loads(line) for line in only("predictions.jsonl", each).read_text().splitlines()]
        for each in (root, whole)
    )
    assert [row["id"] for row in rows] == [row["id"] for row in expected]
    for row, other in zip(rows, expected, strict=True):
        ratios = [[event.pop("ratio") for event in each["events"]] for each in (row, other)]
        assert ratios[0] == pytest.approx(ratios[1], abs=1e-5)
        assert row == other
    assert scores(root) == scores(whole)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`outputs` of one process."""
    root = tmp_path_factory.mktemp("whole")
    ended = command(*SMALL, f"outputs={root}")
    assert ended.returncode == 0, ended.stderr
    return root


@pytest.mark.parametrize("processes", [2, 3])
def test_several_equal_one(processes: int, whole: Path) -> None:
    """Catches pictures answered twice or by nobody where the count does not divide, rows in another order or of another run."""
    ended = command(*SMALL, f"devices={processes}", "outputs=several")
    assert ended.returncode == 0, ended.stderr
    same(Path("several"), whole)


def test_torchrun_equals_one(whole: Path) -> None:
    """Catches further processes that run the command themselves, and such as wait for ever once all is done."""
    ended = command(*SMALL, "outputs=several", torchrun=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("written to") == 1
    same(Path("several"), whole)
    again = command(*SMALL, "outputs=several", torchrun=True)
    assert again.returncode == 0, again.stderr
    refused = command(*SMALL, "outputs=several", "devices=3", torchrun=True)
    assert "error: devices=3: 2 processes were started" in refused.stderr


def test_a_multirun_equals_one(whole: Path) -> None:
    """Catches a pass of several runs whose rows are mixed up, and further processes that sweep by themselves."""
    ended = command(*SMALL, "method=blink,vanilla", "devices=2", "outputs=several", "--multirun")
    assert ended.returncode == 0, ended.stderr
    folders = {path.parent.name: path.parent for path in Path("several").rglob("predictions.jsonl")}
    assert len(folders) == 2
    [blink] = [folder for name, folder in folders.items() if "method-blink" in name]
    same(blink, whole)  # the rows of both runs are one batch, so sums are taken in another order


def rows_written(root: Path, most: int) -> Callable[[float], bool]:
    """The moment at which there are rows, and not yet so many."""

    def reached(_: float) -> bool:
        found = [path.read_bytes().count(b"\n") for path in root.rglob("predictions.jsonl")]
        assert found != [most], "it was done before it was killed"
        return bool(found and found[0])

    return reached


def test_killed_and_resumed_by_another_number(whole: Path) -> None:
    """Catches rows that the first number of processes needs to go on, orphans, and more than a line about the end."""
    count = only("predictions.jsonl", whole).read_bytes().count(b"\n")
    two = ("-m", "blink.eval", *SMALL, "devices=2", "outputs=killed")
    ended = kills.command(*two, until=rows_written(Path("killed"), count), number=signal.SIGTERM)
    assert ended.code == 128 + signal.SIGTERM
    assert "stopped by SIGTERM: " in kills.said_in_one_line(ended.said, ("Loading weights", "mme"))
    again = command(*SMALL, "outputs=killed")
    assert again.returncode == 0, again.stderr
    assert "are answered already, going on" in again.stdout
    same(Path("killed"), whole)


def test_a_process_that_dies_ends_all(whole: Path) -> None:
    """Catches a first process that waits for ever for another's rows; then two go on where one stopped."""
    two = ("-m", "blink.eval", *SMALL, "devices=2", "outputs=killed")
    count = only("predictions.jsonl", whole).read_bytes().count(b"\n")
    killed: list[int] = []

    def reached(_: float) -> bool:
        if not killed and (others := _others()):
            killed.append(min(others))
            os.kill(killed[0], signal.SIGKILL)
        time.sleep(0.05)
        return False

    ended = kills.command(*two, until=reached)
    assert ended.code == 1
    assert "error: process 1 of 2 has ended (SIGKILL)" in kills.said_in_one_line(
        ended.said, ("Loading weights", "mme")
    )
    one = ("-m", "blink.eval", *SMALL, "outputs=other")
    kills.command(*one, until=rows_written(Path("other"), count), number=signal.SIGKILL)
    for root in ("killed", "other"):
        again = command(*SMALL, "devices=2", f"outputs={root}")
        assert again.returncode == 0, again.stderr
        same(Path(root), whole)
    until = time.monotonic() + 20
    while _others():
        assert time.monotonic() < until
        time.sleep(0.1)


ENDS: dict[str, tuple[int | None, signal.Signals]] = {
    "the second is killed": (1, signal.SIGKILL),
    "the second is stopped": (1, signal.SIGTERM),
    "the first is killed": (0, signal.SIGKILL),
    "torchrun is stopped": (None, signal.SIGTERM),
    "torchrun is killed": (None, signal.SIGKILL),
}
"""Which of torchrun's processes gets which signal; None: torchrun itself."""


@pytest.mark.parametrize("how", ENDS)
def test_torchrun_ended_and_resumed_by_another_number(how: str, whole: Path) -> None:
    """Catches rows that are lost or written twice, a process that waits for ever for another that has gone, and orphans."""
    rank, number = ENDS[how]
    count = only("predictions.jsonl", whole).read_bytes().count(b"\n")
    has_rows = rows_written(Path("killed"), count)

    def reached(_: float) -> bool:
        if has_rows(_):
            os.kill(_of_torchrun()[rank], number)
            return True
        return False

    launched = ("-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "blink.eval", *SMALL)
    # no signal to all of them: what the one that ended means to the others is what is looked at
    ended = kills.command(*launched, "outputs=killed", until=reached, number=signal.SIGCONT, group=False)
    # One that is told to stop behind its share of the questions takes nothing from the others.
    assert ended.code != 0 or how == "the second is stopped"
    if how == "the second is stopped" and ended.code:
        assert "error: process 1 of 2 was stopped by SIGTERM; what is written is kept" in ended.said
    until = time.monotonic() + 60
    while _of_torchrun():
        assert time.monotonic() < until, "orphans"
        time.sleep(0.1)
    kept = only("predictions.jsonl", Path("killed")).read_bytes()
    again = command(*SMALL, "outputs=killed", *(["devices=2"] if rank is None else []))
    assert again.returncode == 0, again.stderr
    assert only("predictions.jsonl", Path("killed")).read_bytes().startswith(kept)
    same(Path("killed"), whole)


def test_torchrun_starts_all_again(whole: Path) -> None:
    """Catches processes that read the messages of those before them, and wait for ever."""
    count = only("predictions.jsonl", whole).read_bytes().count(b"\n")
    has_rows = rows_written(Path("killed"), count)
    killed: list[int] = []

    def reached(_: float) -> bool:
        if not killed and has_rows(_):
            killed.append(_of_torchrun()[1])
            os.kill(killed[0], signal.SIGKILL)
        return False

    launched = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1", "-m", "blink.eval")
    ended = kills.command(*launched, *SMALL, "outputs=killed", until=reached)
    assert killed
    assert ended.code == 0, ended.said
    same(Path("killed"), whole)


def _of_torchrun() -> dict[int | None, int]:
    """Rank -> process of this folder that torchrun has started for it, None -> torchrun itself."""
    found: dict[int | None, int] = {}
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name), reverse=True):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"outputs=killed" in words and (process / "cwd").resolve() == Path.cwd():
                of_launcher = b"torch.distributed.run" in words
                variables = (process / "environ").read_bytes().split(b"\0")
                [rank] = [None] if of_launcher else [int(v[5:]) for v in variables if v.startswith(b"RANK=")]
                found[rank] = int(
                    process.name
                )  # the lowest number, as a process that reads pictures has the same rank
        except OSError:
            continue
    return found


def _others() -> list[int]:
    """Processes of this folder that are not the first of theirs."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"blink.evaluation.answering.shares" in words and (process / "cwd").resolve() == Path.cwd():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def test_what_several_cannot_do_is_refused() -> None:
    """Catches a refusal that comes from another process, after the weights."""
    for arguments, told in (
        (("devices=0",), "devices=0: expected"),
        (("devices=all",), "devices='all': expected"),
    ):
        ended = command(*SMALL, *arguments)
        assert ended.returncode == 2
        assert told in ended.stderr
