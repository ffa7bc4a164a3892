"""What a picture of a scene shows: the whole, or one zoomed quadrant.

Cropping cuts objects. One of which most is left counts as present, one of which nothing is left as absent; what
lies between is *doubtful*, and no question may depend on it.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from blink.scenes.draw import SIZE, Scene

PRESENT = 0.6
"""Least visible share of an object's area for it to count as present."""

ABSENT = 0.02
"""Largest visible share of an object's area for it to count as absent."""


@dataclass(frozen=True)
class Seen:
    """An object as a view shows it: kind, centre in [0, 1] of the view's side, box in pixels of the view's image."""

    colour: str
    shape: str
    x: float
    y: float
    box: tuple[float, float, float, float]

    @property
    def kind(self) -> tuple[str, str]:
        return self.colour, self.shape


@dataclass(frozen=True)
class View:
    """A picture with the objects that are surely in it, and the kinds whose presence is doubtful.

    ``owners_YX`` is uint8 and holds, per pixel, 0 for background or 1 + the index into ``Scene.objects``.
    """

    image: Image.Image
    objects: tuple[Seen, ...]
    doubtful: frozenset[tuple[str, str]]
    owners_YX: np.ndarray
    corner: tuple[int, int]
    side: int


def view(scene: Scene, quadrant: int | None = None) -> View:
    """The whole picture, or quadrant 0-3 in row-major order (96 x 96 pixels of the 192 x 192).

    Raises:
        ValueError: if ``quadrant`` is not None or 0-3.
    """
    if quadrant not in (None, 0, 1, 2, 3):
        raise ValueError(f"quadrant is {quadrant!r}; expected None or 0-3")
    side = SIZE if quadrant is None else SIZE // 2
    left, top = (0, 0) if quadrant is None else ((quadrant % 2) * side, (quadrant // 2) * side)
    whole_YX = scene.draw_owners()
    owners_YX = whole_YX[top : top + side, left : left + side]
    area = np.bincount(whole_YX.ravel(), minlength=len(scene.objects) + 1)
    visible = np.bincount(owners_YX.ravel(), minlength=len(scene.objects) + 1)
    objects, doubtful = [], set()
    for number, item in enumerate(scene.objects, start=1):
        share = visible[number] / max(1, area[number])
        if share >= PRESENT:
            x0, y0, x1, y1 = item.box
            box = (max(0, x0 - left), max(0, y0 - top), min(side, x1 - left), min(side, y1 - top))
            centre_x, centre_y = (box[0] + box[2]) / 2 / side, (box[1] + box[3]) / 2 / side
            objects.append(Seen(item.colour, item.shape, centre_x, centre_y, box))
        elif share > ABSENT:
            doubtful.add(item.kind)
    image = scene.draw().crop((left, top, left + side, top + side))
    return View(image, tuple(objects), frozenset(doubtful), owners_YX, (left, top), side)
