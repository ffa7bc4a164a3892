"""Many pictures of several sizes at once, for every family: tiles, positions of three axes, features added behind layers."""

from typing import Any

import pytest

import blink
from blink.inference.engine import Ask, Engine
from blink.inference.run import Run
from blink.model.backbone import Backbone
from tests import models
from tests.inference.engine.test_many import bare, one_by_one

SIZES = ((60, 60), (120, 44), (28, 90), (60, 60))


@pytest.mark.parametrize("name", models.SMALL)
def test_pictures_of_several_sizes(name: str) -> None:
    """Would catch trunks or visual tokens of another picture, grids and positions mixed up, and boxes of another ask."""
    model: Any = models.family(name, layers=3)
    backbone = Backbone(model, models.processor(model))
    image_token = backbone.processor.image_token
    runs = [
        Run(),
        Run(blink.Policy((1,), 0.3, 0.26, positions="region")),
        Run(blink.Policy((0, 2), 0, 0, selector="box")),
        Run(blink.Policy((1,), 0, 0, source="encode")),
    ]
    asks = [
        Ask(
            models.picture(number, size),
            [f"{image_token} is there a {thing}?" for thing in ("dog", "red cat")[: 1 + number % 2]],
            runs if number else runs[:2],
            boxes=[[2, 2, 20, 20], None][: 1 + number % 2],
        )
        for number, size in enumerate(SIZES)
    ]
    engine = Engine(backbone)
    got = [bare(answers) for answers in engine.answer_many(asks, max_new_tokens=4, pictures=4)]
    assert got == one_by_one(engine, asks, 4)
    assert any(
        event[2] == "expand"
        for answers in got
        for of_run in answers
        for _, _, events in of_run
        for event in events
    )
