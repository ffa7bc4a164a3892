"""Several training processes per job, several jobs per process: what Lightning and `--multirun` need to agree.

Lightning starts its further processes by running this process's command again. In a multirun that command is
the whole sweep, so each of them would sweep, too. Knows neither models nor training.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import distributed

from blink.runs.folder import RANK_VARIABLES

_LEFT_BEHIND = (*RANK_VARIABLES, "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@contextmanager
def one_job(overrides: Sequence[str]) -> Iterator[None]:
    """Run one job of a multirun: processes that it starts run this job alone, and the next job starts clean.

    The job should end with a barrier: its process group is taken down afterwards.

    Args:
        overrides: this job's own, without the sweep's.
    """
    arguments, environment = sys.argv, {name: os.environ.get(name) for name in _LEFT_BEHIND}
    sys.argv = [arguments[0], *overrides]
    try:
        yield
    finally:
        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()
        sys.argv = arguments
        for name, value in environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
