"""Training batches for the tiny backbone, each a function of (stage, step): nothing to store, exact to resume.

Legend: B pictures, C = 3, Y X pixels, V visual tokens (144), S tokens of the packed sequence.
"""

import random
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from blink.model.prompts import IMAGE_TOKEN
from blink.scenes.ask import ask
from blink.scenes.draw import COLOURS, SHAPES, Scene, scene
from blink.scenes.formats import random_exchange
from blink.scenes.tiny.model import IMAGE_SIZE, PATCH, TEMPLATE
from blink.scenes.view import View, view

GRID = IMAGE_SIZE // PATCH
COLOUR_NUMBER = {colour: number for number, colour in enumerate(COLOURS, start=1)}
SHAPE_NUMBER = {shape: number for number, shape in enumerate(SHAPES, start=1)}

ZOOMED = 0.3
"""Share of training pictures that are zoomed quadrants: the backbone is TokenSR's teacher on such pictures."""

OWNED = 0.12
"""A patch belongs to the object that covers most of it, if that is at least this share of the patch."""


def pixels(image: Image.Image) -> torch.Tensor:
    """float32 [C, Y, X], exactly what the tiny processor gives for a square picture, without its overhead."""
    small = (
        image
        if image.size == (IMAGE_SIZE, IMAGE_SIZE)
        else image.resize((IMAGE_SIZE,) * 2, Image.Resampling.BICUBIC)
    )
    values_YXC = (np.asarray(small, np.float32) / 255 - OPENAI_CLIP_MEAN) / np.array(
        OPENAI_CLIP_STD, np.float32
    )
    return torch.from_numpy(values_YXC.transpose(2, 0, 1).astype(np.float32))


def training_view(drawn: Scene, rng: random.Random) -> View:
    """The whole picture, or (``ZOOMED``) a quadrant, mostly one that shows something."""
    if rng.random() >= ZOOMED:
        return view(drawn)
    quadrants = [view(drawn, q) for q in range(4)]
    return rng.choices(quadrants, [len(q.objects) + 0.1 for q in quadrants])[0]


class PatchBatch(NamedTuple):
    """Pictures with what each patch shows.

    ``colour_BV`` and ``shape_BV``: 0 for background, else 1 + the index. ``centre_BV2``: centre (x, y) of the
    patch's object in [0, 1]. ``is_centre_BV``: 1.0 where the object's centre falls into the patch.
    """

    pixels_BCYX: torch.Tensor
    colour_BV: torch.Tensor
    shape_BV: torch.Tensor
    centre_BV2: torch.Tensor
    is_centre_BV: torch.Tensor


def _cells(seen: View) -> np.ndarray:
    """Owners of each patch's pixels, uint8 [V, pixels of a patch]."""
    cell = seen.side // GRID
    return seen.owners_YX.reshape(GRID, cell, GRID, cell).transpose(0, 2, 1, 3).reshape(GRID**2, -1)


def _patch_labels(drawn: Scene, seen: View) -> tuple[np.ndarray, ...]:
    owners = _cells(seen)
    colour, shape = np.zeros(GRID * GRID, np.int64), np.zeros(GRID * GRID, np.int64)
    centre, is_centre = np.zeros((GRID * GRID, 2), np.float32), np.zeros(GRID * GRID, np.float32)
    cover = np.stack([(owners == number + 1).mean(1) for number in range(len(drawn.objects))])
    best = cover.argmax(0)
    left, top = seen.corner
    for number, item in enumerate(drawn.objects):
        owned = (best == number) & (cover[number] >= OWNED)
        colour[owned], shape[owned] = COLOUR_NUMBER[item.colour], SHAPE_NUMBER[item.shape]
        x, y = (item.x - left) / seen.side, (item.y - top) / seen.side
        centre[owned] = min(max(x, 0), 1), min(max(y, 0), 1)
        if 0 <= x < 1 and 0 <= y < 1:
            is_centre[int(y * GRID) * GRID + int(x * GRID)] = 1
    return colour, shape, centre, is_centre


class PatchLessons(Dataset[PatchBatch]):
    """Batch number ``step`` of dense labels, for the vision tower and the projector."""

    def __init__(self, stage: str, batch: int, steps: int) -> None:
        self.stage, self.batch, self.steps = stage, batch, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> PatchBatch:
        rng = random.Random(f"blink/lessons/{self.stage}/{step}")
        pictures, labels = [], []
        for _ in range(self.batch):
            drawn = scene("backbone", rng.randrange(2**40))
            seen = training_view(drawn, rng)
            pictures.append(pixels(seen.image))
            labels.append(_patch_labels(drawn, seen))
        stacked = (torch.from_numpy(np.stack(column)) for column in zip(*labels, strict=True))
        return PatchBatch(torch.stack(pictures), *stacked)


class QuestionBatch(NamedTuple):
    """Pictures, each followed by Q questions of T tokens that do not see each other: S = prefix + Q x T.

    Every question takes the positions that follow the prefix. ``kept_BK`` holds the visual tokens that the row
    keeps, ascending; their positions are those of the whole grid. ``targets_BS`` is the next token at response
    tokens, else -100.
    """

    pixels_BCYX: torch.Tensor
    kept_BK: torch.Tensor
    ids_BS: torch.Tensor
    positions_BS: torch.Tensor
    targets_BS: torch.Tensor
    prefix_length: int
    question_length: int


@dataclass(frozen=True)
class Course:
    """The mixture of questions in a training stage.

    Attributes:
        kinds: weight per question kind.
        difficulties: weight per difficulty.
        long: share of batches with long texts.
        kept: visual tokens kept per picture; fewer than the grid's leave out background, which is cheaper.
    """

    kinds: dict[str, float]
    difficulties: dict[str, float]
    long: float = 0.3
    kept: int = GRID**2


SHORT_TEXT, LONG_TEXT = 24, 56
"""Tokens of a question with its response, in the two shapes of batch; a question longer than both is not asked."""

TEXT_BUDGET = 392
"""Text tokens behind one picture: 16 short questions or 7 long ones."""


class QuestionLessons(Dataset[QuestionBatch]):
    """Batch number ``step``: packed questions about ``batch`` pictures."""

    def __init__(
        self, stage: str, course: Course, tokenizer: PreTrainedTokenizerFast, batch: int, steps: int
    ) -> None:
        self.stage, self.course, self.tokenizer = stage, course, tokenizer
        self.batch, self.steps = batch, steps
        self.system = tokenizer(TEMPLATE.prefix).input_ids
        self.prefix = [*self.system, *[tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)] * course.kept]

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> QuestionBatch:
        rng = random.Random(f"blink/lessons/{self.stage}/{step}")
        lengths = (SHORT_TEXT, LONG_TEXT) if rng.random() < self.course.long else (0, SHORT_TEXT)
        rows = [self._row(rng, *lengths) for _ in range(self.batch)]
        pictures, kept, ids, targets = zip(*rows, strict=True)
        (_, length), system, text = lengths, len(self.system), len(self.system) + GRID**2
        after = list(range(text, text + length)) * (TEXT_BUDGET // length)
        positions = [[*range(system), *(system + token for token in row), *after] for row in kept]
        return QuestionBatch(
            torch.stack(pictures),
            torch.tensor(kept),
            torch.tensor(ids),
            torch.tensor(positions),
            torch.tensor(targets),
            len(self.prefix),
            length,
        )

    def _row(
        self, rng: random.Random, longer_than: int, length: int
    ) -> tuple[torch.Tensor, list[int], list[int], list[int]]:
        drawn = scene("backbone", rng.randrange(2**40), _draw(self.course.difficulties, rng))
        seen = training_view(drawn, rng)
        hint = f"There are {len(seen.objects)} objects in the image."
        ids, targets = list(self.prefix), [-100] * len(self.prefix)
        end = len(self.prefix) + TEXT_BUDGET // length * length
        for _ in range(12 * TEXT_BUDGET // length):
            question = ask(seen, _draw(self.course.kinds, rng), rng)
            if question is None:
                continue
            text, response = random_exchange(question, rng, hint)
            after_image = TEMPLATE.prompt(text).removeprefix(TEMPLATE.prefix + IMAGE_TOKEN)
            question_ids = self.tokenizer(after_image, add_special_tokens=False).input_ids
            response_ids = self.tokenizer(response, add_special_tokens=False).input_ids
            spare = length - len(question_ids) - len(response_ids)
            if spare < 0 or length - spare <= longer_than:
                continue
            ids += [*question_ids, *response_ids, *[self.tokenizer.pad_token_id] * spare]
            targets += (
                [-100] * (len(question_ids) - 1)
                + [*response_ids, self.tokenizer.eos_token_id]
                + [-100] * spare
            )
            if len(ids) == end:
                break
        missing = end - len(ids)
        return (
            pixels(seen.image),
            _kept_tokens(seen, self.course.kept, rng),
            ids + [self.tokenizer.pad_token_id] * missing,
            targets + [-100] * missing,
        )


def _kept_tokens(seen: View, count: int, rng: random.Random) -> list[int]:
    """``count`` visual tokens: those that show an object first, then background at random; ascending."""
    shown = _cells(seen).max(1) > 0
    order = sorted(range(GRID**2), key=lambda token: (not shown[token], rng.random()))
    return sorted(order[:count])


def _draw(weights: dict[str, float], rng: random.Random) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]
