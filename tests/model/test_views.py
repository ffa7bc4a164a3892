"""Views of an image against what the processor itself makes for inference."""

import numpy as np
import pytest
import torch
from PIL import Image

from blink.model.families import family_of
from blink.model.views import ViewMaker, prefix_ids, quadrants
from tests import models

SIDE = 24


def llava_processor(**settings: object):  # type: ignore[no-untyped-def]  # transformers' processors are untyped
    processor = models.processor(models.llava(grid=6, layers=1, hidden=32))
    for name, value in settings.items():
        setattr(processor.image_processor, name, value)
    return processor


def shown(processor, image: Image.Image) -> torch.Tensor:  # type: ignore[no-untyped-def]
    """What inference shows the vision tower: one image, or the base view of LLaVA-NeXT."""
    pixels: torch.Tensor = processor.image_processor(image, return_tensors="pt")["pixel_values"][0]
    return pixels[0] if pixels.dim() == 4 else pixels


@pytest.mark.parametrize("size", [(48, 48), (60, 40), (41, 63)])
@pytest.mark.parametrize("kind", ["squash", "pad", "next"])
def test_full_view_is_what_inference_sees(kind: str, size: tuple[int, int]) -> None:
    """Catches a full view padded, cropped or coloured otherwise than at inference."""
    if kind == "next":
        processor = models.processor(models.llava_next(grid=6, layers=1, hidden=32))
    else:
        processor = llava_processor(do_pad=kind == "pad")
    image = models.picture(0, size)
    torch.testing.assert_close(ViewMaker(processor)(image).full_Chw, shown(processor, image))


def test_centre_crop_shows_the_centre() -> None:
    """Catches quadrants of a picture whose ends the backbone never sees.

    60 x 48: the shorter side is resized to 24, and the middle 24 of 30 columns stay: columns 6 to 53.
    """
    from transformers.image_utils import SizeDict

    processor = llava_processor(do_center_crop=True, size=SizeDict(shortest_edge=SIDE))
    image = models.picture(0, (60, 48))
    maker = ViewMaker(processor)
    assert maker.seen(image).tobytes() == image.crop((6, 0, 54, 48)).tobytes()
    torch.testing.assert_close(maker(image).full_Chw, shown(processor, image), atol=0.15, rtol=0)


def test_padding_is_centred_in_the_mean_colour() -> None:
    """Catches black borders, or a picture in the corner: LLaVA-1.5 pads with int(mean * 255)."""
    seen = ViewMaker(llava_processor(do_pad=True)).seen(Image.new("RGB", (4, 2), (255, 0, 0)))
    red, grey = [255, 0, 0], [122, 116, 104]
    assert np.asarray(seen).tolist() == [[grey] * 4, [red] * 4, [red] * 4, [grey] * 4]


@pytest.mark.parametrize("name", [name for name in models.SMALL if name != "llava"])
def test_base_views_of_other_families_show_the_whole_picture(name: str) -> None:
    """Catches settings that fill up batches (do_pad) taken for padding to a square, and a corner that is cut off."""
    model = models.family(name, layers=1)
    image = Image.new("RGB", (120, 44), (200, 200, 200))
    for left, top in ((0, 0), (108, 32)):
        image.paste((255, 0, 0), (left, top, left + 12, top + 12))
    processor = models.processor(model)
    maker = ViewMaker(processor)
    assert maker.window(image.size) == (0, 0, 120, 44)
    assert maker.seen(image).tobytes() == image.tobytes()
    text = models.prompt(0, processor=processor)
    inputs = processor(images=[[image]], text=[text], return_tensors="pt")
    family = family_of(model)
    tokens = int((inputs["input_ids"] == family.image_token_id).sum())
    [pixels] = family.pixels_by_picture(inputs, [tokens])
    if name.startswith(
        "qwen"
    ):  # patches in rows of their pixels, colours first: of all, the first and the last pixel
        corners = pixels.unflatten(1, (3, -1))
        first, last = corners[0, :, 0], corners[-1, :, -1]
    else:
        view = pixels if pixels.dim() == 3 else pixels[-1 if family.base_view_last else 0]
        first, last = view[:, 0, 0], view[:, -1, -1]
    for red, green, blue in (first.tolist(), last.tolist()):
        assert red > max(green, blue) + 0.5


def test_quadrants_are_row_major() -> None:
    """Catches quadrants numbered by columns, whose teacher then belongs to another region."""
    values = np.arange(16, dtype=np.uint8).reshape(4, 4)
    parts = [np.asarray(part).tolist() for part in quadrants(Image.fromarray(values))]
    assert parts == [[[0, 1], [4, 5]], [[2, 3], [6, 7]], [[8, 9], [12, 13]], [[10, 11], [14, 15]]]


def test_quadrants_of_odd_sides_share_the_middle() -> None:
    """Catches a lost line of pixels or quadrants of different sizes."""
    values = np.arange(15, dtype=np.uint8).reshape(3, 5)
    parts = [np.asarray(part).tolist() for part in quadrants(Image.fromarray(values))]
    assert parts[0] == [[0, 1, 2], [5, 6, 7]]
    assert parts[3] == [[7, 8, 9], [12, 13, 14]]


@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_quadrant_pixels_are_the_zoomed_quadrant(family: str) -> None:
    """Catches quadrants cut after the resize, which hold no more detail than the region of the full view."""
    model = getattr(models, family)(grid=6, layers=1, hidden=32)
    processor = models.processor(model)
    image = models.picture(3, (96, 96))
    views = ViewMaker(processor)(image)
    corner = image.crop((48, 0, 96, 48)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    mean, std = (
        torch.tensor(getattr(processor.image_processor, f"image_{name}")) for name in ("mean", "std")
    )
    expected_hwC = (torch.from_numpy(np.asarray(corner).copy()).float() / 255 - mean) / std
    torch.testing.assert_close(views.quadrants_QChw[1], expected_hwC.permute(2, 0, 1), atol=1e-5, rtol=0)


def test_prefix_is_that_of_a_full_prompt() -> None:
    """Catches a prefix without the start token, or whose last word is tokenized otherwise."""
    processor = models.processor(models.llava(grid=6, layers=1, hidden=32))
    full = processor(images=models.picture(0), text=models.prompt(0), return_tensors="pt")["input_ids"][0]
    first_image = full.tolist().index(processor.tokenizer.convert_tokens_to_ids("<image>"))
    prefix = models.prompt(0).partition("<image>")[0]
    assert prefix_ids(processor, prefix)[0].tolist() == full[:first_image].tolist()
