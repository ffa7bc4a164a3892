"""What the host asks a device for while something runs: each time a GPU would have to be waited for.

On a CPU nothing is waited for, so the calls themselves are counted: those that read a tensor's numbers, choose by a boolean
mask, or copy numbers of the host into an existing place. `torch.cuda.set_sync_debug_mode` tells as much on a GPU.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_READS = {
    getattr(owner, name)
    for owner, names in (
        (
            Tensor,
            (
                "tolist item cpu numpy nonzero equal unique masked_select __bool__ __int__ __float__ __index__ "
                "__contains__ __format__"
            ),
        ),
        (torch, "nonzero equal unique masked_select"),
    )
    for name in names.split()
}


class HostReads(TorchFunctionMode):
    """Counts them inside; of calls within calls the outer one alone.

    Attributes:
        calls: name of the function -> how often.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self._within = False

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self._within:
            return function(*args, **(kwargs or {}))
        if function in _READS or (function is Tensor.__getitem__ and _chooses(args[1])):
            self.calls[function.__name__] += 1
        self._within = True
        try:
            return function(*args, **(kwargs or {}))
        finally:
            self._within = False

    @property
    def count(self) -> int:
        """All of them."""
        return self.calls.total()


def _chooses(index: Any) -> bool:
    """Whether an index holds a list, which is copied to the device, or a mask, whose trues are counted there first."""
    parts = index if isinstance(index, tuple) else (index,)
    return any(
        isinstance(part, list) or (isinstance(part, Tensor) and part.dtype == torch.bool) for part in parts
    )


def host_reads(run: Callable[[], object]) -> Counter[str]:
    """Name -> how often, of one call without gradients."""
    with HostReads() as reads, torch.no_grad():
        run()
    return reads.calls
