"""Where Hydra looks for plugins: makes `hydra/launcher=one_pass` known to it. What it does is in `blink.launcher`.

Hydra imports this file at the start of every command that it runs, so it imports nothing heavy.
"""

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.utils import JobReturn


class OnePassLauncher(BasicLauncher):
    """Hydra's own launcher, once the questions of all its jobs are answered in one pass over the pictures."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Answer, then run the jobs one after another: each finds its answers and scores them."""
        from blink.launcher import answer_together, without_fresh

        assert self.hydra_context is not None, "Hydra sets a launcher up before it launches"
        loader = self.hydra_context.config_loader
        answer_together([loader.load_sweep_config(self.config, list(job)) for job in job_overrides])
        returned: Sequence[JobReturn] = super().launch(
            [without_fresh(job) for job in job_overrides], initial_job_idx
        )
        return returned
