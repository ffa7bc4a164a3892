"""Views of an image against what the processor itself makes for inference."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from blink.model.families import family_of
from blink.model.views import ViewMaker, join_views, prefix_ids, quadrants
from tests import models

SIDE = 24


def llava_processor(**settings: object):  # type: ignore[no-untyped-def]  # transformers' processors are untyped
    processor = models.processor(models.llava(grid=6, layers=1, hidden=32))
    for name, value in settings.items():
        setattr(processor.image_processor, name, value)
    return processor


def maker_of(processor: Any) -> ViewMaker:
    return ViewMaker(processor, "USER: ", (6, 6))


def pixels(maker: ViewMaker, image: Image.Image) -> torch.Tensor:
    """Of the full view and the quadrants: [5, C, h, w]."""
    (inputs,), (places,) = maker(image)
    assert places.tolist() == [0, 1, 2, 3, 4]
    return inputs["pixel_values"]


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
    torch.testing.assert_close(pixels(maker_of(processor), image)[0], shown(processor, image))


def test_centre_crop_shows_the_centre() -> None:
    """Catches quadrants of a picture whose ends the backbone never sees.

    60 x 48: the shorter side is resized to 24, and the middle 24 of 30 columns stay: columns 6 to 53.
    """
    from transformers.image_utils import SizeDict

    processor = llava_processor(do_center_crop=True, size=SizeDict(shortest_edge=SIDE))
    image = models.picture(0, (60, 48))
    maker = maker_of(processor)
    assert maker.seen(image).tobytes() == image.crop((6, 0, 54, 48)).tobytes()
    torch.testing.assert_close(pixels(maker, image)[0], shown(processor, image), atol=0.15, rtol=0)


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
    parts = [np.asarray(part).tolist() for part in quadrants(Image.fromarray(values), (6, 6))]
    assert parts == [[[0, 1], [4, 5]], [[2, 3], [6, 7]], [[8, 9], [12, 13]], [[10, 11], [14, 15]]]


def test_quadrants_of_odd_sides_share_the_middle() -> None:
    """Catches a lost line of pixels or quadrants of different sizes."""
    values = np.arange(15, dtype=np.uint8).reshape(3, 5)
    parts = [np.asarray(part).tolist() for part in quadrants(Image.fromarray(values), (6, 6))]
    assert parts[0] == [[0, 1, 2], [5, 6, 7]]
    assert parts[3] == [[7, 8, 9], [12, 13, 14]]


def test_quadrants_of_odd_grids_end_at_cells() -> None:
    """Catches a picture cut at its middle where the grid is cut beside it: 3 x 5 cells are 1 and 2 rows, 2 and 3 columns."""
    values = np.arange(60, dtype=np.uint8).reshape(6, 10)
    parts = [np.asarray(part) for part in quadrants(Image.fromarray(values), (3, 5))]
    assert [part.shape for part in parts] == [(2, 4), (2, 6), (4, 4), (4, 6)]
    assert [int(part[0, 0]) for part in parts] == [0, 4, 20, 24]


@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_quadrant_pixels_are_the_zoomed_quadrant(family: str) -> None:
    """Catches quadrants cut after the resize, which hold no more detail than the region of the full view."""
    model = getattr(models, family)(grid=6, layers=1, hidden=32)
    processor = models.processor(model)
    image = models.picture(3, (96, 96))
    views = pixels(maker_of(processor), image)
    corner = image.crop((48, 0, 96, 48)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    mean, std = (
        torch.tensor(getattr(processor.image_processor, f"image_{name}")) for name in ("mean", "std")
    )
    expected_hwC = (torch.from_numpy(np.asarray(corner).copy()).float() / 255 - mean) / std
    torch.testing.assert_close(views[2], expected_hwC.permute(2, 0, 1), atol=1e-5, rtol=0)


def test_prefix_is_that_of_a_full_prompt() -> None:
    """Catches a prefix without the start token, or whose last word is tokenized otherwise."""
    processor = models.processor(models.llava(grid=6, layers=1, hidden=32))
    full = processor(images=models.picture(0), text=models.prompt(0), return_tensors="pt")["input_ids"][0]
    first_image = full.tolist().index(processor.tokenizer.convert_tokens_to_ids("<image>"))
    prefix = models.prompt(0).partition("<image>")[0]
    assert prefix_ids(processor, prefix)[0].tolist() == full[:first_image].tolist()


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl"])
@pytest.mark.parametrize("size", [(60, 60), (8, 160), (56, 88), (1000, 30), (7, 7), (333, 250)])
def test_grid_follows_from_the_size(name: str, size: tuple[int, int]) -> None:
    """Catches a grid other than the processor's, for pictures within, below and above its limits."""
    processor = models.processor(models.family(name, layers=1))
    maker = ViewMaker(processor, "")
    text = models.prompt(0, processor=processor)
    made = processor(images=[[models.noise(0, size)]], text=[text], return_tensors="pt")
    _, rows, columns = made["image_grid_thw"][0].tolist()
    assert maker.grid(size) == (rows // 2, columns // 2)
    assert maker.has_quadrants(size) == (min(rows, columns) >= 4)


def test_pictures_without_quadrants() -> None:
    """Catches a strip of one column trained on, and one that Qwen's processor refuses."""
    maker = ViewMaker(models.processor(models.family("qwen2_vl", layers=1)), "")
    assert not maker.has_quadrants((8, 160))
    with pytest.raises(ValueError, match=r"a picture of 8 x 160 pixels: the 20 x 1 grid .* too narrow"):
        maker(models.picture(0, (8, 160)))
    assert not maker.has_quadrants((4, 801))
    with pytest.raises(ValueError, match="4 x 801 pixels is more than 200 times"):
        maker.grid((4, 801))
    assert ViewMaker(llava_processor(), "", (2, 2)).has_quadrants((4, 801))


@pytest.mark.parametrize(
    ("name", "layouts"),
    [
        ("llava", [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]]),
        ("llava_onevision", [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]]),
        # a small picture is not cut, and looks like a quadrant
        ("internvl", [[0, 1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 13, 14], [5, 10]]),
        ("smolvlm", [[0], [1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 13, 14], [5], [10]]),
        ("qwen2_5_vl", [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12, 13, 14]]),
    ],
)
def test_views_of_one_layout_go_together(name: str, layouts: list[list[int]]) -> None:
    """Catches views that run one by one, views of two layouts in one tensor, and places of another image."""
    model = models.family(name, layers=1)
    processor = models.processor(model)
    prefix = models.prompt(0, processor=processor).partition(processor.image_token)[0]
    make = ViewMaker(processor, prefix, family_of(model).grid)
    pictures = [models.picture(seed, size) for seed, size in enumerate([(60, 60), (120, 44), (40, 130)])]
    views = join_views([make(picture) for picture in pictures])
    assert [places.tolist() for places in views.places] == layouts
    assert views.images == 3
    for inputs, places in zip(views.inputs, views.places, strict=True):
        assert len(inputs["input_ids"]) == len(places)
        for row, place in enumerate(places.tolist()):
            alone = make(pictures[place // 5])
            group = next(index for index, of in enumerate(alone.places) if place % 5 in of)
            mine = alone.inputs[group]["pixel_values"].chunk(len(alone.places[group]))
            index = alone.places[group].tolist().index(place % 5)
            assert torch.equal(inputs["pixel_values"].chunk(len(places))[row], mine[index])
