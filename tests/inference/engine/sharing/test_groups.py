"""Attention of rows in groups against torch's attention over each row's keys side by side."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from blink.inference.cache import KeysValues
from blink.inference.engine.rows import Layout
from blink.inference.engine.sharing.extensions import Extension
from blink.inference.engine.sharing.groups import Groups, cut_groups
from blink.inference.engine.sharing.trunk import Entry, Trunk
from blink.inference.saliency import attention_row
from blink.inference.spans import Placement
from blink.model.backbone import Frame

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


def layout(trunks: list[Trunk], extensions: list[Extension | None], tokens: int) -> Layout:
    device = torch.device("cpu")
    of_trunks = Groups.of(trunks, tokens, device)
    assert of_trunks is not None
    nothing = Frame(None, (torch.empty(0), torch.empty(0)))
    return Layout(of_trunks, Groups.of(extensions, tokens, device), nothing)


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
    rows = layout(trunks, lived, T)
    got_RTAE = rows.attend(0, query_RATE.transpose(1, 2), own, 0.3)
    last_R = torch.tensor([4, 2, 1, 4, 0, 3, 4, 2])
    got_RP = rows.attention_row(0, query_RATE[torch.arange(R), :, last_R], own.keys, last_R, 0.3)
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


def test_rows_that_remain_attend_as_before() -> None:
    """Would catch places of rows that are mixed up once others have left."""
    torch.manual_seed(0)
    kept = keys_values(3, 6)
    trunks = [trunk(kept, row) for row in (0, 0, 1, 2, 2, 2)]
    by_number = {one.index: one for one in trunks}
    trunks = [by_number[one.index] for one in trunks]
    groups = Groups.of(trunks, 1, torch.device("cpu"))
    assert groups is not None
    query = torch.randn(6, 1, K, E)
    every = groups.attend(query, groups.shared.layer(0), 0.3)
    for rows in ([0, 1, 2, 3, 4, 5], [1, 2, 5], [4], [5, 0]):
        some = groups.select(rows)
        assert some is not None
        got = some.attend(query[rows], some.shared.layer(0), 0.3)
        for part, whole in zip(got, every, strict=True):
            torch.testing.assert_close(part, whole[rows])


def test_nothing_leaks_between_rows() -> None:
    """Would catch a row that is not finite, and makes its neighbours so."""
    kept = keys_values(2, 6)
    trunks = [trunk(kept, 0), trunk(kept, 1)]
    extension = Extension(trunks[0], 0, torch.zeros(3, 4), Placement((1, 3)))
    extension.append(Entry(keys_values(1, 3), 0), extension.hidden_Xd)
    own, query = keys_values(2, T), torch.randn(2, T, K, E)
    rows = layout(trunks, [extension, None], T)
    want = rows.attend(0, query, own, 0.3)
    query[0], own.values[0] = float("nan"), float("nan")
    got = rows.attend(0, query, own, 0.3)
    assert not got[0].isfinite().any()
    torch.testing.assert_close(got[1], want[1])


def test_shared_keys_are_read_where_they_lie() -> None:
    """Would catch copies of keys that lie side by side already: that is what sharing them saves."""
    kept = keys_values(3, 6)
    by_number = [trunk(kept, row) for row in range(3)]
    groups = Groups.of([by_number[row] for row in (1, 1, 1, 2, 2, 2)], 2, torch.device("cpu"))
    assert groups is not None
    keys, _ = groups.shared.layer(0)
    assert keys.shape[0] == 2
    assert keys.data_ptr() == kept.keys[1:].data_ptr()


def test_groups_are_cut_where_that_is_cheaper() -> None:
    """Would catch groups of one row that are padded to as many as the largest has."""
    assert cut_groups(["a"] * 18, columns=300, queries=1) == [list(range(18))]
    assert cut_groups(["a", "b"] * 9, columns=300, queries=13) == [[*range(0, 18, 2)], [*range(1, 18, 2)]]
    uneven = cut_groups(["a"] * 18 + list("bcdefghi"), columns=300, queries=13)
    assert 9 < len(uneven) < 26
    assert max(map(len, uneven)) < 9
    assert sorted(row for group in uneven for row in group) == list(range(26))


@pytest.mark.parametrize(
    ("dtype", "rows", "heads", "beside"),
    [
        (torch.bfloat16, (0, 1), 2, 2),
        (torch.bfloat16, (0, 1), 4, 2),
        (torch.bfloat16, (0, 1), 8, 1),
        (torch.bfloat16, (0, 0, 1, 1), 4, 1),
        (torch.float32, (0, 1), 2, 1),
    ],
)
def test_keys_for_steps(dtype: torch.dtype, rows: tuple[int, ...], heads: int, beside: int) -> None:
    """Would catch heads side by side where queries are many or the kernel is another, and other numbers by them."""
    torch.manual_seed(0)
    kept = KeysValues(*(part.to(dtype) for part in keys_values(2, 6)))
    trunks = [trunk(kept, row) for row in range(2)]
    groups = Groups.of([trunks[row] for row in rows], 1, torch.device("cpu"))
    assert groups is not None
    found = groups.keys_for_steps(0, heads)
    assert found.keys.shape == (2, K // beside, 6, beside * E)
    query = torch.randn(len(rows), 1, heads, E).to(dtype)
    got, want = (groups.attend(query, parts, 0.3) for parts in (found, groups.shared.layer(0)))
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2**-7, atol=2**-8)
    wide = KeysValues(*(torch.randn(2, K, 6, 512).to(dtype) for _ in range(2)))
    alone = Groups.of([trunk(wide, row) for row in rows], 1, torch.device("cpu"))
    assert alone is not None
    assert alone.keys_for_steps(0, heads).keys.shape[1] == K
