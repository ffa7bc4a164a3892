"""What this process runs on: which dtypes are fast, peak memory, and its rank among several processes.

torch is imported where it is needed, since configs are read without it.
"""

import os
import resource
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

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
