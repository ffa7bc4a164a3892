"""Prompts whose spans are found, and those that are refused. What is found is in test_spans.py, too."""

import pytest
import torch

from blink.inference.calls.prompt_spans import find_spans
from tests.inference.test_spans import IMAGE


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1, 5, 6, 7], "row 1.*no image"),
        ([9, 5, 9, 6], "row 1.*2 separate images"),
        ([1, 5, 9, 9], "row 1.*ends at its image"),
        ([9, 9, 0, 0], "row 1.*ends at its image"),
        ([9, 0, 5, 6], "row 1.*attention_mask"),
        ([0, 9, 9, 0], "row 1.*ends at its image"),
    ],
)
def test_refuses(row: list[int], message: str) -> None:
    """Catches a prompt without exactly one image and text behind it, and holes in the mask."""
    ids_BS = torch.tensor([[0, 9, 9, 5], row])
    with pytest.raises(ValueError, match=message):
        find_spans(ids_BS, ids_BS != 0, IMAGE)


def test_image_tokens_in_padding_do_not_count() -> None:
    """Catches a padded row whose padding happens to be the image token."""
    ids_BS = torch.tensor([[9, 1, 9, 9, 5]])
    valid_BS = torch.tensor([[False, True, True, True, True]])
    assert find_spans(ids_BS, valid_BS, IMAGE).visual_starts == (2,)
