"""What this machine computes fast: the default of `model.dtype` for backbones of full size."""

import resource
import sys


def has_bfloat16() -> bool:
    """Whether this machine multiplies bfloat16 in hardware: its GPU, or the CPU where there is none.

    A CPU without such units emulates them, many times slower than it computes in float32.
    """
    import torch  # slow to import, and configs are read without it

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
    """Return the most memory held, in MiB: of the GPU since `predict` began, or of the host where no GPU is used.

    The host's figure is the process's since its start and never falls: of a sweep's jobs only the first has its own.
    """
    import torch

    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
