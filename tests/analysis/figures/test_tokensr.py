"""TokenSR and interpolation against the zoomed quadrant."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from blink import TokenSR
from blink.analysis.figures import tokensr
from blink.model.backbone import Backbone
from blink.model.prompts import template_named
from blink.model.token_sr import cut_region, upsample
from blink.model.views import ViewMaker
from blink.model.visual_states import visual_states
from blink.runs.style import look
from blink.training.objective import token_kl
from tests import models
from tests.analysis.figures.conftest import saved


def test_token_features_are_those_of_training(backbone: Backbone, tmp_path: Path) -> None:
    """Would catch quadrants in another order than regions, and a KL other than the loss."""
    prefix = template_named("vicuna_v1").prefix
    views = ViewMaker(backbone.processor, prefix, backbone.grid)(models.picture(3))
    torch.manual_seed(0)
    modules = {0: TokenSR(32), 2: TokenSR(32)}
    found = tokensr.features(backbone, views, modules)[2]
    (inputs,) = views.inputs
    states = visual_states(backbone, inputs, [2])[2]
    whole, lone = states[:1], states[2:3]
    coarse = cut_region(whole, 1, 2)
    parts: list[Any] = list(found)
    for got, want in zip(
        parts, (coarse, upsample(coarse, (6, 6)), modules[2](upsample(coarse, (6, 6))), lone), strict=True
    ):
        torch.testing.assert_close(got[1], want[0], rtol=1e-4, atol=1e-4)
    student, teacher = found.interpolated_NdHW, found.teacher_NdHW
    kl_NHW = tokensr.token_kl_map(student, teacher, 2.0)
    loss = token_kl(student.movedim(1, -1), teacher.movedim(1, -1), 2.0)
    torch.testing.assert_close(kl_NHW.mean(), loss)
    measured = tokensr.measure(backbone, [views], modules, 2.0)
    np.testing.assert_allclose(measured.kl[2]["interp"], kl_NHW.mean(dim=0), rtol=1e-4)
    assert [record["layer"] for record in tokensr.table(measured)] == [0, 2]
    with look():
        saved(tokensr.draw(measured, 2, "title"), tmp_path)
        saved(tokensr.draw_features([(models.picture(3), [part[1] for part in parts])], "title"), tmp_path)


def test_pictures_of_several_grids_share_a_map(tmp_path: Path) -> None:
    """Would catch maps of other grids that are cut or padded, and means that change when they are resized."""
    model = models.family("qwen2_5_vl", layers=3, hidden=32)
    processor = models.processor(model)
    backbone = Backbone(model, processor, name="random")
    make = ViewMaker(processor, models.prompt(0, processor=processor).partition("<|image_pad|>")[0])
    views = [make(models.picture(seed, size)) for seed, size in enumerate([(60, 60), (120, 44), (56, 88)])]
    torch.manual_seed(0)
    modules = {1: TokenSR(32)}
    together = tokensr.measure(backbone, views, modules, 1.0)
    alone = [tokensr.measure(backbone, [of_one], modules, 1.0) for of_one in views]
    assert [found.kl[1]["interp"].shape for found in alone] == [(8, 8), (6, 15), (11, 7)]
    for name in ("interp", "token_sr"):
        assert together.kl[1][name].shape == (8, 8)
        for measure in ("kl", "cosine"):
            means = [getattr(found, measure)[1][name].mean() for found in alone]
            np.testing.assert_allclose(getattr(together, measure)[1][name].mean(), np.mean(means), rtol=1e-5)
    with look():
        saved(tokensr.draw(together, 1, "title"), tmp_path)


def test_cells_of_another_grid_are_weighted_by_area() -> None:
    """Would catch cells that go to a neighbour: thirds of a line that are spread over its halves."""
    values = torch.tensor([[6.0, 12.0, 30.0]])
    assert tokensr.spread(values, (1, 2)).tolist() == [[8.0, 24.0]]
    assert tokensr.spread(values, (2, 3)).tolist() == [[6.0, 12.0, 30.0]] * 2
    assert torch.equal(tokensr.spread(values, (1, 3)), values)
