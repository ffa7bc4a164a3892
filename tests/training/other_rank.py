"""A callback that damages what one process of a training reads: `+callbacks.damage._target_=tests.training.other_rank.Damage`."""

from typing import Any

from lightning import Callback, LightningModule, Trainer

from blink.training import module
from blink.training.features.states import Features


class Damage(Callback):
    """Makes a hidden state infinite, at layer 2, in the third pass of the backbone of process 1 alone."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Replace the pass in the process that is to be damaged."""
        if trainer.global_rank != 1:
            return
        calls, stock = 0, module.trunk_features

        def trunk_features(*arguments: Any) -> list[Features]:
            nonlocal calls
            by_grid: list[Features] = stock(*arguments)
            calls += 1
            if calls == 3:
                by_grid[0].states[2][0, 3, 0, 0, 0] = float("inf")
            return by_grid

        vars(module)["trunk_features"] = trunk_features
