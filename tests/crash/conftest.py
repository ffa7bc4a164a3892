"""Commands that are killed at random moments, and disks that are full. `make crash N=50` kills more often than the suite does.

`kills.py` starts real commands in processes of their own and ends them from outside; nothing inside a command knows of it.
`dying.py` has one die in the writing of a file, for files so short that no signal from outside would come in time.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from subprocess import run
from tempfile import TemporaryDirectory

import numpy as np
import pytest

HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=None, help="how often each command is killed")
    parser.addoption("--kill-seed", type=int, default=0, help="seed of the moments")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.crash)


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    """How often to kill each command."""
    return int(request.config.getoption("--kills", default=None) or 2)


@pytest.fixture
def moments(request: pytest.FixtureRequest) -> np.random.Generator:
    """Draws the moments; another stream for each test."""
    seed = int(request.config.getoption("--kill-seed", default=0))
    return np.random.default_rng([seed, *request.node.name.encode()])


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """An empty folder on another file system than temporary files."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system: /dev/shm is none, or cannot be written")
    with TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Another file system of 8 MB; needs the right to mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no small file system: {mounted.stderr.strip()}")
    yield disk
    run(["umount", "--lazy", disk], check=True)
