"""In which order and shares images are trained on, how far a run has come in it, and whether a checkpoint's place means something to it."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from blink.model.views import QUADRANTS
from blink.runs.parallel.ahead import ShieldedLoader
from blink.runs.values import UserError
from blink.training.answers.lessons import ImageLessons
from blink.training.features.per_image import ImageFeatures, ImageViews


def images_per_batch(global_pairs: int, processes: int, accumulate: int = 1) -> int:
    """Return how many images each process takes per batch, so that an optimizer step sees `global_pairs` pairs.

    Args:
        global_pairs: (full view, quadrant) pairs per optimizer step over all processes.
        accumulate: batches per optimizer step.

    Raises:
        ValueError: the pairs are no whole number of images for each process and batch.
    """
    share = QUADRANTS * processes * accumulate
    if global_pairs < 1 or global_pairs % share:
        raise UserError(
            f"global_pairs={global_pairs} cannot be shared out: {processes} process(es) x {accumulate} batch(es) "
            f"per step x {QUADRANTS} quadrants per image need a multiple of {share}"
        )
    return global_pairs // share


def batches_per_step(
    global_pairs: int, processes: int, device_pairs: int | None, given: int | None = None
) -> int:
    """Return how many batches of each process make an optimizer step, so that it sees `global_pairs` pairs.

    Args:
        global_pairs: (full view, quadrant) pairs per optimizer step over all processes.
        device_pairs: that a process takes at once at most; None: all of its share.
        given: what the user wants; None: as few as `device_pairs` allows.

    Raises:
        ValueError: the pairs cannot be shared out so.
    """
    if given is None:
        share = images_per_batch(global_pairs, processes)
        most = share if device_pairs is None else device_pairs // QUADRANTS
        return next(
            batches for batches in range(1, share + 1) if not share % batches and share // batches <= most
        )
    pairs = images_per_batch(global_pairs, processes, given) * QUADRANTS
    if device_pairs is not None and pairs > device_pairs:
        raise UserError(
            f"trainer.accumulate_grad_batches={given} puts {pairs} of global_pairs={global_pairs} on each of {processes} "
            f"device(s) at once, and device_pairs={device_pairs} allows fewer; leave one of the two out"
        )
    return given


def steps_per_epoch(images: int, global_pairs: int) -> int:
    """Return the optimizer steps of one pass over the images; an incomplete last step is left out.

    Raises:
        ValueError: there are fewer images than one step takes.
    """
    steps = images * QUADRANTS // global_pairs
    if not steps:
        raise UserError(
            f"{images} training image(s), but one optimizer step takes {global_pairs // QUADRANTS} "
            f"(global_pairs={global_pairs}): give more images or fewer pairs"
        )
    return steps


class TrainingOrder(Sampler[list[int]]):
    """Batches of image numbers for one process, over all epochs, from a given position on.

    Each epoch is a permutation of the images drawn from (seed, epoch), cut into global batches; an incomplete
    last one is dropped. However many processes and accumulated batches share a global batch, it holds the same
    images.

    Args:
        images: how many there are.
        global_pairs: pairs per optimizer step over all processes.
        accumulate: batches per optimizer step.
        position: batches to skip; the loader counts on from it.

    Raises:
        ValueError: the pairs cannot be shared out, or there are fewer images than one optimizer step takes.
    """

    def __init__(
        self,
        images: int,
        global_pairs: int,
        *,
        epochs: int = 1,
        accumulate: int = 1,
        processes: int = 1,
        rank: int = 0,
        seed: int = 0,
        position: int = 0,
    ) -> None:
        self.images, self.epochs, self.seed = images, epochs, seed
        self.processes, self.rank = processes, rank
        self.batch_size = images_per_batch(global_pairs, processes, accumulate)
        self.per_epoch = steps_per_epoch(images, global_pairs) * accumulate
        self.position = position
        self._shuffled_epoch, self._order = -1, np.arange(0)

    def __len__(self) -> int:
        """Batches in all, the skipped ones included."""
        return self.epochs * self.per_epoch

    def __iter__(self) -> Iterator[list[int]]:
        for position in range(self.position, len(self)):
            yield self.batch(position)

    def batch(self, position: int) -> list[int]:
        """Return the image numbers of the batch at a position."""
        epoch, batch = divmod(position, self.per_epoch)
        if epoch != self._shuffled_epoch:
            self._shuffled_epoch = epoch
            self._order = np.random.default_rng([self.seed, epoch]).permutation(self.images)
        start = (batch * self.processes + self.rank) * self.batch_size
        numbers: list[int] = self._order[start : start + self.batch_size].tolist()
        return numbers


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


def check_position(state: Mapping[str, Any], images: str, seed: int) -> None:
    """Check that a checkpoint's position in the data means something to a run.

    Args:
        state: what `PairData.state_dict` gave.
        images: fingerprint of the run's training images.

    Raises:
        UserError: its run had other images or another seed, and so another order.
    """
    here = {"images": images, "seed": seed}  # however many batches make a step
    there = {key: state.get(key) for key in here}
    if there != here:
        raise UserError(
            f"the checkpoint belongs to other training images or another seed ({there} there, {here} here); "
            "ckpt=last, with fresh=true if the run has begun, starts without it"
        )
