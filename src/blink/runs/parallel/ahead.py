"""Items made ready by worker processes ahead of who consumes them: in their order, a few at a time, and errors as if made here.

torch's DataLoader does the work; what is here is how its workers behave when signals come or one of them dies.
"""

import errno
import io
import multiprocessing
import os
import pickle
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from blink.runs.signals import leave_to_parent, signals_blocked
from blink.runs.values import UserError

T = TypeVar("T")
V = TypeVar("V")

AHEAD = 4
"""Items that each worker process has ready or under way."""

_SHARED_MEMORY = "/dev/shm (shared memory; workers=0 does without)"


def default_workers(processes: int = 1) -> int:
    """How many worker processes suit this machine: one per core beside the one that drives a GPU, at most four; else one.

    Args:
        processes: that share the machine's cores.
    """
    if sys.platform != "linux":  # elsewhere a copy of a process that uses threads is not safe
        return 0
    spare = len(os.sched_getaffinity(0)) // processes - 1
    return max(0, min(4 if torch.cuda.is_available() else 1, spare))


class ProcessError(RuntimeError):
    """A process that did a part of the work has ended before its time."""


class ShieldedLoader(DataLoader[Any]):
    """A loader whose workers leave signals, such as Ctrl-C, to the process that started them; they begin with `iter`.

    Shared memory, through which torch sends tensors, is often small (64 MB in a container). What finds no room there comes
    by pipe: torch itself would end with a message of its own, or wait for ever.

    Args:
        shared: whether tensors go through shared memory while it has room; it is faster by far where they are large.
    """

    def __init__(self, dataset: Dataset[Any], *, shared: bool = True, **settings: Any) -> None:
        super().__init__(dataset, **{**settings, "worker_init_fn": leave_to_parent})
        self.collate_fn = _Packing(self.collate_fn, shared)

    def __iter__(self) -> Any:
        if self.num_workers:
            _check_locks(12 + 3 * self.num_workers)
        with signals_blocked():
            batches = super().__iter__()
        return _with_plain_errors(map(_unpacked, batches))


def _check_locks(count: int) -> None:
    """Check that shared memory has room for so many locks of queues, which torch half makes and then cannot undo.

    Raises:
        OSError: it has not; names it.
    """
    try:
        _ = [multiprocessing.Lock() for _ in range(count)]
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), _SHARED_MEMORY) from error


class _Packed(NamedTuple):
    """What a worker sends: a pickle in which tensors are numbers, and the tensors, in shared memory; None: they are in it."""

    pickled: bytes
    tensors: list[torch.Tensor] | None


class _Packing:
    """Joins items into a batch, which in a worker process is packed to be sent."""

    def __init__(self, join: Callable[[Any], Any], shared: bool) -> None:
        self._join, self._shared = join, shared

    def __call__(self, items: Any) -> Any:
        made = self._join(items)
        if get_worker_info() is None:
            return made
        if self._shared:
            content = io.BytesIO()
            pickler = _TensorsApart(content, pickle.HIGHEST_PROTOCOL)
            pickler.dump(made)
            with suppress(RuntimeError):  # no room
                return _Packed(content.getvalue(), [tensor.share_memory_() for tensor in pickler.tensors])
        return _Packed(pickle.dumps(made, pickle.HIGHEST_PROTOCOL), None)


class _TensorsApart(pickle.Pickler):
    """Pickles all but tensors, which it keeps."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.tensors: list[torch.Tensor] = []

    def persistent_id(self, thing: Any) -> int | None:
        """The number of a tensor."""
        if not isinstance(thing, torch.Tensor):
            return None
        self.tensors.append(thing)
        return len(self.tensors) - 1


class _WithTensors(pickle.Unpickler):
    """Reads what `_TensorsApart` has written."""

    def __init__(self, packed: _Packed) -> None:
        super().__init__(io.BytesIO(packed.pickled))
        self._tensors = packed.tensors or []

    def persistent_load(self, number: Any) -> torch.Tensor:
        """The tensor of a number."""
        return self._tensors[number]


def _unpacked(batch: Any) -> Any:
    """A batch as it was made, from whichever process."""
    return _WithTensors(batch).load() if isinstance(batch, _Packed) else batch


def _with_plain_errors(batches: Iterator[Any]) -> Iterator[Any]:
    """Batches of a loader, whose workers' mistakes come without the traceback that torch puts into the message."""
    try:
        yield from batches
    except UserError as error:
        told = str(error).strip()
        if told.startswith("Caught "):
            raise UserError(told.splitlines()[-1].partition(": ")[2]) from error
        raise
    except RuntimeError as error:
        if str(error).startswith("DataLoader worker ("):
            raise ProcessError(
                f"a process that reads pictures ahead has ended: {' '.join(str(error).split())}"
            ) from error
        raise


class Ahead(Generic[T, V]):
    """What a function makes of items, in their order: by worker processes, which begin at once, or here, as it is asked for.

    Args:
        items: they and the function are not sent to the workers, which are copies of this process.
        make: called for one item after another; what it returns is sent here, by pickle through a pipe.
        workers: how many processes; 0 makes each item here.

    Attributes:
        waited: seconds that the consumer has waited for items so far.

    Raises:
        UserError: as `make` raises it, when its item is asked for.
        ProcessError: a worker process was killed.
    """

    def __init__(self, items: Sequence[T], make: Callable[[T], V], *, workers: int) -> None:
        self.waited = 0.0
        self._made: Iterator[V] = map(make, items)
        if workers and items:
            with warnings.catch_warnings():
                warnings.filterwarnings(
                    "ignore", "This DataLoader will create"
                )  # how many is the user's choice
                self._made = iter(
                    ShieldedLoader(
                        _Made(items, make),
                        shared=False,
                        batch_size=None,
                        collate_fn=_as_it_is,
                        num_workers=min(workers, len(items)),
                        prefetch_factor=AHEAD,
                        multiprocessing_context="fork",  # what opens a picture cannot always be sent to a process
                    )
                )

    def __iter__(self) -> Iterator[V]:
        while True:
            started = time.perf_counter()
            try:
                item = next(self._made)
            except StopIteration:
                return
            finally:
                self.waited += time.perf_counter() - started
            yield item


class _Made(Dataset[Any]):
    """Items as a data set."""

    def __init__(self, items: Sequence[Any], make: Callable[[Any], Any]) -> None:
        self._items, self._make = items, make

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, number: int) -> Any:
        return self._make(self._items[number])


def _as_it_is(item: Any) -> Any:
    return item
