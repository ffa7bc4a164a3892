"""Pictures of small coloured shapes, drawn from a seed.

A scene is a list of objects on a plain background, 192 x 192 pixels. A model that sees 96 x 96 loses detail that
a zoomed quadrant still has, as with photographs. Objects of one scene come mostly from one *theme*, a few colours
times a few shapes: kinds of one theme co-occur, which is what POPE's adversarial questions need. This file knows
nothing of questions, tokens or models.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import overload

import numpy as np
from PIL import Image, ImageDraw

from blink.runs.values import UserError

SIZE = 192
"""Side of a drawn picture in pixels."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (242, 138, 26),
    "yellow": (240, 220, 50),
    "green": (48, 165, 70),
    "blue": (48, 90, 220),
    "purple": (150, 60, 190),
    "white": (246, 246, 246),
    "black": (22, 22, 22),
}
SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross", "ring", "hexagon")
KINDS = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)

SPLITS = ("backbone", "token_sr", "validation", "test")
"""Seeds for training the backbone, training TokenSR, choosing thresholds, and testing: never mixed."""

SPLIT_SIZE = 1_000_000
"""Pictures of a split for every use: asked about, or trained on. Held-out ones of training are numbered from here on."""

LOOK_ALIKES = {
    "red": "orange",
    "orange": "yellow",
    "yellow": "white",
    "green": "blue",
    "blue": "purple",
    "purple": "red",
    "white": "yellow",
    "black": "purple",
    "circle": "hexagon",
    "square": "hexagon",
    "triangle": "diamond",
    "diamond": "square",
    "star": "cross",
    "cross": "star",
    "ring": "circle",
    "hexagon": "circle",
}


@dataclass(frozen=True)
class Difficulty:
    """How a kind of scene is drawn: object count and radius (pixels) as inclusive ranges, colour noise, look-alikes."""

    name: str
    objects: tuple[int, int]
    radius: tuple[float, float]
    colour_noise: int
    look_alike: float
    share: float


DIFFICULTIES = (
    Difficulty("easy", (3, 4), (15, 23), colour_noise=8, look_alike=0.0, share=0.25),
    Difficulty("ordinary", (3, 6), (12, 20), colour_noise=12, look_alike=0.1, share=0.45),
    Difficulty("hard", (5, 9), (7, 11), colour_noise=20, look_alike=0.35, share=0.30),
)


@dataclass(frozen=True)
class SceneObject:
    """One drawn object: its kind, centre and radius in pixels, rotation in degrees, and the exact RGB used."""

    colour: str
    shape: str
    x: float
    y: float
    radius: float
    angle: float
    rgb: tuple[int, int, int]

    @property
    def kind(self) -> tuple[str, str]:
        return self.colour, self.shape

    @property
    def box(self) -> tuple[float, float, float, float]:
        """(x0, y0, x1, y1) in pixels of the whole picture."""
        return (self.x - self.radius, self.y - self.radius, self.x + self.radius, self.y + self.radius)


@dataclass(frozen=True)
class Theme:
    """Kinds that occur together: some colours times some shapes, and how often a scene has this theme."""

    colours: tuple[str, ...]
    shapes: tuple[str, ...]
    weight: float


@lru_cache(maxsize=1)
def themes() -> tuple[Theme, ...]:
    """Eight themes of 3 colours x 4 shapes; earlier ones are more frequent, so some kinds are popular."""
    rng = random.Random("blink/themes")
    return tuple(
        Theme(tuple(rng.sample(list(COLOURS), 3)), tuple(rng.sample(SHAPES, 4)), weight=1 / (rank + 2))
        for rank in range(8)
    )


@lru_cache(maxsize=1)
def kind_frequency() -> dict[tuple[str, str], float]:
    """Probability of each kind for an object drawn from a theme: POPE's *popular* order."""
    total = sum(theme.weight for theme in themes())
    frequency = dict.fromkeys(KINDS, 0.0)
    for theme in themes():
        for colour in theme.colours:
            for shape in theme.shapes:
                frequency[colour, shape] += theme.weight / total / 12
    return frequency


def co_occurrence(kind: tuple[str, str], present: frozenset[tuple[str, str]]) -> float:
    """How often ``kind`` shares a theme with the present kinds: POPE's *adversarial* order."""
    score = 0.0
    for theme in themes():
        members = {(c, s) for c in theme.colours for s in theme.shapes}
        if kind in members:
            score += theme.weight * len(members & present)
    return score


@dataclass(frozen=True)
class Scene:
    """One picture as data. ``split`` and ``index`` name it; everything else follows from them."""

    split: str
    index: int
    difficulty: str
    objects: tuple[SceneObject, ...]
    background: tuple[int, int, int]

    def draw(self) -> Image.Image:
        """The picture, RGB, 192 x 192."""
        image = Image.new("RGB", (SIZE, SIZE), self.background)
        pen = ImageDraw.Draw(image)
        for item in self.objects:
            _draw_shape(pen, item, item.rgb)
        return image

    def draw_owners(self) -> np.ndarray:
        """uint8 [192, 192]: 0 for background, i + 1 where object i lies (a ring owns its hole)."""
        owners = Image.new("L", (SIZE, SIZE), 0)
        pen = ImageDraw.Draw(owners)
        for number, item in enumerate(self.objects, start=1):
            _draw_shape(pen, item, number, filled_ring=True)
        return np.asarray(owners)


def scene(split: str, index: int, difficulty: str | None = None) -> Scene:
    """The scene number ``index`` of a split; the same on every machine.

    Args:
        difficulty: name of one of ``DIFFICULTIES``; None draws one by their shares.

    Raises:
        ValueError: for an unknown split or difficulty.
    """
    if split not in SPLITS:
        raise UserError(f"split is {split!r}; expected one of {', '.join(SPLITS)}")
    rng = random.Random(f"blink/scenes/{split}/{index}")
    drawn = rng.choices(DIFFICULTIES, [d.share for d in DIFFICULTIES])[0]
    if difficulty is not None:
        named = {d.name: d for d in DIFFICULTIES}
        if difficulty not in named:
            raise UserError(f"difficulty is {difficulty!r}; expected one of {', '.join(named)}")
        drawn = named[difficulty]
    while True:  # a crowded draw that found no room, or one with too few kinds, is drawn again
        objects = _sample_objects(rng, drawn)
        if len({item.kind for item in objects}) >= 3:
            break
    grey = rng.randint(95, 165)
    background = (grey + rng.randint(-12, 12), grey + rng.randint(-12, 12), grey + rng.randint(-12, 12))
    return Scene(split, index, drawn.name, tuple(objects), background)


def scene_name(split: str, index: int, difficulty: str | None = None) -> str:
    """The name of the picture of ``scene(split, index, difficulty)``, by which questions about it belong together."""
    return f"scenes/{split}/{index}" if difficulty is None else f"scenes/{split}/{difficulty}/{index}"


class SceneImages(Sequence[Image.Image]):
    """Pictures ``start`` to ``start + count - 1`` of a split, RGB 192 x 192, drawn when asked for.

    Raises:
        ValueError: for an unknown split, or a negative count or start.
    """

    def __init__(self, split: str, count: int, start: int = 0) -> None:
        if split not in SPLITS:
            raise UserError(f"split is {split!r}; expected one of {', '.join(SPLITS)}")
        if count < 0 or start < 0:
            raise UserError(f"count {count} and start {start} must not be negative")
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


def _sample_objects(rng: random.Random, difficulty: Difficulty) -> list[SceneObject]:
    theme = rng.choices(themes(), [t.weight for t in themes()])[0]
    objects: list[SceneObject] = []
    for _ in range(rng.randint(*difficulty.objects)):
        if objects and rng.random() < difficulty.look_alike:
            colour, shape = rng.choice(objects).kind
            if rng.random() < 0.5:
                colour = LOOK_ALIKES[colour]
            else:
                shape = LOOK_ALIKES[shape]
        elif rng.random() < 0.75:
            colour, shape = rng.choice(theme.colours), rng.choice(theme.shapes)
        else:
            colour, shape = rng.choice(KINDS)
        for _ in range(50):
            radius = rng.uniform(*difficulty.radius)
            x, y = (rng.uniform(radius + 2, SIZE - radius - 2) for _ in range(2))
            if all(math.hypot(x - o.x, y - o.y) > radius + o.radius + 4 for o in objects):
                noise = difficulty.colour_noise
                red, green, blue = (min(255, max(0, c + rng.randint(-noise, noise))) for c in COLOURS[colour])
                angle = rng.uniform(-12, 12)
                objects.append(SceneObject(colour, shape, x, y, radius, angle, (red, green, blue)))
                break
    return objects


def _star(points: int, inner: float) -> list[tuple[float, float]]:
    radii = [1.0, inner] * points
    return [
        (r * math.sin(i * math.pi / points), -r * math.cos(i * math.pi / points)) for i, r in enumerate(radii)
    ]


def _polygon(corners: int, turn: float = 0.0) -> list[tuple[float, float]]:
    steps = [turn + 2 * math.pi * i / corners for i in range(corners)]
    return [(math.sin(a), -math.cos(a)) for a in steps]


_A, _B = 0.36, 0.93
OUTLINES: dict[str, list[tuple[float, float]]] = {
    "square": _polygon(4, math.pi / 4),
    "triangle": _polygon(3),
    "diamond": [(0, -1), (0.62, 0), (0, 1), (-0.62, 0)],
    "star": _star(5, 0.42),
    "hexagon": _polygon(6, math.pi / 6),
    "cross": [
        (-_A, -_B), (_A, -_B), (_A, -_A), (_B, -_A), (_B, _A), (_A, _A),
        (_A, _B), (-_A, _B), (-_A, _A), (-_B, _A), (-_B, -_A), (-_A, -_A),
    ],
}  # fmt: skip


def _draw_shape(
    pen: ImageDraw.ImageDraw, item: SceneObject, fill: int | tuple[int, int, int], filled_ring: bool = False
) -> None:
    x0, y0, x1, y1 = (round(edge) for edge in item.box)
    if item.shape == "ring" and not filled_ring:
        pen.ellipse((x0, y0, x1, y1), outline=fill, width=max(2, round(item.radius * 0.36)))
    elif item.shape in ("circle", "ring"):
        pen.ellipse((x0, y0, x1, y1), fill=fill)
    else:
        cos, sin = math.cos(math.radians(item.angle)), math.sin(math.radians(item.angle))
        points = [
            (
                round(item.x + item.radius * (u * cos - v * sin)),
                round(item.y + item.radius * (u * sin + v * cos)),
            )
            for u, v in OUTLINES[item.shape]
        ]
        pen.polygon(points, fill=fill)
