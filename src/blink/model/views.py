"""The part of an image that the backbone sees, usually a square, its four quadrants, and the pixels of both.

Because quadrants are cut out of the picture that the backbone sees, quadrants of the picture are quadrants of
the grid of visual tokens. Knows a Hugging Face processor, and no model.

Axes: Q = 4 quadrants in row-major order, C colours, h x w pixels; B images once they are batched.
"""

from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from blink.runs.values import UserError

QUADRANTS = 4


class Views(NamedTuple):
    """Pixels as the vision tower takes them: `full_Chw` [C, h, w] and `quadrants_QChw` [4, C, h, w]."""

    full_Chw: Tensor
    quadrants_QChw: Tensor


class ViewMaker:
    """Makes the full view and the quadrants of an image as one processor would.

    What the backbone sees is, for a LLaVA-1.5 processor, the image padded to a square (`do_pad`), or the
    centre that it crops (`do_center_crop`), or the image squashed to a square (neither); for all others the
    base view, which is the whole image, squashed to a square or (Qwen) to a multiple of a visual token, whatever tiles
    come before or after it.

    Args:
        processor: of the backbone; its image processor alone is used.
    """

    def __init__(self, processor: Any) -> None:
        self._images = processor.image_processor
        self._tiled = hasattr(self._images, "image_grid_pinpoints")
        crops = bool(getattr(self._images, "do_center_crop", False))
        self._crops = crops and not self._tiled
        # elsewhere do_pad fills up batches: with pictures of fewer tiles, or smaller ones
        self._pads = bool(getattr(self._images, "do_pad", False)) and not self._tiled
        self._pads = self._pads and hasattr(self._images, "pad_to_square")
        size: dict[str, Any] = dict(self._images.size)
        self._shortest: Any = size.get("shortest_edge") or size.get("height")
        target = dict(self._images.crop_size) if crops else size
        self._height: Any = target.get("height") or target.get("shortest_edge")
        self._width: Any = target.get("width") or target.get("shortest_edge")

    def __call__(self, image: Image.Image) -> Views:
        """Make the views of an RGB image: float32 pixels, normalised by the processor."""
        seen = self.seen(image)
        pixels = self._pixels([seen, *quadrants(seen)])
        return Views(pixels[0], pixels[1:])

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

    def _pixels(self, pictures: list[Image.Image]) -> Tensor:
        """Resize each picture as a whole and normalise it: [pictures, C, h, w]."""
        if self._tiled:  # one tile is the least that this processor makes; the base view comes before it
            smallest = [[self._height, self._width]]
            made = self._images(pictures, image_grid_pinpoints=smallest, return_tensors="pt")
            base: Tensor = made["pixel_values"][:, 0]
            return base
        size = {"height": self._height, "width": self._width}
        made = self._images(pictures, size=size, do_resize=True, do_center_crop=False, return_tensors="pt")
        pixels: Tensor = made["pixel_values"]
        return pixels


def quadrants(picture: Image.Image) -> list[Image.Image]:
    """Cut a picture into its four quadrants, row-major, at its own resolution.

    If a side is odd, both halves contain the middle line, so that all have the same size.
    """
    width, height = picture.size
    half_width, half_height = (width + 1) // 2, (height + 1) // 2
    return [
        picture.crop((left, top, left + half_width, top + half_height))
        for top in (0, height - half_height)
        for left in (0, width - half_width)
    ]


def prefix_ids(processor: Any, prefix: str) -> Tensor:
    """Tokenize the text before an image: int64 [1, P], the start token included if the tokenizer adds one.

    It is tokenized with the image token after it, as in a full prompt: alone its last word may give other tokens.

    Raises:
        ValueError: the processor has no image token.
    """
    tokenizer, image_token = processor.tokenizer, processor.image_token
    ids: list[int] = tokenizer(prefix + image_token)["input_ids"]
    image_id = tokenizer.convert_tokens_to_ids(image_token)
    if image_id not in ids:
        raise UserError(f"the tokenizer does not know the processor's image token {image_token!r}")
    return torch.tensor([ids[: ids.index(image_id)]])
