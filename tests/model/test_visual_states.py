"""States of base views against the hidden states inside full prompts of the stock models, for every family."""

from typing import Any

import pytest
import torch
from torch import Tensor

from blink.model.backbone import Backbone
from blink.model.views import ViewMaker, Views
from blink.model.visual_states import visual_states
from tests import models

SIZES = [(60, 60), (120, 44), (50, 150)]
"""Pictures of one to four tiles, and of Qwen's grids 8 x 8, 6 x 15 and 16 x 5 (rows x columns)."""

UNCUT = {
    "internvl": {"crop_to_patches": False},
    "smolvlm": {"do_image_splitting": False},
    "idefics3": {"do_image_splitting": False},
}
"""Settings with which a processor itself shows a picture whole."""


def prefix(processor: Any, seed: int = 0) -> str:
    """What a full prompt has before its picture."""
    return models.prompt(seed, processor=processor).partition(processor.image_token)[0]


def stock_states(model: Any, inputs: Any, layers: list[int], grid: tuple[int, int]) -> dict[int, Tensor]:
    """Layer -> [1, d, H, W] of one prompt's base view, as it enters the stock model's layers.

    Not from `output_hidden_states`, which leaves out what Qwen3-VL adds behind its first layers.
    """
    family = Backbone(model).family
    H, W = grid
    columns = (inputs["input_ids"][0] == model.config.image_token_id).nonzero()[:, 0]
    kept = columns[-H * W :] if family.base_view_last else columns[: H * W]
    entering: dict[int, Tensor] = {}

    def keep(layer: int) -> Any:
        def hook(_: Any, args: Any, kwargs: Any) -> None:
            entering[layer] = args[0] if args else kwargs["hidden_states"]

        return hook

    hooks = [
        family.decoder.layers[layer].register_forward_pre_hook(keep(layer), with_kwargs=True)
        for layer in layers
    ]
    with torch.no_grad():
        model(**inputs)
    for hook in hooks:
        hook.remove()
    return {layer: state[:, kept].transpose(1, 2).unflatten(2, grid) for layer, state in entering.items()}


def row_of(views: Views, view: int) -> dict[str, Tensor]:
    """The prompt of one view of one picture, out of those of its layout."""
    (found,) = [
        {name: value.chunk(len(places))[places.tolist().index(view)] for name, value in inputs.items()}
        for inputs, places in zip(views.inputs, views.places, strict=True)
        if view in places
    ]
    return found


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", models.SMALL)
def test_states_are_those_inside_a_full_prompt(name: str, size: tuple[int, int]) -> None:
    """Would catch a base view at the wrong end, tiles left out that it sees, other positions, and deepstack forgotten."""
    model = models.family(name, layers=4)
    backbone, processor = Backbone(model), models.processor(model)
    inputs = models.batch(model, [3], [size])
    maker = ViewMaker(processor, prefix(processor, 3), backbone.grid)
    want = stock_states(model, inputs, [0, 1, 3], maker.grid(size))
    views = maker(models.picture(3, size))
    states = visual_states(backbone, row_of(views, 0), [3, 0, 1])
    assert list(states) == [0, 1, 3]
    for layer, state in states.items():
        torch.testing.assert_close(state, want[layer], atol=2e-5, rtol=2e-5)
        assert not state.requires_grad
    for layer, state in visual_states(backbone, inputs, [0, 3]).items():
        torch.testing.assert_close(state, want[layer], atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(("grid", "size"), [(6, (60, 60)), (5, (121, 43)), (5, (56, 88))])
@pytest.mark.parametrize("name", models.SMALL)
def test_a_quadrant_is_seen_as_a_picture_of_its_own(name: str, grid: int, size: tuple[int, int]) -> None:
    """Would catch a quadrant cut at the middle of an odd grid, in tiles, of another grid than the whole, and its prefix.

    The stock model sees the quadrant's pixels alone, as a user's picture that the processor does not cut.
    """
    model = models.family(name, grid=grid, layers=3)
    backbone, processor = Backbone(model), models.processor(model)
    maker = ViewMaker(processor, prefix(processor, 3), backbone.grid)
    picture = models.picture(3, size)
    views = maker(picture)
    (H, W), (width, height) = maker.grid(size), size
    if backbone.grid is None:
        thw = models.batch(model, [3], [size])["image_grid_thw"][0].tolist()
        assert thw == [1, 2 * H, 2 * W]
    for view, (rows, columns) in enumerate(
        [(rows, columns) for rows in ((0, H // 2), (H // 2, H)) for columns in ((0, W // 2), (W // 2, W))], 1
    ):
        left, right = width * columns[0] // W, -(-width * columns[1] // W)
        top, bottom = height * rows[0] // H, -(-height * rows[1] // H)
        zoomed = picture.crop((left, top, right, bottom))
        if backbone.grid is None:
            zoomed = zoomed.resize((8 * W, 8 * H), processor.image_processor.resample)
        text = models.prompt(3, processor=processor)
        inputs = processor(images=[[zoomed]], text=[text], return_tensors="pt", **UNCUT.get(name, {}))
        want = stock_states(model, inputs, [2], (H, W))[2]
        found = visual_states(backbone, row_of(views, view), [2])[2]
        torch.testing.assert_close(found, want, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", ["internvl", "smolvlm", "llava_next", "qwen3_vl"])
def test_pictures_of_one_layout_run_together(name: str) -> None:
    """Would catch rows that get each other's features, and tiles shared out wrongly among rows."""
    model = models.family(name, layers=3)
    backbone = Backbone(model)
    both = models.batch(model, [0, 0], [(120, 44), (120, 44)], words=5, system="is there a")
    both = {**both, "pixel_values": both["pixel_values"] + 0.1 * torch.randn(both["pixel_values"].shape)}
    together = visual_states(backbone, both, [2])[2]
    for row in range(2):
        alone = {key: value.chunk(2)[row] for key, value in both.items()}
        torch.testing.assert_close(
            visual_states(backbone, alone, [2])[2], together[row : row + 1], atol=2e-5, rtol=2e-5
        )
    assert (together[0] - together[1]).abs().max() > 0.01


def test_no_layer_too_many_runs() -> None:
    """Catches work above the highest asked layer: training layer L may have loaded layers 0 to L-1 only."""
    model = models.llava(grid=4, layers=4)
    backbone = Backbone(model)
    inputs = models.batch(model, [1])
    want = visual_states(backbone, inputs, [2])[2]
    for layer in model.model.language_model.layers[2:]:
        for weight in layer.parameters():
            weight.data.fill_(float("nan"))
    assert torch.equal(visual_states(backbone, inputs, [2])[2], want)
    with pytest.raises(ValueError, match="0 to 4"):
        visual_states(backbone, inputs, [5])
    with pytest.raises(ValueError, match="0 to 4"):
        visual_states(backbone, inputs, [])


def test_a_class_token_is_no_cell() -> None:
    """Catches a grid that is shifted by the class token which "full" keeps."""
    found = []
    for select in ("default", "full"):
        model = models.llava(grid=4, select=select)
        backbone = Backbone(model)
        assert backbone.family.tokens_per_view == {"default": 16, "full": 17}[select]
        found.append(visual_states(backbone, models.batch(model, [1]), [0])[0])
    assert torch.equal(*found)


def test_prompts_of_several_layouts_are_refused() -> None:
    """Catches states cut out at the first row's columns for all rows."""
    model = models.family("qwen2_vl", layers=2)
    for sizes, seeds in (([(60, 60), (30, 120)], [0, 0]), ([(60, 60)] * 2, [0, 1])):
        inputs = models.batch(model, seeds, sizes)
        with pytest.raises(ValueError, match="one layout at a time"):
            visual_states(Backbone(model), inputs, [1])
