"""Attention of rows in groups against torch's attention over each row's keys side by side."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from blink.inference.cache import KeysValues
from blink.inference.engine.extensions import Extension
from blink.inference.engine.groups import Groups, cut, cut_groups
from blink.inference.engine.trunk import Entry, Trunk
from blink.inference.saliency import attention_row
from blink.inference.spans import Placement

K, E, T = 2, 8, 5


def trunk(kept: KeysValues, row: int) -> Trunk:
    """A trunk of one layer."""
    positions = torch.arange(4)[None]
    return Trunk(kept.keys.shape[2], 1, (2, 2), positions, 9, [kept], row, {})


def keys_values(b: int, columns: int) -> KeysValues:
    return KeysValues(torch.randn(b, K, columns, E), torch.randn(b, K, columns, E))


def of_row(things: Any, row: int) -> list[KeysValues]:
    """Keys and values [K, N, E] of a row's trunk and extension."""
    found = [thing.entry(0) for thing in (things[0][row], things[1][row]) if thing is not None]
    return [KeysValues(*(part[entry.row] for part in entry.of)) for entry in found]


@pytest.mark.parametrize("heads", [2, 6])
def test_equals_attention_over_each_rows_keys(heads: int) -> None:
    """Would catch rows that see another picture, extension or row, padding that is seen, and heads that are mixed up."""
    torch.manual_seed(0)
    short, long = keys_values(2, 6), keys_values(1, 9)
    first, second, third = trunk(short, 0), trunk(short, 1), trunk(long, 0)
    extensions: list[Extension | None] = []
    for of, columns in ((first, 4), (third, 3)):
        extension = Extension(of, 0, torch.zeros(columns, 4), Placement((1, columns)))
        extension.append(Entry(keys_values(1, columns), 0), extension.hidden_Xd)
        extensions.append(extension)
    trunks = [third, first, first, second, first, third, first, second]
    lived = [extensions[1], None, extensions[0], None, extensions[0], None, extensions[0], None]
    R = len(trunks)
    query_RATE, own = torch.randn(R, heads, T, E), keys_values(R, T)
    groups = Groups(trunks, lived, T, query_RATE.device)
    every = groups.keys_values(0, own)
    got_RTAE = groups.attend(query_RATE, every, 0.3)
    last_R = torch.tensor([4, 2, 1, 4, 0, 3, 4, 2])
    got_RP = groups.attention_row(query_RATE[torch.arange(R), :, last_R], every.keys, last_R, 0.3)
    for row in range(R):
        shared = of_row((trunks, lived), row)
        keys, values = (
            torch.cat([*(block[part] for block in shared), own[part][row]], dim=1)[None] for part in (0, 1)
        )
        before = keys.shape[2] - T
        seen = F.pad(torch.ones(T, T).tril().bool(), (before, 0), value=True)
        want = F.scaled_dot_product_attention(
            query_RATE[row : row + 1], keys, values, seen, scale=0.3, enable_gqa=True
        )
        torch.testing.assert_close(got_RTAE[row].transpose(0, 1), want[0])
        token = int(last_R[row])
        want_1N = attention_row(
            query_RATE[row : row + 1, :, token], [keys[:, :, : before + token + 1]], None, 0.3
        )
        P = trunks[row].columns
        torch.testing.assert_close(got_RP[row, :P], want_1N[0, :P])


def test_groups_are_cut_where_that_is_cheaper() -> None:
    """Would catch many rows of long answers side by side, each of which pays for all others."""
    assert cut_groups(["a"] * 18, shared=300, own=4, queries=1) == [list(range(18))]
    long = cut_groups(["a"] * 18 + ["b"], shared=300, own=200, queries=1)
    assert 4 <= len(long) <= 12
    assert sorted(row for group in long for row in group) == list(range(19))
    assert cut([[0, 1, 2, 3, 4], [5]], 2) == [[0], [1, 2], [3, 4], [5]]
