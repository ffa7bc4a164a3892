"""The look, on rows by hand."""

import numpy as np
import pytest
from PIL import Image

from blink.bench import Sample
from blink.evaluation.tuning.look import Look, look_at, look_settings, look_table
from blink.evaluation.tuning.report import look_plot
from blink.model.views import ViewMaker
from blink.runs.values import UserError
from tests import models
from tests.evaluation.tuning.conftest import SPACE


def sample(number: int, box: tuple[float, ...] | None) -> Sample:
    return Sample(
        str(number), f"picture {number}", "?", "", "", lambda: Image.new("RGB", (40, 40)), {"box": box}
    )


SAMPLES = [sample(0, (0, 0, 10, 10)), sample(1, (30, 30, 40, 40)), sample(2, None)]


@pytest.fixture
def views() -> ViewMaker:
    return ViewMaker(models.processor(models.llava(grid=6, layers=4, hidden=32)), grid=(6, 6))


def row(*events: tuple[float, int]) -> dict[str, object]:
    return {
        "events": [{"layer": i, "ratio": r, "region": g, "action": "keep"} for i, (r, g) in enumerate(events)]
    }


def test_what_is_seen_at_each_layer(views: ViewMaker) -> None:
    """Would catch regions compared with those of another question or layer, and boxes that count though there is none."""
    rows = [row((0.3, 0), (0.9, 3)), row((0.5, 3), (0.7, 3)), row((0.7, 1), (0.8, 0))]
    space = SPACE.__class__(("interp",), (0, 1), (), 1, (2,), ("region",))
    look = look_at(look_settings(space), [rows], SAMPLES, views)[2]
    assert look.right_N.tolist() == [0, 3, -1]
    shares = look.right_shares()
    assert shares is not None
    assert [share.value for share in shares] == [1.0, 0.5]
    assert look.order() == [0, 1]
    first, second = look_table({2: look})
    assert (first["ratio_median"], second["ratio_median"]) == (0.5, 0.8)
    assert (first["right"], second["right"], first["chance"], first["questions_with_box"]) == (
        1.0,
        0.5,
        0.25,
        2,
    )


def test_without_boxes_the_ratio_decides(views: ViewMaker) -> None:
    """Would catch a search on photographs that does not know where to start."""
    rows = [row((0.3, 0), (0.9, 3))]
    space = SPACE.__class__(("interp",), (0, 1), (), 1, (2,), ("region",))
    look = look_at(look_settings(space), [rows], SAMPLES[2:], views)[2]
    assert look.right_shares() is None
    assert look.order() == [1, 0]
    assert look_table({2: look})[0]["right"] is None


def test_pictures_that_are_too_narrow(views: ViewMaker) -> None:
    """Would catch quantiles of nothing."""
    space = SPACE.__class__(("interp",), (0, 1), (), 1, (3,), ("region",))
    with pytest.raises(UserError, match=r"space.patches=3: all pictures are too narrow"):
        look_at(look_settings(space), [[{"events": []}]], SAMPLES[:1], views)


def test_every_number_of_patches_is_drawn() -> None:
    """Would catch lines that vanish in silence where there are more numbers of patches than colours."""
    count = 8
    looks = {
        patches: Look(
            patches, (0, 1), np.full((2, 2), 0.5), np.zeros((2, 2), int), np.array([0, 1]), ["a", "b"]
        )
        for patches in range(2, 2 + count)
    }
    for axes in look_plot(looks).axes:
        legend = axes.get_legend()
        assert legend is not None
        names = [text.get_text() for text in legend.get_texts()]
        assert names == [f"{patches} x {patches} regions" for patches in looks]
        lines = [line for line in axes.get_lines() if line.get_label() in names]
        assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == count
