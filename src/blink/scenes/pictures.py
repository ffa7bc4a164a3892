"""Scenes as plain pictures, for training TokenSR."""

from collections.abc import Sequence
from typing import overload

from PIL import Image

from blink.scenes.draw import SPLITS, scene

SPLIT_SIZE = 1_000_000
"""Pictures of a split for every use: asked about, or trained on. Held-out ones of training are numbered from here on."""


class SceneImages(Sequence[Image.Image]):
    """Pictures ``start`` to ``start + count - 1`` of a split, RGB 192 x 192, drawn when asked for.

    Raises:
        ValueError: for an unknown split, or a negative count or start.
    """

    def __init__(self, split: str, count: int, start: int = 0) -> None:
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}; expected one of {', '.join(SPLITS)}")
        if count < 0 or start < 0:
            raise ValueError(f"count {count} and start {start} must not be negative")
        self.split, self.length, self.start = split, count, start

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...

    @overload
    def __getitem__(self, index: slice) -> list[Image.Image]: ...

    def __getitem__(self, index: int | slice) -> Image.Image | list[Image.Image]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.length))]
        if not -self.length <= index < self.length:
            raise IndexError(f"picture {index} of {self.length}")
        return scene(self.split, self.start + index % self.length).draw()
