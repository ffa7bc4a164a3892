"""Pairs of a full view and a quadrant, batched for training: the LightningDataModule.

A batch holds whole images, each with its four quadrants, so that the full view's trunk is computed once; or, where
features of them are on disk, those. The order of images follows from the seed and the position alone; the position is
in the checkpoint.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple

import torch
from lightning import LightningDataModule
from torch.utils.data import Dataset

from blink.model.views import ViewMaker, Views, join_views
from blink.runs.parallel.ahead import ShieldedLoader
from blink.training.answers.lessons import ImageLessons, LessonMaker
from blink.training.answers.questions import Asked
from blink.training.feature_store import FeatureStore
from blink.training.features import Features, stack_features
from blink.training.images import Images
from blink.training.order import TrainingOrder, check_position, images_per_batch


class ImageViews(Dataset[Views]):
    """The views of each image of a collection."""

    join = staticmethod(join_views)
    """Makes a batch of some."""

    def __init__(self, images: Images, views: ViewMaker) -> None:
        self.images = images
        self.views = views

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Views:
        return self.views(self.images.read(index))


class StoredFeatures(NamedTuple):
    """Where features are read from instead of being computed.

    Attributes:
        store: the folder.
        layers: that are read.
        dtype: that they are converted to.
        views: tells the grids of pictures by their size, where these differ.
    """

    store: FeatureStore
    layers: tuple[int, ...]
    dtype: torch.dtype
    views: ViewMaker

    def rows(self, images: Images) -> list[int]:
        """The store's rows of all images of a collection."""
        numbers = range(len(images))
        grids = None
        if self.store.shape[1] is None:
            grids = [self.views.grid(images.size(index)) for index in numbers]
        return self.store.rows([images.identity(index) for index in numbers], grids)


class ImageFeatures(Dataset[Features]):
    """Stored features of each image of a collection; the store must hold a row before it is read."""

    join = staticmethod(stack_features)
    """Makes a batch of some."""

    def __init__(self, images: Images, stored: StoredFeatures) -> None:
        self.stored = stored
        self.rows = stored.rows(images)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Features:
        return Features(self.stored.store.read(self.rows[index], self.stored.layers, self.stored.dtype))


class Questions(NamedTuple):
    """Questions about the images that are trained on and those that are measured on, and what makes prompts of them.

    Attributes:
        seen: whether views of the images that are trained on are needed, too: for the KL.
    """

    train: Asked
    held_out: Asked
    maker: LessonMaker
    seen: bool


class ResumableLoader(ShieldedLoader):
    """A loader whose saved position counts the batches handed out, without those that workers have only prefetched."""

    order: TrainingOrder

    @classmethod
    def over(
        cls, images: ImageViews | ImageFeatures | ImageLessons, order: TrainingOrder, workers: int
    ) -> "ResumableLoader":
        """Load the batches of `order`, with `workers` processes (0: in this one)."""
        loader = cls(
            images,
            batch_sampler=order,
            num_workers=workers,
            collate_fn=images.join,
            pin_memory=torch.cuda.is_available(),
        )
        loader.order = order
        return loader

    def __iter__(self) -> Any:
        for batch in super().__iter__():
            self.order.position += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"position": self.order.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.order.position = state["position"]


class PairData(LightningDataModule):
    """Full views and quadrants of training and held-out images, shared out among the trainer's processes.

    Args:
        train: images to train on.
        held_out: images to measure on.
        views: makes the views of an image.
        stored: where features are read from instead; None makes batches of views.
        questions: about the images; None for the KL alone.
        global_pairs: pairs per optimizer step over all processes (8: two images with their quadrants).
        epochs: passes over the training images; to Lightning they are one long epoch.
        accumulate: batches per optimizer step, as the trainer accumulates.
        workers: processes that read images.
        seed: of the order.
    """

    def __init__(
        self,
        train: Images,
        held_out: Images,
        views: ViewMaker,
        *,
        stored: StoredFeatures | None = None,
        questions: Questions | None = None,
        global_pairs: int = 8,
        epochs: int = 1,
        accumulate: int = 1,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.train, self.held_out, self.views, self.stored = train, held_out, views, stored
        self.questions = questions
        self.global_pairs, self.epochs, self.accumulate = global_pairs, epochs, accumulate
        self.workers, self.seed = workers, seed
        self._position = 0
        self._order: TrainingOrder | None = None

    @property
    def batches(self) -> int:
        """Training batches of this process in all epochs."""
        return len(self._training_order())

    def training_names(self) -> list[str]:
        """Names of the images in the batch that was handed out last."""
        order = self._training_order()
        return [self.train.name(index) for index in order.batch(order.position - 1)]

    def held_out_names(self, batch: int) -> list[str]:
        """Names of the images in a batch of those that are measured on."""
        size = images_per_batch(self.global_pairs, self._processes_and_rank()[0], self.accumulate)
        numbers = self._measured()[batch * size : (batch + 1) * size]
        return [self.held_out.name(index) for index in numbers]

    @property
    def measures_count(self) -> bool:
        """Whether what this process measures counts: false where fewer images are held out than there are processes.

        Such a process measures an image that another one counts. All have to take part where measures are joined, or the
        others would wait for it for ever.
        """
        return self._processes_and_rank()[1] < len(self.held_out)

    def _measured(self) -> range:
        """Numbers of the held-out images that this process measures."""
        processes, rank = self._processes_and_rank()
        return range(rank, len(self.held_out), processes) if self.measures_count else range(1)

    def train_dataloader(self) -> ResumableLoader:
        """Load from the position that the run has reached; loaders that are made and never used do not move it."""
        return ResumableLoader.over(self._train, self._training_order(), self.workers)

    def _training_order(self) -> TrainingOrder:
        if self._order is None:
            processes, rank = self._processes_and_rank()
            self._order = TrainingOrder(
                len(self.train),
                self.global_pairs,
                epochs=self.epochs,
                accumulate=self.accumulate,
                processes=processes,
                rank=rank,
                seed=self.seed,
                position=self._position,
            )
        return self._order

    def val_dataloader(self) -> ShieldedLoader:
        processes, _ = self._processes_and_rank()
        return ShieldedLoader(
            self._held_out,
            batch_size=images_per_batch(self.global_pairs, processes, self.accumulate),
            sampler=self._measured(),
            num_workers=self.workers,
            collate_fn=self._held_out.join,
        )

    def state_dict(self) -> dict[str, Any]:
        position = self._position if self._order is None else self._order.position
        return {
            "position": position,
            "accumulate": self.accumulate,
            "images": self._fingerprint,
            "seed": self.seed,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where the checkpoint's run was.

        Raises:
            ValueError: the training images or the seed are not that run's, so its order means nothing here.
        """
        check_position(state_dict, self._fingerprint, self.seed)
        self._position = self.position_of(state_dict)
        if self._order is not None:  # DeepSpeed restores after the loader was made
            self._order.position = self._position

    def position_of(self, state: Mapping[str, Any]) -> int:
        """A saved position in batches of this run, of which an optimizer step may have more or fewer than it had then."""
        return int(state["position"]) // int(state.get("accumulate", self.accumulate)) * self.accumulate

    @cached_property
    def _fingerprint(self) -> str:
        """Fingerprint of the training images; computed once, since it stats every file and each checkpoint holds it."""
        return self.train.fingerprint

    @cached_property
    def _train(self) -> ImageViews | ImageFeatures | ImageLessons:
        asked = self.questions
        if asked is None:
            return self._of(self.train)
        return ImageLessons(self.train, asked.train, asked.maker, self.views if asked.seen else None)

    @cached_property
    def _held_out(self) -> ImageViews | ImageFeatures | ImageLessons:
        asked = self.questions
        if asked is None:
            return self._of(self.held_out)
        return ImageLessons(self.held_out, asked.held_out, asked.maker, self.views)

    def _of(self, images: Images) -> ImageViews | ImageFeatures:
        return ImageViews(images, self.views) if self.stored is None else ImageFeatures(images, self.stored)

    def _processes_and_rank(self) -> tuple[int, int]:
        if self.trainer is None:
            return 1, 0
        return self.trainer.world_size, self.trainer.global_rank
