"""The Lightning callback that logs speed, memory and gradient norms, and pictures of the features as they improve.

Losses, learning rate and what is measured on held-out images come from the LightningModule itself.

"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities import move_data_to_device
from PIL import Image
from torch import Tensor, nn

from blink.model.views import QUADRANTS
from blink.runs.boards.board import Axis, Board, Chart
from blink.runs.machine import peak_memory_mb
from blink.runs.progress import Lines
from blink.training.features.picture import feature_picture
from blink.training.features.states import Batch, images_in
from blink.training.module import TokenSRTraining, is_logged
from blink.training.report import Summary

STEP = "trainer/global_step"
"""The axis of a training run: optimizer steps, under the name that Lightning's logger gives them."""

SECTIONS = ("train", "train_layers", "held_out", "features")

_MOST_LAYERS = 4
"""Layers that are pictured, evenly spread over those that are trained."""


class TrainingMonitor(Callback):
    """Logs what the LightningModule does not: speed, memory, gradient norms, and pictures every so many steps.

    Numbers come with the trainer's `log_every_n_steps`. Speed leaves out measuring on held-out images and pictures.

    Args:
        board: where pictures go, and how often.
        quadrants: of the first held-out image, of which that with the most contrast is pictured.
    """

    def __init__(self, board: Board, quadrants: Sequence[Image.Image]) -> None:
        self.board = board
        self.region = int(np.argmax([np.asarray(quadrant).std() for quadrant in quadrants]))
        self.quadrant = quadrants[self.region]
        self._clock = time.perf_counter()
        self._pairs, self._seconds = 0, 0.0
        self._pictured: int | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Define the x axis of the run's curves, and the two whose minimum represents the run."""
        if trainer.is_global_zero:
            self.board.axis(STEP, *SECTIONS)
            for name in ("train/loss", "held_out/kl_token_sr"):
                self.board.best(name, "min", STEP)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Picture the features before the first step."""
        if trainer.global_step == 0:
            self._log_pictures(trainer, pl_module)
        self._clock = time.perf_counter()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Log the norm of each layer's gradient before it is clipped, and of all together."""
        assert isinstance(pl_module, TokenSRTraining), (
            f"made for TokenSRTraining, not {type(pl_module).__name__}"
        )
        if not is_logged(trainer):
            return
        norms = {layer: _gradient_norm(module) for layer, module in pl_module.modules_by_layer.items()}
        known = {layer: norm for layer, norm in norms.items() if norm is not None}
        if known:  # DeepSpeed keeps gradients to itself
            total = torch.stack(list(known.values())).square().sum().sqrt()
            pl_module.log("train/gradient_norm", total)
            pl_module.log_dict(
                {f"train_layers/layer_{layer}/gradient_norm": norm for layer, norm in known.items()}
            )

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Log speed and memory, and pictures of the features if it is time."""
        now = time.perf_counter()
        self._seconds += now - self._clock
        self._clock = now
        self._pairs += images_in(batch) * QUADRANTS * trainer.world_size
        step = trainer.global_step
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning sets it elsewhere
        if every and step % every == 0 and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            pl_module.log(
                "train/pairs_per_second", self._pairs / max(self._seconds, 1e-9), rank_zero_only=True
            )
            pl_module.log("train/memory_gb", peak_memory_mb() / 1024, rank_zero_only=True)
            self._pairs, self._seconds = 0, 0.0
        if self.board.pictures_every and step % self.board.pictures_every == 0 and step != self._pictured:
            self._log_pictures(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restart the clock, so that measuring does not count into the speed."""
        self._clock = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Picture the features after the last step."""
        if trainer.global_step != self._pictured:
            self._log_pictures(trainer, pl_module)

    def _log_pictures(self, trainer: Trainer, module: LightningModule) -> None:
        """Log pictures of the features of some layers."""
        if not (trainer.is_global_zero and self.board.pictures_every and self.board.shows_pictures):
            return
        assert isinstance(module, TokenSRTraining), f"made for TokenSRTraining, not {type(module).__name__}"
        self._pictured = trainer.global_step
        loader = trainer.datamodule.val_dataloader()  # type: ignore[attr-defined]  # Lightning sets it
        batch = move_data_to_device(loader.collate_fn([loader.dataset[0]]), module.device)
        pictures = feature_pictures(module, batch, self.region, self.quadrant)
        self.board.pictures(
            {f"features/layer_{layer}": picture for layer, picture in pictures.items()},
            Axis(STEP, trainer.global_step),
            caption="quadrant, coarse, interpolated, TokenSR, teacher; below: each less its own mean",
        )
        self._clock = time.perf_counter()


class TrainingLines(Callback):
    """Logs a line a minute: steps done, the loss, time left. For output that goes to a file, where no bar can be drawn."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count, at the step that the run goes on from."""
        self._lines = Lines("training, step", int(trainer.estimated_stepping_batches), trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Log a line if it is time."""
        if trainer.is_global_zero:
            loss = trainer.callback_metrics.get("train/loss")
            self._lines.at(trainer.global_step, "" if loss is None else f", loss {float(loss):.4g}")


@torch.no_grad()
def feature_pictures(
    module: TokenSRTraining, batch: Batch, region: int, quadrant: Image.Image
) -> dict[int, Image.Image]:
    """Draw the tokens of one quadrant as colours: layer -> picture, for some of the layers.

    Args:
        batch: of one image.
        region: which quadrant.
        quadrant: as a picture.
    """
    shown = np.linspace(0, len(module.layers) - 1, min(_MOST_LAYERS, len(module.layers))).round()
    layers = [module.layers[int(index)] for index in shown]
    (of_image,) = module.quadrant_features(batch, layers)
    return {
        layer: feature_picture(quadrant, [part[region] for part in features])
        for layer, features in of_image.items()
    }


def kl_chart(summary: Summary) -> Chart:
    """KL of every student against the layer."""
    names = {"kl_interpolation": "interpolation", "kl_token_sr": "TokenSR", "kl_reference": "reference"}
    lines = {
        shown: [(int(layer), entry[name]) for layer, entry in summary.layers.items()]
        for name, shown in names.items()
        if all(name in entry for entry in summary.layers.values())
    }
    return Chart("KL to the teacher on held-out images", "layer", lines)


def _gradient_norm(module: nn.Module) -> Tensor | None:
    """L2 norm of the gradients of all its parameters together; None where none has a gradient."""
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    if not gradients:
        return None
    return torch.stack([gradient.float().norm() for gradient in gradients]).square().sum().sqrt()
