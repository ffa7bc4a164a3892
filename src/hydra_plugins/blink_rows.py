"""Hydra's sweeper for experiments: rows of a table instead of a product of values. Hydra finds it by its place."""

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override


class RowSweeper(BasicSweeper):
    """Runs the product of the swept values, and with experiment= the rows of the experiment on each benchmark."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Nothing: `SweepCallback` or the launcher has composed and checked every job."""

    @staticmethod
    def split_arguments(overrides: list[Override], max_batch_size: int | None) -> list[list[list[str]]]:
        """Return the jobs in batches, each job a list of overrides."""
        from blink.evaluation.sweeps.multirun import sweep_of  # what Hydra imports at every start is light

        jobs = sweep_of(tuple(str(override.input_line) for override in overrides)).jobs
        return list(BasicSweeper.split_overrides_to_chunks(jobs, max_batch_size))
