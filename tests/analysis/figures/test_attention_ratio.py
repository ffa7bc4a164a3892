"""How sharply attention is concentrated, per layer, and how often at the right region."""

from pathlib import Path

import numpy as np
import pytest

from blink.analysis.figures import attention_ratio
from blink.analysis.probe import Prober
from blink.bench.statistics import Metric, estimates
from blink.runs.style import look
from tests.analysis.figures.conftest import questions, saved


def by_hand(**changes: object) -> attention_ratio.Ratios:
    """Two layers, four samples of three pictures, the last one without a box."""
    made = attention_ratio.Ratios(
        layers=[2, 5],
        ratio_NL=np.array([[0.3, 0.9], [0.4, 0.8], [0.5, 0.7], [0.6, 0.6]]),
        hottest_NL=np.array([[0, 3], [1, 3], [2, 3], [3, 3]]),
        right_N=np.array([0, 3, 3, -1]),
        patches=2,
        samples=[("a", "p"), ("b", "p"), ("c", "q"), ("d", "r")],
    )
    return made._replace(**changes)  # type: ignore[arg-type]


def test_share_of_correct_regions_by_hand() -> None:
    """Would catch samples without a box counted as wrong, and questions taken as independent of their picture."""
    first, last = attention_ratio.correct_shares(by_hand())
    assert first.value == pytest.approx(1 / 3)
    assert last.value == pytest.approx(2 / 3)
    by_picture = estimates({"last": Metric.share(np.array([1.0, 1.0]), np.array([2.0, 1.0]))})["last"]
    assert last == pytest.approx(by_picture)
    assert 0 < last.low < 0.5
    assert 0.9 < last.high < 1


def test_share_without_relation_by_hand() -> None:
    """Would catch a chance level that ignores that attention and objects prefer the same place."""
    assert attention_ratio.unrelated_shares(by_hand()) == pytest.approx([1 / 9, 2 / 3])


def test_ratio_table_has_quartiles() -> None:
    """Would catch quartiles over layers in place of samples."""
    record = attention_ratio.table(by_hand())[0]
    assert (
        record["ratio_quartile_low"],
        record["ratio_median"],
        record["ratio_quartile_high"],
    ) == pytest.approx((0.375, 0.45, 0.525))
    assert record["samples_with_box"] == 3


def test_ratio_figure_marks_layers_above_chance(tmp_path: Path) -> None:
    """Would catch marks at layers whose interval reaches down to chance."""
    once = by_hand()
    often = by_hand(
        ratio_NL=np.tile(once.ratio_NL, (10, 1)),
        hottest_NL=np.tile(once.hottest_NL, (10, 1)),
        right_N=np.tile(once.right_N, 10),
        samples=[
            (f"{name}{copy}", f"{picture}{copy}") for copy in range(10) for name, picture in once.samples
        ],
    )
    with look():
        figure = attention_ratio.draw(often, "title", singles=1)
        saved(figure, tmp_path)
    marked = [line for line in figure.axes[0].lines if str(line.get_label()).startswith("looks at the right")]
    assert [list(np.asarray(line.get_xdata())) for line in marked] == [[5]]
    assert len(figure.axes) == 2


def test_ratio_figure_of_one_question(tmp_path: Path) -> None:
    """Would catch quartiles and intervals of a single sample."""
    alone = by_hand(
        ratio_NL=np.array([[0.3, 0.9]]),
        hottest_NL=np.array([[0, 3]]),
        right_N=np.array([0]),
        samples=[("a", "p")],
    )
    with look():
        figure = attention_ratio.draw(alone, "title")
        saved(figure, tmp_path)
    assert len(figure.axes) == 1


def test_measured_ratios_belong_to_their_samples(prober: Prober) -> None:
    """Would catch batches whose rows are mixed up: a sample alone must give what it gives in company."""
    asked = questions()
    together = attention_ratio.measure(prober, asked, [None] * 4, [0, 2], 3)
    alone = attention_ratio.measure(prober, asked[3:], [None], [0, 2], 3)
    np.testing.assert_allclose(together.ratio_NL[3], alone.ratio_NL[0], rtol=1e-4)
    assert together.hottest_NL[3].tolist() == alone.hottest_NL[0].tolist()
    assert together.boxed == 0
