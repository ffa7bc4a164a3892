"""Processes by name: which one this is, and whether one that left its name in a file is gone."""

import os
import secrets
import shlex
import socket
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path

_LONGEST_COMMAND = 200


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock, as its file says.

    Attributes:
        token: of this lock alone.
        host: its machine's name.
        machine: tells apart machines, their starts, and containers, whose process numbers have nothing to do with each other.
        pid: its number; 0 if the file does not say.
        started: when it was started, as the system says it.
        since: when it took the lock.
        command: its command line.
    """

    token: str
    host: str = ""
    machine: str = ""
    pid: int = 0
    started: str = ""
    since: str = ""
    command: str = ""

    def __str__(self) -> str:
        if not self.pid:
            return "a process that has not said yet which it is"
        command = self.command
        if len(command) > _LONGEST_COMMAND:
            command = f"{command[:_LONGEST_COMMAND]} ..."
        return f"process {self.pid} on {self.host} since {self.since} ({command})"


def this_process() -> Holder:
    """This process as the holder of a lock to come, with a new token."""
    return Holder(
        token=secrets.token_hex(8),
        host=socket.gethostname(),
        machine=_machine(),
        pid=os.getpid(),
        started=_started(os.getpid()) or "",
        since=datetime.now().astimezone().isoformat(" ", "seconds"),
        command=" ".join(shlex.join(sys.orig_argv).split()),
    )


def has_ended(holder: Holder) -> bool | None:
    """Whether a process has ended; None if that cannot be told from here, as of one of another machine.

    One with this process's own number has: it is a program that this process ran before.
    """
    if not holder.pid or (holder.host, holder.machine) != (socket.gethostname(), _machine()):
        return None
    if holder.pid == os.getpid():
        return True
    started = _started(holder.pid)
    return started is None or bool(started and holder.started and started != holder.started)


@lru_cache(maxsize=1)
def _machine() -> str:
    """This start of this machine, and the space of its process numbers; empty where the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When a process of this machine was started, as text that equals for equal starts; empty if unknown, None if it is gone.

    A process that has ended and that its parent has not asked about yet is gone.
    """
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        fields = status.rpartition(")")[2].split()  # the name before may hold anything
        return None if fields[0] in "ZX" else fields[19]
    except (FileNotFoundError, ProcessLookupError):
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    if sys.platform == "linux":
        return ""  # /proc hides other users' processes
    told = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    state, _, started = told.stdout.strip().partition(" ")
    return None if state.startswith("Z") else started.strip()
