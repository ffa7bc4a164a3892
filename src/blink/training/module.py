"""Training of TokenSR: one module per layer over one pass of the frozen backbone. The LightningModule.

Each layer's module starts from (seed, layer), has its own loss and is clipped by itself, so that it comes out the same
whichever layers train beside it. The backbone is no part of this module's state: neither optimizer nor checkpoint nor
DDP nor DeepSpeed sees it.

Axes: B images, N quadrants, d hidden width, H x W grid of the base view.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NoReturn

import numpy as np
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torchmetrics import MeanMetric
from transformers import get_cosine_schedule_with_warmup

from blink.model.backbone import Backbone
from blink.model.token_sr import Design, TokenSR, check_patches, make_token_sr
from blink.model.views import PATCHES, Views
from blink.training.answers.lessons import Lesson
from blink.training.answers.loss import answer_losses
from blink.training.data import PairData
from blink.training.features.states import (
    Batch,
    Features,
    QuadrantFeatures,
    channels_last,
    layers_read,
    quadrant_context,
    quadrant_features,
    refine,
    trunk_features,
)
from blink.training.not_finite import check_finite_state, raise_not_finite
from blink.training.objective import Distances, distances, token_kl

STUDENTS = ("token_sr", "interpolation", "reference")
"""Compared with the teacher: the module, the interpolation that it starts from, and, if there is one, an earlier module."""

_ANSWERED = STUDENTS[:2]
"""Those whose answers are measured, too."""


class TokenSRTraining(LightningModule):
    """Fit TokenSR modules to the hidden states of quadrants (Sec. 3.2.1, App. A).

    The teacher of one (full view, quadrant) pair is what enters layer L when the backbone sees the quadrant
    alone; the student is TokenSR_L of the full view's region, resized to the grid as in inference.

    Args:
        backbone: frozen, with at least decoder layers 0 .. max(layers) - 1; its outline, without weights, where
            batches hold features.
        layers: layers to train.
        kind: design of the modules, as in `make_token_sr`.
        sizes: its sizes; those that are left out are the design's own.
        learning_rate: peak, of AdamW.
        weight_decay: of AdamW.
        warmup: share of the optimizer steps over which the rate rises from 0, rounded up; then it falls to 0
            along a cosine.
        temperature: of the softmax in the loss.
        kl_weight, answer_weight: of the two objectives in each layer's loss; the second needs a whole backbone, and batches
            that are a `Lesson`.
        patches, positions: of the policy under which answers are trained.
        norms: layer -> the norm with which it begins, to compare tokens after it; None compares raw states.
        references: layer -> a module trained earlier, to measure beside the new one; not trained.
        seed: of the initial weights.

    Raises:
        ValueError: the grid of all pictures has no quadrants, or a setting is out of range.
    """

    def __init__(
        self,
        backbone: Backbone,
        layers: Sequence[int],
        *,
        kind: str = TokenSR.kind,
        sizes: Mapping[str, Any] | None = None,
        learning_rate: float = 1e-4,
        weight_decay: float = 0.0,
        warmup: float = 0.03,
        temperature: float = 1.0,
        kl_weight: float = 1.0,
        answer_weight: float = 0.0,
        patches: int = 2,
        positions: str = "append",
        norms: Mapping[int, nn.Module] | None = None,
        references: Mapping[int, nn.Module] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if backbone.grid is not None:
            check_patches(PATCHES, backbone.grid)
        self.backbone = backbone  # not an nn.Module, so nothing of it is registered here
        self.layers = tuple(sorted(set(layers)))
        self.learning_rate, self.weight_decay, self.warmup = learning_rate, weight_decay, warmup
        self.temperature = temperature
        self.kl_weight, self.answer_weight = kl_weight, answer_weight
        self._policy: dict[str, Any] = {"patches": patches, "positions": positions}
        self._norms = dict(norms or {})
        self._references = {
            layer: module.requires_grad_(False).eval() for layer, module in (references or {}).items()
        }
        self.token_sr = nn.ModuleDict(
            {
                str(layer): seeded_token_sr(kind, backbone.hidden_size, sizes, seed=seed, layer=layer)
                for layer in self.layers
            }
        )
        self.measured = nn.ModuleDict({name: MeanMetric() for name in self._names()})

    @property
    def modules_by_layer(self) -> dict[int, Design]:
        """layer -> its module, as `save_token_sr` takes them."""
        return {int(layer): module for layer, module in self.token_sr.items() if isinstance(module, Design)}

    def setup(self, stage: str) -> None:
        """Bring the backbone to this process's device, if it has weights."""
        if self.backbone.device.type != "meta":
            self.backbone.model.to(self.device)
        for frozen in (*self._norms.values(), *self._references.values()):
            frozen.to(self.device)

    def training_step(self, batch: Batch | Lesson, batch_idx: int) -> Tensor:
        """Sum of the layers' losses."""
        features = self.quadrant_features(batch) if self.kl_weight else []
        parts = self._parts(batch, features)
        losses = self._weighted(parts)
        if is_logged(self.trainer):
            measures = {f"{name}_token_sr": of_layers for name, of_layers in parts.items()}
            if features:
                with torch.no_grad():
                    measures["kl_interpolation"] = self._losses(features, "interpolated_NdHW")
            for name, of_layers in measures.items():
                for layer, value in of_layers.items():
                    self.log(f"train_layers/layer_{layer}/{name}", value.detach())
            self.log("train/learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])
        total = torch.stack(list(losses.values())).sum()
        if not total.isfinite():
            step = f"step {self.trainer.global_step + 1}"
            names = [] if self._data is None else self._data.training_names()
            raise_not_finite(step, losses, features, self.modules_by_layer, names)
        self.log("train/loss", total.detach(), prog_bar=True)
        return total

    def losses(self, batch: Batch | Lesson) -> dict[int, Tensor]:
        """The loss of each layer: KL as the mean over the batch's pairs, and of each pair over its tokens; and the answers'
        loss as the mean over images, and of each over its answers' tokens."""
        features = self.quadrant_features(batch) if self.kl_weight else []
        return self._weighted(self._parts(batch, features))

    def answer_losses(self, batch: Lesson, trained: bool = True) -> dict[int, Tensor]:
        """The loss of each layer's answers, with its module or by interpolation."""
        modules = {layer: self.token_sr[str(layer)] if trained else None for layer in self.layers}
        return answer_losses(self.backbone, batch.asked, modules, **self._policy)

    def validation_step(self, batch: Batch | Lesson, batch_idx: int) -> None:
        """Measure each module, plain interpolation and earlier modules against the teacher."""
        counts = self._data is None or self._data.measures_count
        if isinstance(batch, Lesson):
            self._measure_answers(batch, batch_idx, counts)
        for trunk, layer in product(self.trunk_features(batch), self.layers):
            features = quadrant_features(trunk, layer, self.token_sr[str(layer)])
            teacher = features.teacher_NdHW
            students = [features.refined_NdHW, features.interpolated_NdHW]
            if layer in self._references:
                earlier = self._references[layer]
                context = quadrant_context(trunk, layer, earlier)
                students.append(refine(earlier, features.interpolated_NdHW, context))
            for name, tokens in zip(STUDENTS, students, strict=False):
                kl = self._loss(layer, tokens, teacher)
                if not kl.isfinite():
                    self._raise_measured(layer, kl, batch_idx, [{layer: features}])
                found = distances(channels_last(tokens), channels_last(teacher), kl)
                for measure, value in zip(Distances._fields, found, strict=True):
                    self._mean(_name(layer, measure, name)).update(value, weight=counts * len(teacher))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to save what a run could not go on from.

        Raises:
            NotFiniteError: a weight, or the optimizer's moment of one, is nan or infinite.
        """
        moments = checkpoint.get("optimizer_states", ())
        check_finite_state(f"step {self.trainer.global_step}", self.modules_by_layer, moments)

    def on_validation_epoch_end(self) -> None:
        """Log the means over all processes' pairs, and those of KL over the layers, too."""
        means: dict[str, Tensor] = {}
        for name in self.measured:
            mean = self._mean(name)
            means[name] = mean.compute()
            mean.reset()
        kls = {
            f"kl_{student}": torch.stack([means[_name(layer, "kl", student)] for layer in self.layers]).mean()
            for student in STUDENTS[:2]
        }
        reduction = {"kl_reduction": 1 - kls["kl_token_sr"] / kls["kl_interpolation"]}
        for name, value in {**means, **kls, **reduction}.items():
            self.log(f"held_out/{name}", value, sync_dist=True)  # the same on all processes by now

    def quadrant_features(
        self, batch: Batch | Lesson, layers: Sequence[int] | None = None
    ) -> list[dict[int, QuadrantFeatures]]:
        """Make student and teacher tokens of each layer, from one pass of the backbone or from features on disk.

        Args:
            layers: some of the trained layers; None: all.

        Returns:
            For each grid layer -> features of its images' quadrants; of these `refined_NdHW` alone has a gradient.
        """
        layers = self.layers if layers is None else layers
        return [
            {layer: quadrant_features(trunk, layer, self.token_sr[str(layer)]) for layer in layers}
            for trunk in self.trunk_features(batch, layers)
        ]

    def trunk_features(self, batch: Batch | Lesson, layers: Sequence[int] | None = None) -> list[Features]:
        """States of full views and quadrants for each grid, computed by the backbone or, as they are, from disk."""
        if isinstance(batch, Lesson):
            assert batch.views is not None, "KL needs views"
            batch = batch.views
        if not isinstance(batch, Views):
            return batch
        modules = {layer: self.token_sr[str(layer)] for layer in (self.layers if layers is None else layers)}
        earlier = {layer: module for layer, module in self._references.items() if layer in modules}
        read = {*layers_read(modules), *layers_read(earlier)}
        return trunk_features(self.backbone, batch, read)

    def configure_optimizers(self) -> Any:
        """AdamW, and a rate that is set anew at every optimizer step."""
        optimizer = torch.optim.AdamW(
            self.token_sr.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
        )
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = get_cosine_schedule_with_warmup(optimizer, math.ceil(self.warmup * steps), steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip each layer's gradients by themselves: one norm over all would couple the layers."""
        for module in self.token_sr.values():
            if gradient_clip_val and gradient_clip_algorithm == "value":
                nn.utils.clip_grad_value_(module.parameters(), gradient_clip_val)
            elif gradient_clip_val:
                nn.utils.clip_grad_norm_(module.parameters(), gradient_clip_val)

    @property
    def _data(self) -> PairData | None:
        """The run's data, which knows the names of images; None where batches are handed in one by one."""
        data = getattr(self._trainer, "datamodule", None)
        return data if isinstance(data, PairData) else None

    def _raise_measured(
        self, layer: int, loss: Tensor, batch: int, by_grid: Sequence[Mapping[int, QuadrantFeatures]]
    ) -> NoReturn:
        place = f"measuring after step {self.trainer.global_step}"
        names = [] if self._data is None else self._data.held_out_names(batch)
        raise_not_finite(place, {layer: loss}, by_grid, self.modules_by_layer, names)

    def _losses(self, by_grid: Sequence[dict[int, QuadrantFeatures]], student: str) -> dict[int, Tensor]:
        """Layer -> mean over all pairs, whatever their grids, of the loss of `student`."""
        losses = {}
        for layer in by_grid[0]:
            found = [features[layer] for features in by_grid]
            pairs = [len(quadrants.teacher_NdHW) for quadrants in found]
            means = [
                self._loss(layer, getattr(quadrants, student), quadrants.teacher_NdHW) for quadrants in found
            ]
            weighted = [mean * (count / sum(pairs)) for mean, count in zip(means, pairs, strict=True)]
            losses[layer] = torch.stack(weighted).sum()
        return losses

    def _measure_answers(self, batch: Lesson, batch_idx: int, counts: bool) -> None:
        """Measure the loss of held-out answers with each module, and by interpolation."""
        for name in _ANSWERED:
            for layer, loss in self.answer_losses(batch, trained=name == STUDENTS[0]).items():
                if not loss.isfinite():
                    self._raise_measured(layer, loss, batch_idx, [])
                self._mean(_name(layer, "answer", name)).update(loss, weight=counts * len(batch.asked))

    def _parts(
        self, batch: Batch | Lesson, features: Sequence[dict[int, QuadrantFeatures]]
    ) -> dict[str, dict[int, Tensor]]:
        """Objective -> loss of each layer, of those that have a weight."""
        parts = {"kl": self._losses(features, "refined_NdHW")} if self.kl_weight else {}
        if self.answer_weight:
            assert isinstance(batch, Lesson), "the loss of answers needs questions"
            parts["answer"] = self.answer_losses(batch)
        return parts

    def _weighted(self, parts: Mapping[str, Mapping[int, Tensor]]) -> dict[int, Tensor]:
        """Layer -> sum of its losses by their weights."""
        weights = {"kl": self.kl_weight, "answer": self.answer_weight}
        return {
            layer: torch.stack([weights[name] * of_layers[layer] for name, of_layers in parts.items()]).sum()
            for layer in self.layers
        }

    def _loss(self, layer: int, student: Tensor, teacher: Tensor) -> Tensor:
        """KL over channels, behind the layer's norm if there is one; the mean over tokens."""
        student_d, teacher_d = channels_last(student).float(), channels_last(teacher).float()
        if layer in self._norms:
            student_d, teacher_d = self._norms[layer](student_d), self._norms[layer](teacher_d)
        return token_kl(student_d, teacher_d, self.temperature)

    def _mean(self, name: str) -> MeanMetric:
        mean = self.measured[name]
        assert isinstance(mean, MeanMetric), f"{name} is a {type(mean).__name__}"
        return mean

    def _names(self) -> list[str]:
        return [
            _name(layer, measure, student)
            for layer in self.layers
            for measure in Distances._fields
            for student in (STUDENTS if layer in self._references else STUDENTS[:2])
        ] + [
            _name(layer, "answer", name) for layer in self.layers for name in _ANSWERED if self.answer_weight
        ]


def seeded_token_sr(
    kind: str, channels: int, sizes: Mapping[str, Any] | None = None, *, seed: int, layer: int
) -> Design:
    """A fresh TokenSR whose weights follow from (seed, layer) alone; the global generator is left as it was."""
    state = int(np.random.SeedSequence([seed, layer]).generate_state(1)[0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(state)
        return make_token_sr(kind, channels, sizes)


def is_logged(trainer: Trainer) -> bool:
    """Whether the optimizer step that is being made is one whose numbers go to a logger."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning sets it elsewhere
    return bool(trainer.loggers) and every > 0 and (trainer.global_step + 1) % every == 0


def _name(layer: int, measure: str, student: str) -> str:
    return f"layer_{layer}/{measure}_{student}"
