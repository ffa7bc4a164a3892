"""Attention once a region was expanded: numbers, and that they are drawn."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from blink import TokenSR
from blink.analysis.cases import as_seen
from blink.analysis.figures import redistribution, redistribution_drawings
from blink.analysis.figures.redistribution import case_table
from blink.analysis.probe import Prober
from blink.model.backbone import Backbone
from blink.model.views import ViewMaker
from blink.runs.style import look
from tests.analysis.figures.conftest import questions, saved


def test_entropy_of_known_spreads() -> None:
    """Would catch entropy that depends on the total, on the number of tokens, or on the base of the logarithm."""
    assert redistribution.normalised_entropy(torch.full((9,), 0.01)) == pytest.approx(1)
    assert redistribution.normalised_entropy(torch.tensor([0.0, 0.3, 0.0])) == 0
    half = redistribution.normalised_entropy(torch.tensor([0.2, 0.2, 0.0, 0.0]))
    assert half == pytest.approx(0.5)
    assert math.isnan(redistribution.normalised_entropy(torch.zeros(0)))


def test_redistribution(prober: Prober, backbone: Backbone, tmp_path: Path) -> None:
    """Would catch an extension that dies, methods that are the same, and the original's numbers for the extension's."""
    shown = [as_seen(sample, ViewMaker(backbone.processor, grid=(6, 6)), 2) for sample in questions()]
    torch.manual_seed(0)
    found = redistribution.measure(prober, shown, 1, 2, modules={1: TokenSR(32)}, keep_maps=1)
    assert found.layers == [1, 2, 3]
    vanilla, interp, trained = (found.spreads[name] for name in ("vanilla", "interp", "token_sr"))
    assert np.isnan(vanilla.measures["total_extension"]).all()
    assert (interp.measures["total_extension"] > 0).all()
    assert not np.allclose(interp.measures["total_extension"], trained.measures["total_extension"])
    np.testing.assert_array_equal(interp.expanded_N, vanilla.hottest_NL[:, 0])
    np.testing.assert_array_equal(trained.expanded_N, interp.expanded_N)
    taken = interp.measures["total_original"][0, 2], interp.measures["total_extension"][0, 2]
    look_3 = interp.maps[0][3]
    assert taken == pytest.approx((float(look_3.original_V.sum()), float(look_3.extension_X.sum())))
    records = redistribution.table(found)
    assert [(r["method"], r["layer"]) for r in records[3:5]] == [("interp", 1), ("interp", 2)]
    more = (interp.measures["total_extension"] > interp.measures["total_original"])[:, 0].mean()
    assert records[3]["total_higher_on_extension"] == pytest.approx(more)
    assert records[3]["samples_with_box"] == 2
    assert len(case_table(shown[:1], found)) == 9
    with look():
        saved(redistribution_drawings.draw(found, "title"), tmp_path)
        saved(redistribution_drawings.draw_cases(shown[:1], found, [2, 3], "title"), tmp_path)


def test_positions_reach_the_extension(prober: Prober, backbone: Backbone) -> None:
    """Would catch a setting that changes nothing, and one that changes the backbone as it is."""
    shown = [as_seen(sample, ViewMaker(backbone.processor, grid=(6, 6)), 2) for sample in questions(2)]
    appended, refined = (
        redistribution.measure(prober, shown, 1, 2, positions, modules=None, keep_maps=0).spreads
        for positions in ("append", "region")
    )
    total = "total_extension"
    assert np.abs(appended["interp"].measures[total] - refined["interp"].measures[total]).max() > 1e-4
    stock, again = (spreads["vanilla"].measures["total_original"] for spreads in (appended, refined))
    np.testing.assert_array_equal(stock, again)


def test_redistribution_without_modules(prober: Prober, backbone: Backbone) -> None:
    """Would catch TokenSR modules needed for interpolation."""
    shown = [as_seen(sample, ViewMaker(backbone.processor, grid=(6, 6)), 2) for sample in questions(2)]
    found = redistribution.measure(prober, shown, 2, 2, modules=None, keep_maps=0)
    assert list(found.spreads) == ["vanilla", "interp"]
