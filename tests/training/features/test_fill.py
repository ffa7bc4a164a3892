"""Training from features on disk: the batches of the backbone itself, filled in together, continued after a kill."""

import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from PIL import Image

from blink.model.checkpoints import load_backbone, outline
from blink.model.views import ViewMaker, prefix_ids
from blink.training.features.fill import FillFeatures, open_store, report_lacking
from blink.training.features.per_image import ImageFeatures, ImageViews, StoredFeatures
from blink.training.features.states import trunk_features
from blink.training.images import DrawnImages
from blink.training.module import TokenSRTraining
from tests import models

PREFIX = "The human questions. USER: "


class Place:
    """All that filling asks of a trainer and of its module."""

    def __init__(self, rank: int = 0, processes: int = 1) -> None:
        self.global_rank, self.world_size = rank, processes
        self.is_global_zero = rank == 0
        self.device = torch.device("cpu")


class Pictures(list[Image.Image]):
    """Pictures that count how often one is looked at, and break off before number `last`."""

    def __init__(self, count: int, last: int | None = None) -> None:
        super().__init__(models.picture(seed, (48, 48)) for seed in range(count))
        self.seen: list[int] = []
        self.last = last

    def __getitem__(self, index: Any) -> Any:
        if self.last is not None and len(self.seen) >= self.last:
            raise KeyboardInterrupt
        self.seen.append(index)
        return super().__getitem__(index)


def stored(folder: Path, backbone: Path, layers: tuple[int, ...], prefix: str = PREFIX) -> StoredFeatures:
    processor = load_backbone(backbone, num_layers=0).processor
    store = open_store(
        folder,
        outline(backbone),
        processor,
        prefix_ids(processor, prefix),
        dtype=torch.float32,
    )
    return StoredFeatures(store, layers, torch.float32, ViewMaker(processor, prefix, outline(backbone).grid))


def fill(
    features: StoredFeatures, backbone: Path, images: Sequence[DrawnImages], place: Place | None = None
) -> None:
    lacking = report_lacking(features, images)
    loaded = load_backbone(backbone, num_layers=max(lacking))
    views = ViewMaker(loaded.processor, PREFIX, loaded.grid)
    filling = FillFeatures(features, loaded, images, views, batch_size=2, workers=0)
    where: Any = place or Place()
    filling.on_fit_start(where, where)


def test_batches_equal_those_of_the_backbone(llava_folder: Path, tmp_path: Path) -> None:
    """Would catch features of another picture, view, layer or order, or other than rounded to bfloat16.

    Layer 1 is there first, for some pictures; then 1 and 3 are wanted for more of them.
    """
    train, held_out = DrawnImages(Pictures(5), "drawn"), DrawnImages(Pictures(2), "drawn", 90)
    few = DrawnImages(Pictures(3), "drawn")
    fill(stored(tmp_path / "f", llava_folder, (1,)), llava_folder, [few, held_out])
    features = stored(tmp_path / "f", llava_folder, (1, 3))
    fill(features, llava_folder, [train, held_out])
    assert report_lacking(features, [train, held_out]) == ()

    loaded = load_backbone(llava_folder, num_layers=3)
    computing = TokenSRTraining(loaded, [1, 3])
    reading = TokenSRTraining(outline(llava_folder), [1, 3])
    reading.setup("fit")
    for images in (train, held_out):
        views = ImageViews(images, ViewMaker(loaded.processor, PREFIX, loaded.grid))
        read = ImageFeatures(images, features)
        batch = [len(images) - 1, 0]
        (computed,) = computing.quadrant_features(views.join([views[i] for i in batch]))
        (got,) = reading.quadrant_features(read.join([read[i] for i in batch]))
        for layer in (1, 3):
            for mine, theirs in zip(got[layer], computed[layer], strict=True):
                for one, other in zip(mine, theirs, strict=True):
                    torch.testing.assert_close(one, other, rtol=2**-7, atol=2**-7)
            rounded = computed[layer].teacher_NdHW.bfloat16().float()
            assert (got[layer].teacher_NdHW == rounded).float().mean() > 0.99  # but for another order of sums


def test_rows_of_several_grids(tmp_path: Path) -> None:
    """Would catch a row that holds another picture's states, where their grids differ."""
    backbone = models.save(models.family("qwen3_vl", layers=3), tmp_path / "qwen")
    processor = load_backbone(backbone, num_layers=0).processor
    prefix = models.prompt(0, processor=processor).partition(processor.image_token)[0]
    sizes = [(60, 60), (120, 44), (60, 60), (56, 88)]
    images = DrawnImages([models.picture(seed, size) for seed, size in enumerate(sizes)], "drawn")
    features = stored(tmp_path / "f", backbone, (0, 2), prefix)
    assert report_lacking(features, [images]) == (0, 2)
    loaded = load_backbone(backbone, num_layers=2)
    make = ViewMaker(processor, prefix)
    where: Any = Place()
    FillFeatures(features, loaded, [images], make, batch_size=2, workers=0).on_fit_start(where, where)
    read = ImageFeatures(images, features)
    for index in range(len(images)):
        (want,) = trunk_features(loaded, make(images.read(index)), (0, 2))
        for layer, state in read[index].states.items():
            torch.testing.assert_close(state, want.states[layer][0], rtol=2**-7, atol=2**-7)
    assert [len(of_grid.states[0]) for of_grid in read.join([read[index] for index in range(4)])] == [2, 1, 1]


def test_a_killed_fill_continues(llava_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a fill that begins anew, and rows of a batch that was cut short."""
    monkeypatch.setattr("blink.training.features.store.COMMIT_BYTES", 1)  # each row is committed by itself
    features = stored(tmp_path / "f", llava_folder, (2,))
    with pytest.raises(KeyboardInterrupt):
        fill(features, llava_folder, [DrawnImages(Pictures(6, last=5), "drawn")])
    again = stored(tmp_path / "f", llava_folder, (2,))
    pictures = Pictures(6)
    fill(again, llava_folder, [DrawnImages(pictures, "drawn")])
    assert pictures.seen == [4, 5]
    whole = stored(tmp_path / "whole", llava_folder, (2,))
    fill(whole, llava_folder, [DrawnImages(Pictures(6), "drawn")])
    for row in range(6):
        assert torch.equal(
            again.store.read(row, (2,), torch.bfloat16)[2], whole.store.read(row, (2,), torch.bfloat16)[2]
        )


def test_processes_share_the_rows_out(llava_folder: Path, tmp_path: Path) -> None:
    """Would catch processes that all compute everything, and one that goes on before the others are done."""
    pictures = [Pictures(7), Pictures(7)]

    def work(rank: int) -> dict[int, tuple[int, ...]]:
        features = stored(tmp_path / "f", llava_folder, (1, 2))
        images = DrawnImages(pictures[rank], "drawn")
        fill(features, llava_folder, [images], Place(rank, 2))
        return features.store.lacking(range(7), (1, 2))

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, (0, 1))) == [{}, {}]
    assert sorted(pictures[0].seen + pictures[1].seen) == list(range(7))


def test_a_process_that_comes_late_computes_its_whole_share(llava_folder: Path, tmp_path: Path) -> None:
    """Would catch shares that depend on what is lacking when a process begins: rows that nobody computes, for which all wait."""

    def work(rank: int) -> None:
        images = DrawnImages(Pictures(7), "drawn")
        fill(stored(tmp_path / "f", llava_folder, (1, 2)), llava_folder, [images], Place(rank, 2))

    seen = stored(tmp_path / "f", llava_folder, (1, 2))
    report_lacking(seen, [DrawnImages(Pictures(7), "drawn")])
    processes = [Thread(target=work, args=(rank,), daemon=True) for rank in range(2)]
    processes[0].start()
    deadline = time.monotonic() + 60
    while len(seen.store.lacking(range(7), (1, 2))) > 3:
        assert time.monotonic() < deadline, "the first process computes nothing"
        time.sleep(0.02)
    processes[1].start()
    for process in processes:
        process.join(60)
    assert not any(process.is_alive() for process in processes)
    assert seen.store.lacking(range(7), (1, 2)) == {}


def test_a_store_belongs_to_what_it_follows_from(llava_folder: Path, tmp_path: Path) -> None:
    """Would catch stale features after another training of a backbone, and a moved copy that is refused."""
    folder = stored(tmp_path / "f", llava_folder, (1,)).store.folder
    moved = tmp_path / "moved"
    shutil.copytree(llava_folder, moved)
    stored(folder, moved, (2,))
    with pytest.raises(ValueError, match=r"not this run's \(prefix_ids: \[1, .* there, \[1.* now\)"):
        stored(folder, llava_folder, (1,), "USER: ")
    other = models.save(models.llava(grid=6, layers=4, hidden=32, seed=1), tmp_path / "other")
    with pytest.raises(ValueError, match=r"not this run's \(weights: \w+ there, \w+ now\)"):
        stored(folder, other, (1,))
