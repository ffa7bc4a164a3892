"""Processors of saved checkpoints, of all families and in the layouts of the hub, loaded without torchvision."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.utils import is_torchvision_available

from blink.model.checkpoints import load_backbone
from blink.model.fingerprint import TINY
from blink.model.processors import NoVideo, load_processor
from tests import models

CHATTING = [name for name in models.SMALL if name not in ("llava", "llava_next")]
SIZES = [(60, 60), (120, 44)]


def made_of(processor: Any, name: str) -> dict[str, torch.Tensor]:
    """What a processor makes of two pictures and prompts."""
    prompts = [models.prompt(seed, processor=processor) for seed in (0, 1)]
    pictures = [[models.picture(seed, size)] for seed, size in enumerate(SIZES)]
    return dict(processor(images=pictures, text=prompts, padding=True, return_tensors="pt"))


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


@pytest.mark.parametrize("layout", ["now", "before", "oldest"])
@pytest.mark.parametrize("name", models.SMALL)
def test_saved_processor_is_what_it_was(name: str, layout: str, tmp_path: Path) -> None:
    """Would catch a layout of the hub that is not read, a setting that is lost, and a class of our own."""
    model = models.family(name, layers=1)
    if layout == "now":
        models.save(model, tmp_path)
    else:
        models.save_as_before(model, tmp_path, named=layout == "before")
    expected = models.processor(model)
    loaded = load_processor(tmp_path, pad=False if name == "llava" else None)
    assert type(loaded) is type(expected)
    assert loaded.chat_template == expected.chat_template
    assert_same(made_of(loaded, name), made_of(expected, name))


@pytest.mark.parametrize("name", CHATTING)
def test_loaded_processor_saves_as_it_was(name: str, tmp_path: Path) -> None:
    """Would catch settings for videos that get lost because this machine cannot use them."""
    model = models.family(name, layers=1)
    models.save(model, tmp_path / "first")
    settings = tmp_path / "first" / "processor_config.json"
    content = json.loads(settings.read_text())
    if "video_processor" in content:
        content["video_processor"] = {
            "video_processor_type": "Qwen2VLVideoProcessor",
            "fps": 2,
            "num_frames": 8,
        }
        settings.write_text(json.dumps(content))
    load_processor(tmp_path / "first").save_pretrained(tmp_path / "second")
    again = json.loads((tmp_path / "second" / "processor_config.json").read_text())
    assert again == content
    template = (tmp_path / "second" / "chat_template.jinja").read_text()
    assert template == (tmp_path / "first" / "chat_template.jinja").read_text()


@pytest.mark.skipif(is_torchvision_available(), reason="torchvision takes videos")
def test_videos_are_refused_in_one_line(tmp_path: Path) -> None:
    """Would catch an error from within transformers, or a video that is left out in silence."""
    models.save(models.family("qwen2_vl", layers=1), tmp_path)
    processor = load_processor(tmp_path)
    assert isinstance(processor.video_processor, NoVideo)
    frames = torch.zeros(2, 3, 16, 16)
    with pytest.raises(ValueError, match="there is a video among the inputs; Blink takes pictures only"):
        processor(text=["<|video_pad|> what?"], videos=[frames], return_tensors="pt")


def padded_by_hand(image: Image.Image, side: int) -> np.ndarray:
    """LLaVA's expand2square in CLIP's mean colour, then CLIP's bicubic resize and normalisation: float64 [3, h, w]."""
    width, height = image.size
    square = Image.new("RGB", (max(image.size),) * 2, (122, 116, 104))
    square.paste(image, ((square.width - width) // 2, (square.height - height) // 2))
    pixels = np.asarray(square.resize((side, side), Image.Resampling.BICUBIC)) / 255
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    return ((pixels - mean) / std).transpose(2, 0, 1)


@pytest.mark.parametrize("size", [(640, 427), (333, 500), (901, 64), (336, 336)])
def test_llava15_pads_to_a_square(size: tuple[int, int], tmp_path: Path) -> None:
    """Would catch the hub's centre crop, black borders, or a picture that is off its place by a pixel.

    The hub's checkpoints name CLIP's image processor, which does not know this padding.
    """
    models.published_config("llava15", layers=1).save_pretrained(tmp_path)
    models.published_processor().save_pretrained(tmp_path)
    image = models.picture(1, size)
    seen = load_processor(tmp_path).image_processor(image, return_tensors="pt")["pixel_values"][0]
    expected = torch.from_numpy(padded_by_hand(image, 336))
    torch.testing.assert_close(seen.double(), expected, atol=1e-6, rtol=0)
    as_saved = load_processor(tmp_path, pad=False).image_processor(image, return_tensors="pt")[
        "pixel_values"
    ][0]
    assert torch.equal(seen, as_saved) == (size[0] == size[1])


def test_padding_switches_off_nothing_else(llava_next_folder: Path) -> None:
    """Would catch padding that switches off anyres, or that is asked for and silently left out."""
    assert load_processor(TINY).image_processor.do_pad is True
    kept = load_processor(llava_next_folder).image_processor
    image = models.picture(2, (90, 40))
    made = models.processor(models.llava_next(grid=6, layers=1, hidden=32)).image_processor
    assert torch.equal(
        kept(image, return_tensors="pt")["pixel_values"], made(image, return_tensors="pt")["pixel_values"]
    )
    with pytest.raises(ValueError, match=r"model.pad=true is for LLaVA-1.5"):
        load_backbone(llava_next_folder, pad=True)


@pytest.mark.parametrize("name", [name for name in models.SMALL if name != "llava"])
def test_padding_is_llava15s_alone(name: str, tmp_path: Path) -> None:
    """Would catch an image processor of another family that gets padding which it never had."""
    model = models.family(name, layers=1)
    models.save(model, tmp_path)
    with pytest.raises(ValueError, match=r"model.pad=true is for LLaVA-1.5 with its CLIP tower"):
        load_processor(tmp_path, pad=True)
    loaded, expected = load_processor(tmp_path, pad=False), models.processor(model)
    assert loaded.image_processor.to_dict() == expected.image_processor.to_dict()


def test_missing_processor_is_named(tmp_path: Path) -> None:
    """Would catch an error of transformers' that says nothing of the checkpoint."""
    models.family("qwen2_vl", layers=1).config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"no processor at '{tmp_path}'"):
        load_processor(tmp_path)


QWEN = tuple(name for name in models.SMALL if name.startswith("qwen"))


@pytest.mark.parametrize("name", QWEN)
def test_pictures_between_two_numbers_of_pixels(name: str, tmp_path: Path) -> None:
    """Would catch a limit that is not applied, and one that changes pictures which it leaves room for."""
    model = models.family(name, layers=1)
    models.save(model, tmp_path)

    def tokens(size: tuple[int, int], **limits: int) -> int:
        processor = load_backbone(tmp_path, **limits).processor  # type: ignore[arg-type]
        made = processor(images=[models.picture(1, size)], text=[models.prompt(1, processor=processor)])
        return list(made["input_ids"][0]).count(processor.image_token_id)

    cell = model.config.vision_config.patch_size * model.config.vision_config.spatial_merge_size
    plain = tokens((64, 64))
    assert plain == (64 // cell) ** 2
    assert tokens((64, 64), max_pixels=32 * 32) == (32 // cell) ** 2
    assert tokens((32, 32), min_pixels=64 * 64) == plain
    assert tokens((64, 64), min_pixels=32 * 32, max_pixels=80 * 80) == plain
    with pytest.raises(ValueError, match="at least 4000 and at most 3000 pixels"):
        tokens((64, 64), min_pixels=4000, max_pixels=3000)
    with pytest.raises(ValueError, match=r"model.max_pixels=0: expected a whole number"):
        tokens((64, 64), max_pixels=0)


@pytest.mark.parametrize("key", ["min_pixels", "max_pixels"])
@pytest.mark.parametrize("name", sorted({*models.SMALL} - {*QWEN}))
def test_pictures_of_a_fixed_size_have_no_number_of_pixels(name: str, key: str, tmp_path: Path) -> None:
    """Would catch a limit that is dropped in silence, or read as the side of a tile."""
    models.save(models.family(name, layers=1), tmp_path)
    with pytest.raises(
        ValueError, match=rf"model.{key}=5000 is for models .* qwen3_vl.*, and this model is a '"
    ):
        load_processor(tmp_path, **{key: 5000})  # type: ignore[arg-type]
