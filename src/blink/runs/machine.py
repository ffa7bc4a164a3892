"""What this process runs on: which dtypes are fast, peak memory, its rank among several processes, and its name.

The name is for locks, and says whether a process that left it in a file is gone.

torch is imported where it is needed, since configs are read without it.
"""

import ctypes
import os
import resource
import secrets
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path

_LONGEST_COMMAND = 200

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of `mallopt`, in malloc.h."""

RANK_VARIABLES = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
"""Environment variables in which launchers put a process's rank; it is 0 in all of them for the first process."""

_SET_BY_LIGHTNING = (*RANK_VARIABLES, "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables that a job with several processes leaves set; with them the next job would run as a child process."""


def has_bfloat16() -> bool:
    """Whether this machine multiplies bfloat16 in hardware: its GPU, or the CPU where there is none.

    A CPU without such units emulates them, many times slower than it computes in float32.
    """
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return cpu_has_bfloat16()


def cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware."""
    import torch

    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def default_dtype() -> str:
    """Return "bfloat16" where this machine has it in hardware, else "float32"."""
    return "bfloat16" if has_bfloat16() else "float32"


def keep_freed_memory() -> bool:
    """Let this process keep the memory that tensors on the CPU leave, up to 1 GiB, for those that follow.

    By itself the GNU C library gives it back at once, and takes it again page by page: a sixth of the engine's time on a
    small model. Does nothing, and returns False, with another C library or where the environment has settings of its own.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")) for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    # Both must be set: the second one alone would end the library's own adjustment of the first. Older
    # versions take no more than 32 MiB.
    return any(mallopt(_MMAP_THRESHOLD, mib * 2**20) for mib in (64, 32)) and bool(
        mallopt(_TRIM_THRESHOLD, 2**30)
    )


def peak_memory_mb() -> float:
    """Return the peak memory in MiB: of the GPU since its statistics were reset, or of the host where no GPU is used.

    The host's figure is the process's maximum since its start, so of a sweep's jobs only the first has its own.
    """
    import torch

    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def memory_bytes() -> int:
    """Return the memory of this machine, or of the container that the process is in, where that has less."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # another version of control groups, or "max"
            sizes.append(int(Path(file).read_text()))
    return min(sizes)


def is_first_process() -> bool:
    """Whether this is the one process, or the first of those that Lightning, torchrun or SLURM started."""
    return all(os.environ.get(variable, "0") == "0" for variable in RANK_VARIABLES)


def launched_processes() -> int:
    """How many processes torchrun has started, or who else sets its variables; 1 where nobody has."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


@contextmanager
def one_job(overrides: Sequence[str]) -> Iterator[None]:
    """Run one job of a multirun such that its DDP processes run this job alone, and the next job starts clean.

    Lightning starts its further processes by running this process's command again. In a multirun that command is the
    whole sweep, so each of them would sweep, too. The job should end with a barrier: its process group is destroyed
    afterwards.

    Args:
        overrides: this job's own, without the sweep's.
    """
    arguments, environment = sys.argv, {name: os.environ.get(name) for name in _SET_BY_LIGHTNING}
    sys.argv = [arguments[0], *overrides]
    try:
        yield
    finally:
        from torch import distributed  # slow to import, and after a job it is there already

        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()
        sys.argv = arguments
        for name, value in environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


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
