"""TokenSR and interpolation against the zoomed quadrant."""

from pathlib import Path

import numpy as np
import torch

from blink import TokenSR
from blink.analysis.figures import tokensr
from blink.model.backbone import Backbone
from blink.model.prompts import template_named
from blink.model.token_sr import cut_region, upsample
from blink.model.views import ViewMaker, prefix_ids
from blink.runs.style import look
from blink.training.objective import token_kl
from tests import models
from tests.analysis.figures.conftest import saved


def test_token_features_are_those_of_training(backbone: Backbone, tmp_path: Path) -> None:
    """Would catch quadrants in another order than regions, and a KL other than the loss."""
    views = ViewMaker(backbone.processor)(models.picture(3))
    prefix = prefix_ids(backbone.processor, template_named("vicuna_v1").prefix)
    torch.manual_seed(0)
    modules = {0: TokenSR(32), 2: TokenSR(32)}
    found = tokensr.features(backbone, prefix, views, modules)[2]
    whole = backbone.visual_states(prefix, views.full_Chw[None], [2])[2]
    lone = backbone.visual_states(prefix, views.quadrants_QChw[1:2], [2])[2]
    coarse = cut_region(whole, 1, 2)
    for got, want in zip(
        found[1], (coarse, upsample(coarse, (6, 6)), modules[2](upsample(coarse, (6, 6))), lone), strict=True
    ):
        torch.testing.assert_close(got, want[0], rtol=1e-4, atol=1e-4)
    kl_HW = tokensr.token_kl_map(found[1].interp_dHW[None], found[1].teacher_dHW[None], 2.0)
    loss = token_kl(found[1].interp_dHW.movedim(0, -1), found[1].teacher_dHW.movedim(0, -1), 2.0)
    torch.testing.assert_close(kl_HW.mean(), loss)
    measured = tokensr.measure(backbone, prefix, [views], modules, 2.0)
    each = [tokensr.token_kl_map(one.interp_dHW[None], one.teacher_dHW[None], 2.0)[0] for one in found]
    np.testing.assert_allclose(measured.kl[2]["interp"], torch.stack(each).mean(dim=0), rtol=1e-4)
    assert [record["layer"] for record in tokensr.table(measured)] == [0, 2]
    with look():
        saved(tokensr.draw(measured, 2, "title"), tmp_path)
        saved(tokensr.draw_features([(models.picture(3), found[1])], "title"), tmp_path)
