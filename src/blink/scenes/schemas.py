"""Scenes as data sets: plain pictures for training TokenSR, and benchmark rows in their official schemas."""

import random
from collections.abc import Iterator, Sequence
from typing import Any, overload

from PIL import Image

from blink.scenes.ask import absent_kinds, existence, present_kinds
from blink.scenes.draw import SPLITS, scene
from blink.scenes.view import view

POPE_CATEGORIES = ("adversarial", "popular", "random")
QUESTIONS_PER_CATEGORY = 6


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


def pope_rows(split: str, images: int, start: int = 0) -> Iterator[dict[str, Any]]:
    """POPE on scenes, in the columns of its hub edition, 18 questions a picture: 3 present and 3 absent kinds for
    each category, present kinds the same in all three, absent ones chosen at random, among the popular ones, or
    among those that co-occur with what is there (``ask.absent_kinds``).

    Beside POPE's columns (``id``, ``question_id``, ``question``, ``answer`` yes/no, ``image_source``, ``image``,
    ``category``) a row has ``box`` (pixels of the object asked about, or None) and ``difficulty``.

    Raises:
        ValueError: for an unknown split.
    """
    for index in range(start, start + images):
        drawn = scene(split, index)
        seen = view(drawn)
        rng = random.Random(f"blink/pope/{split}/{index}")
        present = rng.sample(present_kinds(seen), 3)
        for category in POPE_CATEGORIES:
            absent = absent_kinds(seen, category, rng, 3)
            asked = [kind for pair in zip(present, absent, strict=True) for kind in pair]
            for number, kind in enumerate(asked, start=1):
                question = existence(seen, kind, category)
                yield {
                    "id": f"{category}-{index}-{number}",
                    "question_id": str((index - start) * QUESTIONS_PER_CATEGORY + number),
                    "question": question.text,
                    "answer": question.answer.lower(),
                    "image_source": f"scenes/{split}/{index}",
                    "image": seen.image,
                    "category": category,
                    "box": question.box,
                    "difficulty": drawn.difficulty,
                }
