"""Encoded regions: when they are encoded, how often, and from what. That the numbers are right is in oracle/."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

import blink
from blink.inference.crops import crop_prefix
from blink.model.backbone import Backbone
from blink.model.token_sr import region_box
from tests import models
from tests.inference.oracle import comparison
from tests.inference.oracle import literal as oracle
from tests.inference.oracle.cases import CASES, SIZES, named
from tests.inference.oracle.comparison import attached, samples
from tests.inference.oracle.crops import Original

ALWAYS = blink.Policy((1, 3), 0.0, 0.0, source="encode")
SEEDS = [301, 302, 303]


@contextmanager
def counted(model: Any) -> Iterator[Counter[str]]:
    """Calls of vision tower and first decoder layer inside, and the rows of the latter."""
    calls: Counter[str] = Counter()
    family = Backbone(model).family

    def on_layer(_: Any, args: Any, kwargs: Any) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        calls["layer"] += 1
        calls["rows"] += len(hidden)

    hooks = [
        family.tower().blocks[0].register_forward_hook(lambda *_: calls.update(["tower"])),
        family.decoder.layers[0].register_forward_pre_hook(on_layer, with_kwargs=True),
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def batch(model: Any) -> tuple[dict[str, Tensor], list[Image.Image]]:
    """Three prompts about pictures of three shapes."""
    sizes = list(SIZES[:3])
    pictures = [models.picture(seed, size) for seed, size in zip(SEEDS, sizes, strict=True)]
    return models.batch(model, SEEDS, sizes), pictures


@pytest.mark.parametrize("case", CASES)
def test_a_policy_that_never_fires_encodes_nothing(case: str) -> None:
    """Catches crops that are made before anything is expanded, and logits that differ from the stock model's by a bit."""
    pair = named(case)
    inputs, pictures = batch(pair.model)
    never = blink.Policy.never((0, 2, 4), source="encode")
    settings: dict[str, Any] = {"max_new_tokens": 3, "do_sample": False}
    for row in samples(pair.twin, inputs)[:1]:
        with torch.no_grad(), counted(pair.twin) as stock:
            want = pair.twin(**row.inputs).logits
        with attached(pair.model, never) as handle, torch.no_grad(), counted(pair.model) as calls:
            assert torch.equal(pair.model(**row.inputs).logits, want)
            with handle.pictures(pictures[:1], models.processor(pair.model)):
                assert torch.equal(pair.model(**row.inputs).logits, want)
        assert calls["tower"] == 2 * stock["tower"]
        assert calls["layer"] == 2 * stock["layer"]
    with torch.no_grad(), counted(pair.twin) as stock:
        written = pair.twin.generate(**inputs, **settings)
    with attached(pair.model, never), counted(pair.model) as calls:
        assert torch.equal(pair.model.generate(**inputs, **settings), written)
    assert calls["tower"] == stock["tower"]


@pytest.mark.parametrize("case", CASES)
def test_each_row_gets_what_it_gets_alone(case: str) -> None:
    """Catches a crop of another row, and processed pixels of padding or of another row's tiles."""
    model = named(case).model
    inputs, pictures = batch(model)
    processor = models.processor(model)
    rows = samples(named(case).twin, inputs)
    with attached(model, ALWAYS) as handle, torch.no_grad():
        for originals in (True, False):
            if originals:
                with handle.pictures(pictures, processor):
                    together = model(**inputs).logits
            else:
                together = model(**inputs).logits
            for row, sample in enumerate(rows):
                if originals:
                    with handle.pictures(pictures[row : row + 1], processor):
                        alone = model(**sample.inputs).logits[0]
                else:
                    alone = model(**sample.inputs).logits[0]
                got = together[row][inputs["attention_mask"][row].bool()]
                comparison.check_logits(got, alone)


@pytest.mark.parametrize("case", CASES)
def test_without_originals_the_processed_pixels_are_cut(case: str) -> None:
    """Catches patches put together in another order, a tile cut in place of the whole picture, other edges of cells, and
    pixels that are lost where `generate` has encoded them: a crop that shows something else is far from the original's."""
    model = named(case).model
    backbone = Backbone(model)
    size = (96, 96)  # of every tower's views or more: nothing is lost before the cut
    image = models.picture(310, size).resize((12, 12)).resize(size, Image.Resampling.BICUBIC)
    processor = models.processor(model)
    inputs = dict(
        processor(images=[[image]], text=[models.prompt(310, processor=processor)], return_tensors="pt")
    )
    inputs = {name: value for name, value in inputs.items() if name not in ("rows", "cols")}
    shown = [int((inputs["input_ids"] == backbone.image_token_id).sum())]
    [view] = backbone.family.base_view_pixels(inputs, shown)
    again = backbone.family.view_inputs(view[None])
    grids = backbone.family.grids({**inputs, **again}, 1)
    [seen] = backbone.family.base_view_pixels(again, [grids[0][0] * grids[0][1]])
    assert torch.equal(seen, view)

    def logits(policy: blink.Policy, pictures: list[Image.Image] | None) -> tuple[Tensor, Tensor]:
        with attached(model, policy) as handle, torch.no_grad():
            if pictures is None:
                return model(**inputs).logits[0, -1], model.generate(
                    **inputs, max_new_tokens=2, do_sample=False
                )
            with handle.pictures(pictures, processor):
                return model(**inputs).logits[0, -1], model.generate(
                    **inputs, max_new_tokens=2, do_sample=False
                )

    original, _ = logits(ALWAYS, [image])
    processed, ids = logits(ALWAYS, None)
    mirrored, _ = logits(ALWAYS, [image.transpose(Image.Transpose.ROTATE_180)])
    near, far = (original - processed).norm(), (original - mirrored).norm()
    assert 0 < near < 0.5 * far
    with attached(model, ALWAYS), torch.no_grad():
        beams = model.generate(
            **inputs, max_new_tokens=2, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
    torch.testing.assert_close(beams.logits[0][0], processed, rtol=0, atol=1e-4)
    assert torch.equal(beams.sequences, ids)


def test_processed_pixels_are_cut_at_the_cells() -> None:
    """Catches any other edge or way to resize: what enters layer 0 is compared with a cut by hand."""
    model = named("llava_clip_full").model
    inputs = models.batch(model, [5], [(60, 60)])
    policy = blink.Policy((0,), 0.0, 0.0, source="encode", patches=3)
    pixels = inputs["pixel_values"]
    side, cells = (
        pixels.shape[-1],
        model.config.vision_config.image_size // model.config.vision_config.patch_size,
    )
    with attached(model, policy) as handle, torch.no_grad():
        entering: list[Tensor] = []
        hook = model.model.language_model.layers[0].register_forward_pre_hook(
            lambda _, args, kwargs: entering.append(args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
        )
        model(**inputs)
        hook.remove()
        box = region_box(handle.trace[0][0].region, 3, (cells, cells))
    cell = side // cells
    cut = pixels[
        ..., box.top * cell : (box.top + box.height) * cell, box.left * cell : (box.left + box.width) * cell
    ]
    crop = F.interpolate(cut, size=(side, side), mode="bicubic")
    with torch.no_grad():
        want = model.model.get_image_features(pixel_values=crop, return_dict=True).pooler_output[0]
    end = int((inputs["input_ids"][0] == model.config.image_token_id).nonzero()[-1]) + 1
    got = entering[-1][0, end : end + cells * cells]
    torch.testing.assert_close(got, want[-cells * cells :], rtol=0, atol=1e-5)


def test_rows_that_fire_are_encoded_once_and_go_on() -> None:
    """Catches crops of rows that stay as they are, a second encoding for a later layer, and a pass that starts anew there."""
    pair = named("llava_siglip")
    inputs, pictures = batch(pair.model)
    processor = models.processor(pair.model)
    with attached(pair.model, blink.Policy.never((1,))) as handle, torch.no_grad():
        pair.model(**inputs)
        ratios = sorted(events[0].ratio for events in handle.trace)
    above = (ratios[1] + ratios[2]) / 2
    one = blink.Policy((1,), above, 0.0, source="encode")
    twice = blink.Policy((1, 3), 0.0, 0.0, source="encode", selector="box")
    boxes = [[0, 0, 9, 9]] * 3
    with torch.no_grad(), counted(pair.twin) as stock:
        pair.twin(**inputs)
    for policy, rows in ((one, 1), (twice, 3)):
        with attached(pair.model, policy) as handle, torch.no_grad(), counted(pair.model) as calls:
            with handle.pictures(pictures, processor), handle.boxes(boxes):
                pair.model(**inputs)
            assert sum(event.action == "expand" for row in handle.trace for event in row) == rows * len(
                policy.layers
            )
        prefixes = len(
            {
                int(row.ids_S.tolist().index(pair.model.config.image_token_id))
                for row in samples(pair.twin, inputs)
            }
        )
        assert calls["rows"] - stock["rows"] == rows
        assert calls["tower"] - stock["tower"] <= min(rows, prefixes)


@pytest.mark.parametrize("settings", [{"do_pad": True}, {"do_center_crop": True}])
@pytest.mark.parametrize("size", [(60, 40), (40, 60)])
def test_padded_and_cropped_pictures(settings: dict[str, Any], size: tuple[int, int]) -> None:
    """Catches a region cut out of the picture where the model sees it padded, or its centre alone."""
    pair = named("llava_clip_full")
    stretched = models.processor(pair.model)
    side = pair.model.config.vision_config.image_size
    square = {"height": side, "width": side}
    usual = {"size": {"shortest_edge": side}, "crop_size": square, "do_center_crop": True, "do_pad": False}
    processor = models.processor(pair.model)
    processor.image_processor = LlavaImageProcessorPil(**{**usual, **settings})
    image, text = models.picture(320, size), models.prompt(320)
    inputs = dict(processor(images=[image], text=[text], return_tensors="pt"))
    short, long = min(size), max(size)
    if settings.get("do_pad"):
        mean = tuple(int(channel * 255) for channel in processor.image_processor.image_mean)
        seen = Image.new("RGB", (long, long), mean)
        seen.paste(image, ((long - size[0]) // 2, (long - size[1]) // 2))
    else:
        left, top = (size[0] - short) // 2, (size[1] - short) // 2
        seen = image.crop((left, top, left + short, top + short))
    plan = oracle.Plan((1, 2), 0.0, 0.0, source="encode", selector="box", patches=3)
    box = (22, 22, 30, 31)
    shift = ((seen.width - size[0]) // 2, (seen.height - size[1]) // 2)
    within = (box[0] + shift[0], box[1] + shift[1], box[2] + shift[0], box[3] + shift[1])
    with attached(pair.model, plan) as handle, torch.no_grad():
        with handle.pictures([image], processor), handle.boxes([box]):
            logits = pair.model(**inputs).logits[0]
        trace = handle.trace[0]
    [sample] = samples(pair.twin, inputs)
    want = oracle.run(
        pair.twin, sample.ids_S, sample.picture, plan, original=Original(seen, text, within, stretched)
    )
    comparison.check_events(trace, want)
    comparison.check_logits(logits, want.logits_SW)


@pytest.mark.parametrize("case", ["llava_next", "internvl", "smolvlm", "qwen3_vl"])
def test_beams_and_returned_sequences(case: str) -> None:
    """Catches pictures or boxes that are asked for once per beam, and crops of another prompt's picture."""
    model = named(case).model
    inputs, pictures = batch(model)
    policy = blink.Policy((1, 3), 0.0, 0.0, source="encode", selector="box")
    boxes = [[0, 0, 12, 12], [20, 20, 40, 39], [5, 60, 30, 88]]
    settings: dict[str, Any] = {
        "max_new_tokens": 3,
        "num_beams": 3,
        "num_return_sequences": 2,
        "do_sample": False,
    }
    rows = samples(named(case).twin, inputs)
    with attached(model, policy) as handle:
        with handle.pictures(pictures, models.processor(model)), handle.boxes(boxes):
            together = model.generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :]
        assert len(handle.trace) == 3
        for row, sample in enumerate(rows):
            alone_at = slice(row, row + 1)
            with handle.pictures(pictures[alone_at], models.processor(model)), handle.boxes(boxes[alone_at]):
                alone = model.generate(**sample.inputs, **settings)[:, len(sample.ids_S) :]
            assert together[2 * row : 2 * row + 2].tolist() == alone.tolist()


def test_the_prefix_is_that_of_a_picture_without_tiles() -> None:
    """Catches the name of a tile before a picture that has none."""
    ids = torch.tensor([1, 2, 8, 9, 9, 7, 6, 9, 9, 3])
    assert crop_prefix(ids, 3, 7, 9).tolist() == [1, 2, 6]
    assert crop_prefix(ids, 3, 3, 9).tolist() == [1, 2, 8]
    assert crop_prefix(ids, 3, 4, 9).tolist() == [1, 2, 8]
