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
        found, (coarse, upsample(coarse, (6, 6)), modules[2](upsample(coarse, (6, 6))), lone), strict=True
    ):
        torch.testing.assert_close(got[1], want[0], rtol=1e-4, atol=1e-4)
    student, teacher = found.interpolated_NdHW, found.teacher_NdHW
    kl_NHW = tokensr.token_kl_map(student, teacher, 2.0)
    loss = token_kl(student.movedim(1, -1), teacher.movedim(1, -1), 2.0)
    torch.testing.assert_close(kl_NHW.mean(), loss)
    measured = tokensr.measure(backbone, prefix, [views], modules, 2.0)
    np.testing.assert_allclose(measured.kl[2]["interp"], kl_NHW.mean(dim=0), rtol=1e-4)
    assert [record["layer"] for record in tokensr.table(measured)] == [0, 2]
    with look():
        saved(tokensr.draw(measured, 2, "title"), tmp_path)
        saved(tokensr.draw_features([(models.picture(3), [part[1] for part in found])], "title"), tmp_path)
