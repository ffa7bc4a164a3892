"""Scenes drawn on request."""

from typing import Any

import pytest

from blink.integrations.demo.scenes import HARDEST, draw
from blink.runs.values import UserError
from blink.scenes.draw import SPLIT_SIZE, scene


def test_a_number_names_a_scene_of_the_validation_split() -> None:
    """Would catch a page that shows test scenes, or another picture than its questions are about."""
    for hard in HARDEST:
        drawn = draw(7, hard)
        assert drawn.picture.tobytes() == scene("validation", 7, hard).draw().tobytes()
        assert (drawn.number, drawn.difficulty) == (7, hard)
        assert 3 <= len(drawn.questions) <= 7
        assert draw(7, hard).questions == drawn.questions
        kinds = {kind for item in scene("validation", 7, hard).objects for kind in item.kind}
        assert all(set(q.answer.lower().split()) & kinds for q in drawn.questions if "color" in q.text)
    assert draw(None, "easy").number < SPLIT_SIZE


@pytest.mark.parametrize(
    ("number", "hard"),
    [(-1, "easy"), (SPLIT_SIZE, "easy"), ("7", "easy"), (1.5, "easy"), (1, "?"), (1, None)],
)
def test_others_are_refused(number: Any, hard: Any) -> None:
    """Would catch a scene of another split behind a large number."""
    with pytest.raises(UserError):
        draw(number, hard)
