"""Items made ready by worker processes ahead of who consumes them: in their order, a few at a time, and errors as if made here.

torch's DataLoader does the work; what is here is how its workers behave when signals come or one of them dies.
"""

import os
import pickle
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from blink.runs.signals import leave_to_parent, signals_blocked
from blink.runs.values import UserError

T = TypeVar("T")
V = TypeVar("V")

AHEAD = 4
"""Items that each worker process has ready or under way."""


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
    """A loader whose workers leave signals, such as Ctrl-C, to the process that started them; they begin with `iter`."""

    def __init__(self, dataset: Dataset[Any], **settings: Any) -> None:
        super().__init__(dataset, **{**settings, "worker_init_fn": leave_to_parent})

    def __iter__(self) -> Any:
        with signals_blocked():
            batches = super().__iter__()
        return _with_plain_errors(batches)


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
        make: called for one item after another; what it returns is sent here, by pickle.
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
                packed = iter(
                    ShieldedLoader(
                        _Made(items, make),
                        batch_size=None,
                        collate_fn=_as_it_is,
                        num_workers=min(workers, len(items)),
                        prefetch_factor=AHEAD,
                        multiprocessing_context="fork",  # what opens a picture cannot always be sent to a process
                    )
                )
                self._made = map(pickle.loads, packed)

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
    """Items as a data set, pickled.

    torch would send tensors through shared memory, which is often small; where it is full the process that waits for them is
    never told.
    """

    def __init__(self, items: Sequence[Any], make: Callable[[Any], Any]) -> None:
        self._items, self._make = items, make

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, number: int) -> bytes:
        return pickle.dumps(self._make(self._items[number]), protocol=pickle.HIGHEST_PROTOCOL)


def _as_it_is(item: Any) -> Any:
    return item
