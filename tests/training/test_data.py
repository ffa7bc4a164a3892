"""Batches for training: sharing out, order, and continuing where a run stopped."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from blink.model.views import ViewMaker, Views
from blink.runs.inputs.pictures import UnreadableImageError
from blink.runs.values import UserError
from blink.training.data import PairData
from blink.training.features.per_image import ImageViews
from blink.training.features.states import Batch
from blink.training.images import DrawnImages
from blink.training.order import ResumableLoader, TrainingOrder, batches_per_step, images_per_batch
from tests import models


@pytest.mark.parametrize(
    ("pairs", "processes", "accumulate", "images"), [(8, 1, 1, 2), (8, 2, 1, 1), (32, 2, 2, 2)]
)
def test_images_per_batch(pairs: int, processes: int, accumulate: int, images: int) -> None:
    """Catches a global batch that grows with the processes or with accumulation."""
    assert images_per_batch(pairs, processes, accumulate) == images


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    """Catches a global batch that is silently rounded."""
    with pytest.raises(ValueError, match="multiple of 12"):
        images_per_batch(8, 3)


@pytest.mark.parametrize(
    ("pairs", "processes", "most", "given", "batches"),
    [
        (8, 1, None, None, 1),
        (8, 1, 4, None, 2),
        (8, 2, 4, None, 1),
        (24, 1, 16, None, 2),  # 6 images: 3 and 3, not 4 and 2
        (20, 1, 16, None, 5),  # 5 images share out into 1 or 5 batches alone
        (32, 2, 7, None, 4),  # less than two images
        (32, 2, None, 2, 2),
        (32, 2, 8, 2, 2),
    ],
)
def test_batches_per_step(
    pairs: int, processes: int, most: int | None, given: int | None, batches: int
) -> None:
    """Catches more pairs at once than a device is to take, unequal batches, and more batches than are needed."""
    assert batches_per_step(pairs, processes, most, given) == batches
    held = pairs // processes // batches
    assert held * processes * batches == pairs
    assert most is None or held <= most


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((8, 3, 4), "global_pairs=8 cannot be shared out: 3 process"),
        ((8, 1, None, 4), "need a multiple of 16"),
        ((32, 1, 8, 2), "puts 16 of global_pairs=32 on each of 1 device.* device_pairs=8 allows fewer"),
    ],
)
def test_steps_that_cannot_be_shared_out(arguments: tuple[int, ...], message: str) -> None:
    """Catches a global batch that is rounded, and a limit that is passed over."""
    with pytest.raises(UserError, match=message):
        batches_per_step(*arguments)


def steps(processes: int, accumulate: int) -> list[set[int]]:
    """The images of each optimizer step, over all processes."""
    orders = [
        list(TrainingOrder(22, 16, epochs=2, accumulate=accumulate, processes=processes, rank=rank, seed=5))
        for rank in range(processes)
    ]
    starts = range(0, len(orders[0]), accumulate)
    return [{i for order in orders for batch in order[at : at + accumulate] for i in batch} for at in starts]


def test_every_way_of_sharing_gives_the_same_steps() -> None:
    """Catches two processes, or accumulation, that train on other images per step than one process."""
    alone = steps(1, 1)
    assert len(alone) == 2 * (22 // 4)
    assert all(len(step) == 4 for step in alone)
    assert steps(2, 1) == steps(1, 2) == steps(2, 2) == alone


def test_each_epoch_is_another_permutation() -> None:
    """Catches epochs in the same order, repeated images, and an order that ignores the seed."""
    order = [image for batch in TrainingOrder(8, 8, epochs=2, seed=0) for image in batch]
    assert sorted(order[:8]) == sorted(order[8:]) == list(range(8))
    assert order[:8] != order[8:]
    assert order != [image for batch in TrainingOrder(8, 8, epochs=2, seed=1) for image in batch]


def test_too_few_images_are_refused() -> None:
    """Catches a run of no steps."""
    with pytest.raises(ValueError, match=r"1 training image.*takes 2"):
        TrainingOrder(1, 8)


def pixels(batch: Batch) -> torch.Tensor:
    assert isinstance(batch, Views)
    return batch.inputs[0]["pixel_values"]


def colours(count: int) -> DrawnImages:
    return DrawnImages([models.picture(seed, (24, 24)) for seed in range(count)], "pictures")


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_continues_after_what_was_handed_out(workers: int) -> None:
    """Catches a position that counts what workers fetched ahead, and skipped or repeated batches after a stop."""
    views = ImageViews(
        colours(10), ViewMaker(models.processor(models.llava(grid=6, layers=1, hidden=32)), "", (6, 6))
    )
    whole = [pixels(batch) for batch in ResumableLoader.over(views, TrainingOrder(10, 8, epochs=2), 0)]
    stopped = ResumableLoader.over(views, TrainingOrder(10, 8, epochs=2), workers)
    handed_out = iter(stopped)
    for _ in range(7):
        next(handed_out)
    assert stopped.state_dict() == {"position": 7}
    continued = ResumableLoader.over(views, TrainingOrder(10, 8, epochs=2), workers)
    continued.load_state_dict(stopped.state_dict())
    assert len(continued) == len(whole) == 10
    rest = [pixels(batch) for batch in continued]
    torch.testing.assert_close(rest, whole[7:], rtol=0, atol=0)


def test_state_of_other_images_is_refused() -> None:
    """Catches a checkpoint continued on another data set, where its position means nothing."""
    views = ViewMaker(models.processor(models.llava(grid=6, layers=1, hidden=32)), "", (6, 6))
    saved = PairData(colours(4), colours(2), views, seed=1).state_dict()
    PairData(colours(4), colours(2), views, seed=1).load_state_dict(saved)
    with pytest.raises(ValueError, match="other training images"):
        PairData(colours(5), colours(2), views, seed=1).load_state_dict(saved)
    with pytest.raises(ValueError, match="another seed"):
        PairData(colours(4), colours(2), views, seed=2).load_state_dict(saved)


def test_files_are_looked_at_once() -> None:
    """Would catch each checkpoint asking the file system for every one of half a million files."""
    looked: list[str] = []

    class Counted(DrawnImages):
        @property
        def fingerprint(self) -> str:
            looked.append(self.series)
            return "some"

    views = ViewMaker(models.processor(models.llava(grid=6, layers=1, hidden=32)), "", (6, 6))
    data = PairData(Counted([models.picture(0)], "counted"), colours(2), views)
    for _ in range(3):
        data.load_state_dict(data.state_dict())
    assert looked == ["counted"]


@pytest.mark.parametrize(
    ("rank", "numbers", "counts"), [(0, [0, 3], True), (1, [1], True), (2, [2], True), (3, [0], False)]
)
def test_every_process_measures(
    rank: int, numbers: list[int], counts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a process without a batch, which skips the measuring while the others wait for it, and images left out."""
    held_out = colours(4 if counts else 3)
    processes = 3 if counts else 4
    maker = ViewMaker(models.processor(models.llava(grid=6, layers=1, hidden=32)), "", (6, 6))
    data = PairData(colours(12), held_out, maker, global_pairs=12 if counts else 16)
    monkeypatch.setattr(data, "trainer", SimpleNamespace(world_size=processes, global_rank=rank))
    batches = list(data.val_dataloader())
    assert [batch.images for batch in batches] == [1] * len(numbers)
    found = torch.cat([pixels(batch)[:1] for batch in batches])
    want = torch.cat([pixels(maker(held_out.read(number)))[:1] for number in numbers])
    assert torch.equal(found, want)
    assert [data.held_out_names(batch) for batch in range(len(numbers))] == [
        [f"drawn image {number}"] for number in numbers
    ]
    assert data.measures_count == counts


def made_views() -> ViewMaker:
    return ViewMaker(models.processor(models.llava(grid=6, layers=1, hidden=32)), "", (6, 6))


class Vanishing(DrawnImages):
    """Images of which the last is not there any more."""

    def read(self, index: int) -> Image.Image:
        if index == len(self) - 1:
            raise UnreadableImageError("c.png: FileNotFoundError: it is gone")
        return super().read(index)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_vanishes_is_named_in_one_line(workers: int) -> None:
    """Would catch the traceback that torch writes into the message of a worker's error."""
    pictures = Vanishing([models.picture(seed, (48, 48)) for seed in range(4)], "pictures")
    loader = ResumableLoader.over(ImageViews(pictures, made_views()), TrainingOrder(4, 8), workers)
    with pytest.raises(UserError) as gone:
        list(loader)
    assert str(gone.value) == "c.png: FileNotFoundError: it is gone"


@pytest.mark.slow
def test_batches_are_named_as_they_are_handed_out() -> None:
    """Would catch the images of another step named where a batch is not finite."""
    train, held_out = colours(8), colours(5)
    data = PairData(train, held_out, made_views(), seed=3)
    expected = [[train.name(index) for index in batch] for batch in TrainingOrder(8, 8, seed=3)]
    assert [data.training_names() for _ in data.train_dataloader()] == expected
    assert [data.held_out_names(batch) for batch in range(3)] == [
        [held_out.name(0), held_out.name(1)],
        [held_out.name(2), held_out.name(3)],
        [held_out.name(4)],
    ]
