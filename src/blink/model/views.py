"""The part of an image that the backbone sees, its four quadrants, and the inputs that a processor makes of them.

Quadrants are cut out of the picture that the backbone sees, at the edges of cells: so quadrants of the picture are
quadrants of the grid of visual tokens. Knows a Hugging Face processor, and no model.

Axes: S columns of a prompt, H x W grid of the base view.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from blink.model.families import Grid
from blink.model.token_sr import Box, check_patches, region_box
from blink.runs.values import UserError

QUADRANTS = 4
VIEWS = 1 + QUADRANTS

PATCHES = 2
"""Quadrants are the regions of a 2 x 2 split."""

_LONGEST = 200
"""Qwen's processors refuse pictures that are longer, in units of their shorter side."""

Inputs = dict[str, Tensor]
"""What a processor makes of prompts that end at their picture: `input_ids` [B, S], and pixels as the model takes them."""


class Views(NamedTuple):
    """Prompts of the full view and the four quadrants of some images, those of one layout together.

    Attributes:
        inputs: of each layout, prompts that have the same ids and pixels of the same shape.
        places: of each layout int64, where its prompts belong: 5 times the image's number, and 0 for its full view, 1
            to 4 for its quadrants in row-major order.
    """

    inputs: tuple[Inputs, ...]
    places: tuple[Tensor, ...]

    @property
    def images(self) -> int:
        """How many images there are."""
        return sum(len(places) for places in self.places) // VIEWS


class ViewMaker:
    """Makes the full view and the quadrants of an image as one processor would.

    What the backbone sees is, for a LLaVA-1.5 processor, the image padded to a square (`do_pad`), or the
    centre that it crops (`do_center_crop`), or the image squashed to a square (neither); for all others the
    base view, which is the whole image, squashed to a square or (Qwen) to a multiple of a visual token, whatever tiles
    come before or after it.

    Args:
        processor: of the backbone.
        prefix: the prompt before the image; only for inputs.
        grid: of every base view; None where it follows from the image's size.
    """

    def __init__(self, processor: Any, prefix: str = "", grid: Grid | None = None) -> None:
        self._processor, self._grid = processor, grid
        self._images = images = processor.image_processor
        self._prompt = prefix + processor.image_token
        self._tiles_last = hasattr(images, "image_grid_pinpoints")
        self._merges = hasattr(images, "merge_size")
        # with these off, tiles are not cut that would come before the base view
        self._uncut = {
            name: False for name in ("crop_to_patches", "do_image_splitting") if hasattr(images, name)
        }
        centred = bool(getattr(images, "do_center_crop", False))
        self._crops = centred and not self._tiles_last
        # elsewhere do_pad fills up batches: with pictures of fewer tiles, or smaller ones
        padded = bool(getattr(images, "do_pad", False)) and hasattr(images, "pad_to_square")
        self._pads = padded and not self._tiles_last
        size: dict[str, Any] = dict(images.size)
        self._shortest: Any = size.get("shortest_edge") or size.get("height")
        target: dict[str, Any] = dict(images.crop_size) if centred else size
        self._height: Any = target.get("height") or target.get("shortest_edge")
        self._width: Any = target.get("width") or target.get("shortest_edge")
        self._ids: dict[Grid, Tensor] = {}

    def __call__(self, image: Image.Image) -> Views:
        """Make the views of an RGB image; pixels are float32, normalised by the processor.

        Raises:
            ValueError: the image is too narrow to have quadrants (`has_quadrants`).
        """
        seen, grid = self.seen(image), self.grid(image.size)
        check_patches(PATCHES, grid, f"a picture of {image.width} x {image.height} pixels: ")
        parts = quadrants(seen, grid)
        if not self._uncut and not self._merges:  # the full view is made as the quadrants are
            inputs = self.uncut([seen, *parts], grid)
            return Views((inputs,), (torch.arange(VIEWS),))
        full, zoomed = self.in_prompt(seen), self.uncut(parts, grid)
        return _joined((full, zoomed), (torch.tensor([0]), torch.arange(1, VIEWS)))

    def seen(self, image: Image.Image) -> Image.Image:
        """The part of `image` that the backbone sees, at the image's own resolution.

        Padded or cropped it is a square; where the processor squashes, the whole image as it is.
        """
        left, top, right, bottom = self.window(image.size)
        if not self._pads:
            return image.crop((left, top, right, bottom))
        mean = tuple(int(channel * 255) for channel in self._images.image_mean)
        square = Image.new("RGB", (right - left, bottom - top), mean)
        square.paste(image, (-left, -top))
        return square

    def window(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Where the part that the backbone sees lies in an image of `size` (width, height), in its pixels.

        Returns:
            left, top, right and bottom; padding reaches outside the image.
        """
        width, height = size
        if self._pads:
            side = max(width, height)
        elif self._crops:
            side = max(1, min(width, height) * self._height // self._shortest)
        else:
            return 0, 0, width, height
        left, top = (width - side) // 2, (height - side) // 2
        if self._pads:  # rounded as LLaVA's padding does
            left, top = -((side - width) // 2), -((side - height) // 2)
        return left, top, left + side, top + side

    def grid(self, size: tuple[int, int]) -> Grid:
        """Rows and columns of the base view of an image of `size` (width, height).

        Raises:
            ValueError: the processor refuses an image as long as this.
        """
        if self._grid is not None:
            return self._grid
        assert self._merges, "the grid of this processor's pictures does not follow from their size: name it"
        width, height = size
        if max(size) > _LONGEST * min(size):
            raise UserError(
                f"a picture of {width} x {height} pixels is more than {_LONGEST} times as long as wide"
            )
        cell, limits = self._cell, dict(self._images.size)
        rows, columns = smart_resize(height, width, cell, limits["shortest_edge"], limits["longest_edge"])
        return rows // cell, columns // cell

    def has_quadrants(self, size: tuple[int, int]) -> bool:
        """Whether the base view of an image of `size` (width, height) has at least two rows and two columns."""
        too_long = self._grid is None and max(size) > _LONGEST * min(size)
        return not too_long and min(self.grid(size)) >= PATCHES

    def in_prompt(self, picture: Image.Image) -> Inputs:
        """A prompt that ends at a picture, just as the processor makes it of a user's picture: [1, S].

        Where tiles come before the base view, they are there.
        """
        made = self._processor(images=[[picture]], text=[self._prompt], return_tensors="pt")
        return self._kept(made["input_ids"], made)

    def uncut(self, pictures: Sequence[Image.Image], grid: Grid) -> Inputs:
        """Prompts that end at a picture that is seen whole, as one base view of this grid and without tiles: [B, S].

        Args:
            pictures: squashed to the base view's shape, whatever their own.
        """
        if self._merges:
            size = grid[1] * self._cell, grid[0] * self._cell
            pictures = [picture.resize(size, self._images.resample) for picture in pictures]
            settings: dict[str, Any] = {"do_resize": False}
        elif self._tiles_last:  # one tile is the least that this processor makes
            settings = {"image_grid_pinpoints": [[self._height, self._width]]}
        elif self._uncut:
            settings = self._uncut
        else:
            settings = {"size": {"height": self._height, "width": self._width}, "do_resize": True}
            settings |= {name: False for name in ("do_center_crop", "do_pad") if hasattr(self._images, name)}
        nested = [[picture] for picture in pictures]
        made = dict(self._images(nested, return_tensors="pt", **settings))
        if self._tiles_last:
            made = {"pixel_values": made["pixel_values"][:, 0]}
        if grid not in self._ids:
            self._ids[grid] = self._uncut_ids(nested[:1], grid, settings)
        return self._kept(self._ids[grid].expand(len(pictures), -1), made)

    @property
    def _cell(self) -> int:
        """Pixels per side of a visual token, where patches are merged."""
        cell: int = self._images.patch_size * self._images.merge_size
        return cell

    def _uncut_ids(self, nested: list[list[Image.Image]], grid: Grid, settings: Mapping[str, Any]) -> Tensor:
        """Ids [1, S] of a prompt that ends at one base view."""
        if self._tiles_last:
            before = _ids_to_image(self._processor, self._prompt)
            return torch.tensor([before[:-1] + before[-1:] * (grid[0] * grid[1])])
        made = self._processor(images=nested, text=[self._prompt], return_tensors="pt", **settings)
        ids: Tensor = made["input_ids"]
        return ids

    def _kept(self, ids_BS: Tensor, made: Mapping[str, Any]) -> Inputs:
        """What the model needs of what a processor made; without masks that mask nothing, eight bytes for each pixel."""
        kept = {name: made[name] for name in self._images.model_input_names if name in made}
        if "pixel_attention_mask" in kept and kept["pixel_attention_mask"].all():
            del kept["pixel_attention_mask"]
        return {"input_ids": ids_BS, **kept}


def join_views(views: Sequence[Views]) -> Views:
    """Join the views of some images, in their order; those of one layout go together."""
    inputs = [inputs for of_image in views for inputs in of_image.inputs]
    counts = torch.tensor([0, *(of_image.images for of_image in views)]).cumsum(0).tolist()
    places = [
        places + VIEWS * before
        for of_image, before in zip(views, counts, strict=False)
        for places in of_image.places
    ]
    return _joined(inputs, places)


def quadrants(picture: Image.Image, grid: Grid) -> list[Image.Image]:
    """Cut a picture into the quadrants of its grid, row-major, at its own resolution."""
    return [cut_picture(picture, region_box(region, PATCHES, grid), grid) for region in range(QUADRANTS)]


def cut_picture(picture: Image.Image, box: Box, grid: Grid) -> Image.Image:
    """Cut some cells of the grid out of a picture that shows the whole of it; pixels on an edge belong to both sides."""
    return picture.crop(pixel_edges(picture.size, box, grid))


def pixel_edges(size: tuple[int, int], box: Box, grid: Grid) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of some cells of the grid in a picture of (width, height) that shows the whole of it."""
    (width, height), (H, W) = size, grid
    left, top = width * box.left // W, height * box.top // H
    right = math.ceil(width * (box.left + box.width) / W)
    bottom = math.ceil(height * (box.top + box.height) / H)
    return left, top, right, bottom


def prefix_ids(processor: Any, prefix: str) -> Tensor:
    """Tokenize the text before an image: int64 [1, P], the start token included if the tokenizer adds one.

    It is tokenized with the image token after it, as in a full prompt: alone its last word may give other tokens.

    Raises:
        ValueError: the processor has no image token.
    """
    return torch.tensor([_ids_to_image(processor, prefix + processor.image_token)[:-1]])


def _ids_to_image(processor: Any, prompt: str) -> list[int]:
    """Ids of a prompt up to its first image token."""
    tokenizer, image_token = processor.tokenizer, processor.image_token
    ids: list[int] = tokenizer(prompt)["input_ids"]
    image_id = tokenizer.convert_tokens_to_ids(image_token)
    if image_id not in ids:
        raise UserError(f"the tokenizer does not know the processor's image token {image_token!r}")
    return ids[: ids.index(image_id) + 1]


def _joined(inputs: Sequence[Inputs], places: Sequence[Tensor]) -> Views:
    """Views of some prompts; those of one layout go together."""
    alike: dict[tuple[Any, ...], list[int]] = {}
    for index, made in enumerate(inputs):
        grids = made["image_grid_thw"][0].tolist() if "image_grid_thw" in made else []
        shapes = [tuple(value.shape[1:]) for value in made.values()]
        layout = (*made["input_ids"][0].tolist(), *grids, *shapes)
        alike.setdefault(layout, []).append(index)
    return Views(
        tuple(
            {name: torch.cat([inputs[index][name] for index in group]) for name in inputs[group[0]]}
            for group in alike.values()
        ),
        tuple(torch.cat([places[index] for index in group]) for group in alike.values()),
    )
