"""Training batches of the tiny backbone."""

from dataclasses import replace

import pytest
import torch

from blink.scenes.ask import QUESTION_KINDS
from blink.scenes.draw import scene
from blink.scenes.tiny.lessons import GRID, Course, PatchLessons, QuestionLessons, pixels
from blink.scenes.tiny.model import build_processor
from blink.scenes.view import view

COURSE = Course(dict.fromkeys(QUESTION_KINDS, 1.0), {"easy": 1.0, "hard": 1.0}, long=0.5, kept=20)


@pytest.mark.parametrize("quadrant", [None, 2])
def test_training_pixels_are_the_processors(quadrant: int | None) -> None:
    """Would catch a backbone trained on other pixels than it gets."""
    image = view(scene("test", 4), quadrant).image
    expected = build_processor().image_processor(image, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(pixels(image), expected)


def test_lessons_follow_from_stage_and_step() -> None:
    """Would catch batches that depend on what was drawn before: a resumed training would repeat or lose some."""
    tokenizer = build_processor().tokenizer
    one, two = (QuestionLessons("x", COURSE, tokenizer, 2, 5) for _ in range(2))
    one[0]
    for left, right in zip(one[3], two[3], strict=True):
        assert torch.equal(torch.as_tensor(left), torch.as_tensor(right))
    assert not torch.equal(one[3].pixels_BCYX, one[4].pixels_BCYX)


def test_targets_are_the_next_tokens_of_the_response() -> None:
    """Would catch targets shifted by one, or a loss on the question."""
    tokenizer = build_processor().tokenizer
    batch = QuestionLessons("x", COURSE, tokenizer, 2, 5)[1]
    asked = tokenizer.convert_tokens_to_ids("ASSISTANT:")
    for ids_S, targets_S in zip(batch.ids_BS, batch.targets_BS, strict=True):
        where = (targets_S != -100).nonzero()[:, 0].tolist()
        assert where
        for column in where:
            if targets_S[column] != tokenizer.eos_token_id:
                assert targets_S[column] == ids_S[column + 1]
            assert ids_S[column] == asked or targets_S[column - 1] == ids_S[column]


def test_kept_tokens_show_every_object() -> None:
    """Would catch questions about objects whose tokens were left out."""
    labels = PatchLessons("x", 4, 3)[0]
    assert labels.colour_BV.shape == (4, GRID**2)
    assert ((labels.colour_BV > 0) == (labels.shape_BV > 0)).all()
    batch = QuestionLessons("x", replace(COURSE, kept=60), build_processor().tokenizer, 4, 3)[0]
    assert (batch.kept_BK.diff(dim=1) > 0).all()
    assert batch.positions_BS[0, batch.prefix_length] == 2 + GRID**2
