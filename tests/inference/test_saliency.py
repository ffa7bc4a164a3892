"""Saliency rows, region sums and ratios against hand-computed cases."""

import math

import pytest
import torch

from blink.inference.policy import Policy
from blink.inference.saliency import (
    Decision,
    RowsOfSaliency,
    attention_row,
    focus,
    region_sums,
    scan_and_decide,
    similarity_row,
)


def test_attention_row_by_hand() -> None:
    """Catches a softmax over visual tokens only, a sum over heads, or a missing scale."""
    query_BAE = torch.tensor([[[2.0], [0.0]]])
    keys_BKNE = torch.tensor([[[[0.0], [math.log(3)]], [[5.0], [7.0]]]])
    row_BN = attention_row(query_BAE, [keys_BKNE], None, scaling=0.5)
    torch.testing.assert_close(row_BN, torch.tensor([[(1 / 4 + 1 / 2) / 2, (3 / 4 + 1 / 2) / 2]]))


def test_attention_row_shares_grouped_keys() -> None:
    """Catches query heads paired with another group's keys (heads 0 and 1 share key head 0)."""
    torch.manual_seed(0)
    query_BAE, keys_BKNE = torch.randn(2, 4, 8), torch.randn(2, 2, 5, 8)
    whole = attention_row(query_BAE, [keys_BKNE.repeat_interleave(2, dim=1)], None, 0.3)
    torch.testing.assert_close(attention_row(query_BAE, [keys_BKNE], None, 0.3), whole)


def test_attention_row_without_padding_is_the_unpadded_row() -> None:
    """Catches padding that takes part in the softmax."""
    torch.manual_seed(1)
    query_BAE, keys_BKNE = torch.randn(1, 2, 4), torch.randn(1, 2, 6, 4)
    valid_BN = torch.tensor([[False, False, True, True, True, True]])
    row_BN = attention_row(query_BAE, [keys_BKNE], valid_BN, 1.0)
    assert row_BN[0, :2].tolist() == [0, 0]
    torch.testing.assert_close(row_BN[:, 2:], attention_row(query_BAE, [keys_BKNE[:, :, 2:]], None, 1.0))


def test_attention_row_over_blocks_is_the_row_over_all() -> None:
    """Would catch blocks that are normalised apart, and shared keys that reach one sample only."""
    query_BAE, own_BKNE = torch.randn(3, 4, 8), torch.randn(3, 2, 5, 8)
    shared_KNE = torch.randn(2, 6, 8)
    whole_BKNE = torch.cat((shared_KNE.expand(3, -1, -1, -1), own_BKNE), dim=2)
    torch.testing.assert_close(
        attention_row(query_BAE, [shared_KNE, own_BKNE], None, 0.3),
        attention_row(query_BAE, [whole_BKNE], None, 0.3),
    )


def test_attention_row_is_float32() -> None:
    """Catches half-precision sums that would decide near a threshold."""
    row_BN = attention_row(torch.randn(1, 2, 4).bfloat16(), [torch.randn(1, 2, 6, 4).bfloat16()], None, 1.0)
    assert row_BN.dtype == torch.float32


def test_similarity_row_by_hand() -> None:
    """Catches one softmax per head, or a scale by one head's width: heads are one long vector here."""
    query_BAE = torch.tensor([[[1.0], [2.0], [0.0], [-1.0]]])
    keys_BKVE = torch.tensor([[[[1.0], [2.0]], [[4.0], [0.0]]]])
    # token 0: 1*1 + 2*1 + 0*4 - 1*4 = -1; token 1: 1*2 + 2*2 + 0 - 0 = 6; both over sqrt(4)
    want = torch.tensor([[-0.5, 3.0]]).softmax(dim=-1)
    torch.testing.assert_close(similarity_row(query_BAE, keys_BKVE), want)


def test_regions_are_row_major_blocks() -> None:
    """Catches stripes for blocks and columns for rows, on a grid that is not square."""
    saliency_BV = torch.arange(24.0)[None]  # 4 x 6
    assert region_sums(saliency_BV, (4, 6), 2).tolist() == [[24, 42, 96, 114]]
    found = focus(saliency_BV, (4, 6), 2)
    assert found.region_B.tolist() == [3]
    assert found.ratio_B.item() == pytest.approx(114 / 276)


def test_lowest_region_wins_ties() -> None:
    """Catches ties that depend on the batch."""
    saliency_BV = torch.zeros(2, 16)
    saliency_BV[0, [2, 8]] = 0.5  # regions 1 and 2
    saliency_BV[1, [10, 8]] = 0.5  # regions 3 and 2
    found = focus(saliency_BV, (4, 4), 2)
    assert found.region_B.tolist() == [1, 2]
    assert found.ratio_B.tolist() == [0.5, 0.5]


def test_no_saliency_at_all_is_an_even_spread() -> None:
    """Catches 0 / 0, which would be NaN in the events and never cross a threshold."""
    assert focus(torch.zeros(1, 9), (3, 3), 3).ratio_B.item() == pytest.approx(1 / 9)


def test_rows_of_different_grids() -> None:
    """Catches a row whose saliency is read with another row's grid, and rows taken in the order of their grids."""
    wide, high = torch.zeros(1, 12), torch.zeros(2, 6)
    wide[0, 3] = high[0, 5] = high[1, 2] = 1.0
    groups = [RowsOfSaliency([1], (2, 6), wide), RowsOfSaliency([2, 0], (3, 2), high)]
    policy = Policy([0])
    decisions = [Decision(0, row, policy, "", row) for row in range(3)]
    events = scan_and_decide(lambda _: groups, decisions)
    assert [event.region for event in events] == [2, 1, 3]


def test_regions_of_an_uneven_grid_share_all_saliency() -> None:
    """Catches cells that count twice or nowhere."""
    saliency_BV = torch.rand(2, 35)
    sums = region_sums(saliency_BV, (7, 5), 3)
    torch.testing.assert_close(sums.sum(dim=1), saliency_BV.sum(dim=1))
    torch.testing.assert_close(sums[:, 0], saliency_BV[:, [0, 5]].sum(dim=1))
    torch.testing.assert_close(sums[:, 8], saliency_BV.view(2, 7, 5)[:, 4:, 3:].sum(dim=(1, 2)))


def test_decisions_of_many_policies_on_shared_rows() -> None:
    """Catches a decision on another row, kind of saliency or patch count than its policy's, and work done twice."""
    even, corner = torch.full((36,), 1 / 36), torch.zeros(36)
    corner[35] = 1.0
    rows = {"attention": torch.stack((even, corner)), "similarity": torch.stack((corner, even))}
    asked: list[str] = []

    def saliency(kind: str) -> list[RowsOfSaliency]:
        asked.append(kind)
        return [RowsOfSaliency([0, 1], (6, 6), rows[kind])]

    by_attention, in_nine = Policy([2], 0.9, 0.3), Policy([2], 0.9, 0.3, patches=3)
    by_similarity = Policy([2], 0.9, 0.3, saliency="similarity")
    policies = (by_attention, in_nine, by_similarity)
    decisions = [Decision(2, row, policy, "", row) for row in (1, 0) for policy in policies]
    events = scan_and_decide(saliency, decisions)
    assert [(event.region, event.action) for event in events] == [
        *((3, "expand"), (8, "expand"), (0, "drop")),
        *((0, "drop"), (0, "drop"), (3, "expand")),
    ]
    assert [event.ratio for event in events] == pytest.approx([1, 1, 1 / 4, 1 / 4, 1 / 9, 1])
    assert sorted(asked) == ["attention", "similarity"]
