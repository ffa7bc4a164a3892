"""Pairs of a full view and a quadrant, batched for training: the LightningDataModule.

A batch holds whole images, each with its four quadrants, so that the full view's trunk is computed once; or, where
features of them are on disk, those. The order of images follows from the seed and the position alone; the position is
in the checkpoint.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple

from lightning import LightningDataModule

from blink.model.views import ViewMaker
from blink.runs.parallel.ahead import ShieldedLoader
from blink.training.answers.lessons import ImageLessons, LessonMaker
from blink.training.answers.questions import Asked
from blink.training.features.per_image import ImageFeatures, ImageViews, StoredFeatures
from blink.training.images import Images
from blink.training.order import ResumableLoader, TrainingOrder, check_position, images_per_batch


class Questions(NamedTuple):
    """Questions about the images that are trained on and those that are measured on, and what makes prompts of them.

    Attributes:
        seen: whether views of the images that are trained on are needed, too: for the KL.
    """

    train: Asked
    held_out: Asked
    maker: LessonMaker
    seen: bool


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
