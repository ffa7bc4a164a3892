"""Which hidden states a training run lacks on disk, and the callback that computes them before the first step.

The first run over some pictures writes them, each of its processes a share of the rows; later runs, of whatever TokenSR
design, do not load the backbone.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset

from blink.model.backbone import Backbone
from blink.model.families import Grid
from blink.model.views import VIEWS, ViewMaker, Views, join_views
from blink.runs.files import short_digest
from blink.runs.parallel.ahead import ShieldedLoader
from blink.runs.progress import progress
from blink.runs.signals import Pending, wait_for_others
from blink.runs.values import NotFiniteError
from blink.training.features.per_image import ImageViews, StoredFeatures
from blink.training.features.states import trunk_features
from blink.training.features.store import FeatureStore, in_words
from blink.training.images import Images

log = logging.getLogger(__name__)


def open_store(
    folder: Path, outlined: Backbone, processor: Any, prefix_ids_1P: Tensor, *, dtype: torch.dtype
) -> FeatureStore:
    """Open the folder of visual hidden states of one backbone and prompt prefix; made if missing.

    Args:
        outlined: the backbone without weights.
        dtype: that the backbone runs in.

    Raises:
        ValueError: the folder holds features of another backbone, prefix, dtype or way of making views.
    """
    views = json.dumps(processor.image_processor.to_dict(), sort_keys=True, default=str)
    recipe = {
        "weights": outlined.fingerprint.weights,
        "dtype": str(dtype).removeprefix("torch."),
        "prefix_ids": prefix_ids_1P[0].tolist(),
        "views": short_digest(views),
    }
    shape = (VIEWS, *(outlined.grid or (None, None)), outlined.hidden_size)
    return FeatureStore(folder, recipe, shape, notes={"backbone": outlined.name})


def report_lacking(stored: StoredFeatures, images: Sequence[Images]) -> tuple[int, ...]:
    """Return the layers of which features of some images are lacking, after logging their size on disk.

    Raises:
        ValueError: there is not enough space for them.
    """
    store = stored.store
    rows = [row for collection in images for row in stored.rows(collection)]
    lacking = store.lacking(rows, stored.layers)
    needed = store.check_space(lacking, len(rows))
    log.info(
        "features of %d images at layers %s in %s: %s, of which %s",
        len(rows),
        ", ".join(map(str, stored.layers)),
        store.folder,
        in_words(store.bytes_of(set(rows)) * len(stored.layers)),
        f"{in_words(needed)} are computed first" if needed else "all are there",
    )
    return tuple(sorted({layer for missing in lacking.values() for layer in missing}))


class FillFeatures(Callback):
    """Computes, before the first step, the features of some images that a store lacks.

    Args:
        stored: the store, and the layers that are wanted.
        backbone: with the layers below the highest that is lacking; freed once this process has computed its share.
        images: collections whose images are wanted.
        batch_size: images in one pass of the backbone.
        workers: processes that read images.
    """

    def __init__(
        self,
        stored: StoredFeatures,
        backbone: Backbone,
        images: Sequence[Images],
        views: ViewMaker,
        *,
        batch_size: int,
        workers: int,
    ) -> None:
        self.stored, self.store, self.layers = stored, stored.store, stored.layers
        self.images = images
        self.batch_size, self.workers = batch_size, workers
        self.identities = [collection.identity(i) for collection in images for i in range(len(collection))]
        self.views: Dataset[Views] = ConcatDataset([ImageViews(collection, views) for collection in images])
        self._backbone: Backbone | None = backbone

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute this process's share of the rows, and wait until the others have theirs."""
        rows = [row for collection in self.images for row in self.stored.rows(collection)]
        # By the place among all rows: others may have written theirs already, so that fewer are lacking here than there.
        share = sorted(set(rows))[trainer.global_rank :: trainer.world_size]
        lacking = self.store.lacking(rows, self.layers)
        own = [row for row in share if row in lacking]
        if self._backbone is not None:
            self._backbone.model.to(pl_module.device)
            try:
                self._fill(rows, {row: lacking[row] for row in own}, shown=trainer.is_global_zero)
                self.store.commit()
            except BaseException:
                with suppress(OSError):  # the error itself, where the disk is full
                    self.store.commit()
                raise
            finally:
                self.store.close()
            self._backbone = None
        while self.store.lacking(rows, self.layers):
            wait_for_others(0.5)

    def _fill(self, rows: Sequence[int], lacking: Mapping[int, tuple[int, ...]], *, shown: bool) -> None:
        """Compute the lacking layers of some rows and write them; rows of one grid that lack the same go together."""
        index_of = {row: index for index, row in enumerate(rows)}  # row -> index of an image
        with progress("computing features", len(lacking), shown=shown, transient=True) as advance:
            alike: dict[tuple[tuple[int, ...], Grid], list[int]] = {}
            for row, missing in lacking.items():
                alike.setdefault((missing, self.store.grid(row)), []).append(row)
            batches = [
                (layers, of_kind[first : first + self.batch_size])
                for (layers, _), of_kind in sorted(alike.items())
                for first in range(0, len(of_kind), self.batch_size)
            ]
            loader = ShieldedLoader(
                self.views,
                batch_sampler=[[index_of[row] for row in batch] for _, batch in batches],
                num_workers=self.workers,
                collate_fn=join_views,
            )
            for (layers, batch), views in zip(batches, loader, strict=True):
                states = self._states(views, layers)
                for image, row in enumerate(batch):
                    image_states = {layer: state[image] for layer, state in states.items()}
                    self._check_finite(image_states, index_of[row])
                    self.store.write(row, self.identities[index_of[row]], image_states)
                advance(len(batch))
                Pending().check(f"features are saved in {self.store.folder} as far as they are computed")

    def _check_finite(self, states: Mapping[int, Tensor], index: int) -> None:
        """Raise NotFiniteError if the states of an image at a layer are not finite: they would stay so for all runs."""
        for layer, state in states.items():
            if not state.isfinite().all():
                name = [images.name(i) for images in self.images for i in range(len(images))][index]
                raise NotFiniteError("hidden states of the backbone", layer=layer, sample=f"image {name}")

    def _states(self, views: Views, layers: Sequence[int]) -> dict[int, Tensor]:
        assert self._backbone is not None, "the backbone was freed"
        (features,) = trunk_features(
            self._backbone, move_data_to_device(views, self._backbone.device), layers
        )
        return features.states
