"""Where Hydra looks for plugins: makes `hydra/launcher=one_pass` known to it. What it does is in `blink.evaluation.sweeps.one_pass`.

Hydra imports this file at the start of every command that it runs, so it imports nothing heavy.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.types import HydraContext
from omegaconf import DictConfig


class OnePassLauncher(BasicLauncher):
    """Hydra's own launcher, once the questions of all its jobs are answered in one pass over the pictures."""

    hydra_context: HydraContext | None

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Answer, then run the jobs one after another: each finds its answers and scores them."""
        from blink.evaluation.sweeps.one_pass import answer_together, without_fresh

        context = self.hydra_context
        assert context is not None, "Hydra sets a launcher up before it launches"
        folder = Path(
            self.config.hydra.sweep.dir
        )  # resolved here, or each job would name a sweep after itself
        folder.mkdir(parents=True, exist_ok=True)
        try:
            configs = [
                context.config_loader.load_sweep_config(self.config, list(job)) for job in job_overrides
            ]
        except HydraException as error:
            sys.exit(f"error: {' '.join(str(error).split())}")
        answer_together(configs)
        composed = _Composed(context.config_loader, job_overrides, configs)
        self.hydra_context = HydraContext(composed, context.callbacks)
        try:
            returned: Sequence[JobReturn] = super().launch(
                [without_fresh(job) for job in job_overrides], initial_job_idx
            )
        finally:
            self.hydra_context = context
        return returned


class _Composed:
    """A config loader that has the configs of some jobs already: composing one takes Hydra a fifth of a second."""

    def __init__(self, loader: Any, jobs: Sequence[Sequence[str]], configs: Sequence[DictConfig]) -> None:
        self._loader = loader
        self._known = {tuple(job): config for job, config in zip(jobs, configs, strict=True)}

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """The config of a job; each is given away once, since whoever runs a job writes into it."""
        known = self._known.pop(tuple(sweep_overrides), None)
        if known is not None:
            return known
        composed: DictConfig = self._loader.load_sweep_config(master_config, sweep_overrides)
        return composed
