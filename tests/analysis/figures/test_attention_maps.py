"""Maps of single questions."""

from pathlib import Path

import pytest

from blink.analysis.cases import as_seen
from blink.analysis.figures import attention_maps
from blink.analysis.probe import Prober
from blink.model.backbone import Backbone
from blink.model.views import ViewMaker
from blink.runs.style import look
from tests.analysis.figures.conftest import questions, saved


def test_attention_maps(prober: Prober, backbone: Backbone, tmp_path: Path) -> None:
    """Would catch maps of the wrong sample or transposed, and a figure that does not draw."""
    shown = [as_seen(sample, ViewMaker(backbone.processor, grid=(6, 6)), 2) for sample in questions(2)]
    cases = attention_maps.measure(prober, shown, [1, 3], 2)
    one = cases[1][1]
    blocks = one.attention_HW.reshape(2, 3, 2, 3).sum(axis=(1, 3)).reshape(-1)
    assert one.region == blocks.argmax()
    assert one.ratio == pytest.approx(blocks.max() / blocks.sum(), rel=1e-5)
    records = attention_maps.table(shown, cases)
    assert [record["layer"] for record in records] == [1, 3, 1, 3]
    assert [record["right_region"] for record in records] == [2, 2, None, None]
    with look():
        saved(attention_maps.draw(shown, cases, 2, "title"), tmp_path)
