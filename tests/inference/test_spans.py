"""Spans, insertion and removal against rows written out by hand.

Tokens: 0 padding, 9 image, 1-3 system, 5-8 text; an extension is written as 90 and above.
"""

from dataclasses import replace

import torch
from torch import Tensor

from blink.inference.calls.prompt_spans import find_spans
from blink.inference.spans import Placement, Spans
from blink.model.token_sr import Box

IMAGE = 9
ROWS = torch.tensor(
    [
        [0, 0, 1, 9, 9, 9, 5],
        [1, 2, 9, 9, 9, 5, 6],
        [9, 9, 9, 5, 6, 0, 0],
    ]
)


def spans() -> Spans:
    """Of ROWS: padded in front, not at all, and behind."""
    return find_spans(ROWS, ROWS != 0, IMAGE)


def vectors(tokens_BN: Tensor) -> Tensor:
    """Hidden states [B, N, 1] that show which token they are."""
    return tokens_BN[..., None].float()


def test_spans() -> None:
    """Catches one row's columns used for all, and a last token that is padding."""
    found = spans()
    assert found.visual_starts == (3, 2, 0)
    assert found.visual_ends == (6, 5, 3)
    assert found.lasts == (6, 6, 4)
    assert found.position_CBN[0].tolist() == [
        [0, 0, 0, 1, 2, 3, 4],
        [0, 1, 2, 3, 4, 5, 6],
        [0, 1, 2, 3, 4, 0, 0],
    ]


def test_insert_and_remove() -> None:
    """Catches an extension before the visual span's end, and positions or padding left as they were."""
    found = spans()
    extension_BXd = vectors(torch.tensor([[90, 91], [92, 93], [94, 95]]))
    whole = found.insert(vectors(ROWS), extension_BXd)
    assert whole[..., 0].tolist() == [
        [0, 0, 1, 9, 9, 9, 90, 91, 5],
        [1, 2, 9, 9, 9, 92, 93, 5, 6],
        [9, 9, 9, 94, 95, 5, 6, 0, 0],
    ]
    longer = found.extended([Placement((1, 2))] * 3)
    assert longer.columns == 9
    assert longer.extension == 2
    assert longer.valid_BN is not None
    assert longer.valid_BN.tolist() == (whole[..., 0] != 0).tolist()
    assert longer.lasts == (8, 8, 6)
    assert longer.position_CBN[0, 2].tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 0]
    assert torch.equal(longer.take_extension(whole), extension_BXd)
    assert torch.equal(longer.remove(whole), vectors(ROWS))
    assert longer.visual(whole, (1, 2))[..., 0].tolist() == [[9, 9]] * 3


def test_selected_rows() -> None:
    """Catches rows that keep another row's spans once they run apart."""
    some = spans().select([2, 0])
    assert some.visual_ends == (3, 6)
    assert some.lasts == (4, 6)
    assert some.valid_BN is not None
    assert some.valid_BN.tolist() == (ROWS[[2, 0]] != 0).tolist()
    whole = spans()
    assert whole.select([0, 1, 2]) is whole


def test_without_padding() -> None:
    """Catches a mask where none is needed: attention then takes a slower path."""
    found = find_spans(ROWS[1:2], None, IMAGE)
    longer = replace(found, grids=((1, 3),)).extended([Placement((2, 2))])
    assert longer.valid_BN is None
    assert longer.position_CBN.tolist() == [[list(range(11))]]
    assert longer.next_position().tolist() == [11]


def test_positions_of_refined_cells() -> None:
    """Catches text that moves away from its picture, and tokens that take the position of another cell."""
    ids = torch.tensor([[0, 1, *[9] * 12, 5, 6]])
    found = replace(find_spans(ids, ids != 0, IMAGE), grids=((3, 4),))
    placement = Placement((3, 4), Box(top=1, left=2, height=2, width=2))
    longer = found.extended([placement])
    assert longer.position_CBN[0, 0].tolist() == [
        *[0, 0, *range(1, 13)],
        *[7, 7, 8, 8, 11, 11, 12, 12, 11, 11, 12, 12],
        *[13, 14],
    ]
    assert longer.next_position().tolist() == found.next_position().tolist() == [15]


def test_positions_that_count_rows_and_columns() -> None:
    """Catches an extension that does not stand as a second picture would, and text that runs into it."""
    cell_CV = torch.tensor([[2] * 6, [2, 2, 2, 3, 3, 3], [2, 3, 4, 2, 3, 4]])
    behind = Placement((2, 3))
    assert behind.positions(cell_CV, (2, 3), 5).tolist() == [[5] * 6, [5, 5, 5, 6, 6, 6], [5, 6, 7, 5, 6, 7]]
    assert (behind.shift(3), behind.shift(1)) == (3, 6)
    inside = Placement((2, 2), Box(0, 1, 1, 2))
    assert inside.positions(cell_CV, (2, 3), 5).tolist() == [[2] * 4, [2] * 4, [3, 4, 3, 4]]
    assert inside.shift(3) == 0
