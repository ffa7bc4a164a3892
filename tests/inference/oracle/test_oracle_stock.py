"""The reference's other families against the stock models: where nothing is scanned its logits are theirs."""

import math
from typing import Any

import pytest
import torch
from PIL import Image

from tests import models
from tests.inference.oracle import literal as oracle
from tests.inference.oracle.cases import CASES, SIZES
from tests.inference.oracle.comparison import rig, samples
from tests.inference.oracle.extension import Extension, positions
from tests.inference.oracle.pictures import QWEN, Picture, see


def lit(size: tuple[int, int], corner: int | None) -> Image.Image:
    """A dull picture, white in an eighth of each side at one corner, counted row by row."""
    width, height = size
    picture = Image.new("RGB", size, (90, 110, 130))
    if corner is not None:
        spot = Image.new("RGB", (width // 8, height // 8), (255, 255, 255))
        picture.paste(spot, (corner % 2 * (width - spot.width), corner // 2 * (height - spot.height)))
    return picture


def seen(model: Any, picture: Image.Image) -> Picture:
    """What the model makes of one picture."""
    processor = models.processor(model)
    text = f"{processor.image_token} what is it ?"
    return see(model, processor(images=[picture], text=[text], return_tensors="pt"))


NEVER = oracle.Plan(layers=(0, 2, 4), tau_exp=1.0, tau_drop=0.0)


@pytest.mark.parametrize("scheme", ["append", "region"])
@pytest.mark.parametrize("case", CASES)
def test_never_firing_oracle_is_the_stock_model(case: str, scheme: str) -> None:
    """Catches a wrong norm, bias, section of M-RoPE, deepstack or place of a feature in the oracle, and rows cut wrongly."""
    family, settings = CASES[case]
    twin = rig(family, **settings).twin
    inputs = models.batch(twin, list(range(len(SIZES))), list(SIZES))
    assert not inputs["attention_mask"].all()
    with torch.no_grad():
        stock = twin(**inputs).logits
    plan = oracle.Plan(NEVER.layers, NEVER.tau_exp, NEVER.tau_drop, positions=scheme)
    for row, sample in enumerate(samples(twin, inputs)):
        ours = oracle.run(twin, sample.ids_S, sample.picture, plan)
        assert [step.action for step in ours.steps] == ["keep"] * 3
        want = stock[row][inputs["attention_mask"][row].bool()]
        assert (ours.logits_SW - want).abs().max() < 1e-5 * want.abs().max()
        with torch.no_grad():
            single = twin(**sample.inputs, output_hidden_states=True)
        assert (ours.logits_SW - single.logits[0]).abs().max() < 1e-5 * single.logits.abs().max()
        visual = (sample.ids_S == twin.config.image_token_id).nonzero()[:, 0]
        base = slice(sample.picture.base, sample.picture.base + len(ours.entering[0]))
        for number, states_GD in enumerate(ours.entering):
            entering_GD = single.hidden_states[number][0, visual[base]]
            if 0 < number <= len(sample.picture.deepstack):
                # recorded as it leaves a layer, before the tower's features are added
                entering_GD = entering_GD + sample.picture.deepstack[number - 1][base]
            assert (states_GD - entering_GD).abs().max() < 1e-5 * entering_GD.abs().max()


@pytest.mark.parametrize("case", CASES)
def test_saliency_is_the_row_of_eager_attention(case: str) -> None:
    """Catches saliency of tiles or separators instead of the base view's."""
    family, settings = CASES[case]
    twin = rig(family, **{**settings, "attention": "eager"}).twin
    for sample in samples(twin, models.batch(twin, [5, 6], list(SIZES[1:3]))):
        with torch.no_grad():
            maps = twin(**sample.inputs, output_attentions=True).attentions
        ours = oracle.run(twin, sample.ids_S, sample.picture, NEVER)
        visual = (sample.ids_S == twin.config.image_token_id).nonzero()[:, 0]
        height, width = sample.picture.grid
        base = visual[sample.picture.base :][: height * width]
        for layer in NEVER.layers:
            torch.testing.assert_close(
                ours.rows[layer], maps[layer][0, :, -1].mean(0)[base], rtol=0, atol=1e-6
            )


@pytest.mark.parametrize("case", CASES)
def test_base_view_is_the_whole_picture_row_by_row(case: str) -> None:
    """Catches a base view that is a tile, or turned: what changes in a corner of the picture changes that corner most."""
    family, settings = CASES[case]
    twin = rig(family, **settings).twin
    for corner, size in enumerate(SIZES[:4]):
        before, after = (seen(twin, lit(size, corner if mark else None)) for mark in (False, True))
        height, width = before.grid
        base = slice(before.base, before.base + height * width)
        change = (after.features_TD - before.features_TD)[base].norm(dim=1).view(height, width)
        hottest = divmod(int(change.argmax()), width)
        assert (hottest[0] >= height / 2, hottest[1] >= width / 2) == (corner >= 2, corner % 2 == 1)


@pytest.mark.parametrize("grid", [(2, 3), (5, 2), (4, 4)])
@pytest.mark.parametrize("family", QWEN)
def test_an_appended_extension_stands_as_a_second_picture(family: str, grid: tuple[int, int]) -> None:
    """Catches positions that `get_rope_index` would not give another picture, or the text behind it."""
    twin: Any = rig(family).twin
    single = samples(twin, models.batch(twin, [1], [SIZES[1]]))[0]
    ids_1S, grids = single.inputs["input_ids"], single.inputs["image_grid_thw"]
    shown = (ids_1S[0] == twin.config.image_token_id).nonzero()[:, 0]
    first, last, count = int(shown[0]), int(shown[-1]), math.prod(grid)
    # a text token must stand between two pictures, or they are read as one
    text = ids_1S[:, last + 1 :]
    twice = [ids_1S[:, : last + 1], text[:, :1], ids_1S[:, first : first + 1].expand(-1, count), text]
    whole = torch.cat(twice, dim=1)
    merge = twin.config.vision_config.spatial_merge_size
    grids = torch.cat([grids, torch.tensor([[1, grid[0] * merge, grid[1] * merge]])])
    types = (whole == twin.config.image_token_id).int()
    want = twin.model.get_rope_index(whole, types, grids)[0][:, 0]
    want = torch.cat([want[:, : last + 1], want[:, last + 2 :] - 1], dim=1)
    grown = Extension(torch.zeros(count, 1), grid, (0, 0, *grid))
    places = positions(single.picture, shown - first, first, len(shown), grown, text.shape[1], "append")
    assert torch.equal(places, want)
