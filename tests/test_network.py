"""With the default settings no connection is tried: not by the hub's client, not by Weights & Biases."""

import os
import subprocess
from pathlib import Path

import matplotlib
import pytest

from tests.processes import python

GUARD = """
import os, socket

def _note(host):
    local = {"localhost", "127.0.0.1", "::1", "0.0.0.0", "", None}
    if (host.decode() if isinstance(host, bytes) else host) not in local:
        with open(os.environ["TRIED"], "a") as file:
            file.write(f"{host}\\n")
        raise OSError(f"no network in this test: {host}")

_connect, _lookup = socket.socket.connect, socket.getaddrinfo

def connect(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6):
        _note(address[0])
    return _connect(self, address)

def getaddrinfo(host, *args, **kwargs):
    _note(host)
    return _lookup(host, *args, **kwargs)

socket.socket.connect, socket.getaddrinfo = connect, getaddrinfo
"""

BOTH = """
import runpy, sys

for command in (["blink.train", "layer=1", "images=2", "held_out=1"], ["blink.eval", "limit=18"]):
    sys.argv[1:] = command[1:]
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)
"""
"""Trains and evaluates as `python -m` does, with one start of Python for both."""


def guarded(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a process that notes every look-up and connection beyond this machine."""
    (folder / "sitecustomize.py").write_text(GUARD, encoding="utf-8")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "WANDB_"))}
    env = kept | {
        "PYTHONPATH": os.pathsep.join([str(folder), os.environ["PYTHONPATH"]]),
        "TRIED": str(folder / "tried.txt"),
        "HOME": str(folder),  # no token and no cache of the user's
        "MPLCONFIGDIR": matplotlib.get_cachedir(),  # else the list of fonts is made anew, which takes long
    }
    return python(*arguments, env=env, cwd=folder)


def test_the_guard_sees_a_connection(tmp_path: Path) -> None:
    """Would catch a guard that is not loaded, and with it a test that cannot fail."""
    found = guarded(["-c", "import urllib.request as u; u.urlopen('http://example.invalid')"], tmp_path)
    assert found.returncode != 0
    assert (tmp_path / "tried.txt").read_text(encoding="utf-8") == "example.invalid\n"


@pytest.mark.slow
def test_default_commands_try_no_connection(tmp_path: Path) -> None:
    """Would catch a look-up on the hub for files that ship, and a login that asks a server."""
    done = guarded(["-c", BOTH], tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(list(tmp_path.glob("outputs/train/*/summary.json"))) == 1
    assert len(list(tmp_path.glob("outputs/eval/*/scores.json"))) == 1
    assert not (tmp_path / "tried.txt").exists()
