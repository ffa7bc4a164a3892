"""Attention to some of the keys against torch's attention to all of them."""

import math

import pytest
import torch
from torch.nn import functional as F

from blink.inference.engine.sharing import partial
from blink.inference.engine.sharing.partial import attend, merge

b, L, A, E = 3, 5, 6, 8


def keys_values(K: int, N: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(b, K, N, E).to(dtype), torch.randn(b, K, N, E).to(dtype)


@pytest.mark.parametrize("K", [1, 2, 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_merged_parts_equal_attention_to_all_keys(K: int, dtype: torch.dtype) -> None:
    """Would catch heads mixed up, a causal part that sees ahead, a mask that is ignored, and weights of parts."""
    torch.manual_seed(0)
    query = torch.randn(b, L, A, E).to(dtype)
    first, second, own = (keys_values(K, N, dtype) for N in (7, 4, L))
    seen_bN = torch.arange(4) < torch.tensor([4, 1, 3])[:, None]
    mask = torch.zeros(b, 1, 1, 4).masked_fill(~seen_bN[:, None, None], -math.inf)
    parts = [
        attend(query, *first, 0.3),
        attend(query, *second, 0.3, mask_b11N=mask),
        attend(query, *own, 0.3, causal=True),
    ]
    got = merge(parts)
    assert got.dtype == dtype
    assert all(part.lse_bLA.dtype == torch.float32 for part in parts)
    keys, values = (torch.cat((*of_all,), dim=2).float() for of_all in zip(first, second, own, strict=True))
    seen = torch.cat(
        (
            torch.ones(b, L, 7, dtype=torch.bool),
            seen_bN[:, None].expand(-1, L, -1),
            torch.ones(L, L).tril().bool().expand(b, -1, -1),
        ),
        dim=-1,
    )
    want = F.scaled_dot_product_attention(
        query.float().transpose(1, 2), keys, values, seen[:, None], scale=0.3, enable_gqa=True
    ).transpose(1, 2)
    # Beside a single softmax in half precision only the parts' means are rounded once more.
    tolerance = {torch.float32: 1e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}[dtype]
    torch.testing.assert_close(got.float(), want, rtol=tolerance, atol=2 * tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("K", "g"), [(6, 2), (6, 3), (6, 6), (3, 3), (2, 1)])
@pytest.mark.parametrize("tokens", [1, 3])
def test_heads_side_by_side_are_heads(K: int, g: int, tokens: int, dtype: torch.dtype) -> None:
    """Would catch a query that sees another head's keys, means taken of another head, and groups out of order."""
    torch.manual_seed(0)
    query, given = torch.randn(b, tokens, A, E).to(dtype), keys_values(K, 7, dtype)
    mask = torch.zeros(b, 1, 1, 7)
    mask[1, ..., 4:] = -math.inf
    keys, values = (part.unflatten(1, (-1, g)).transpose(2, 3).flatten(3) for part in given)
    got = attend(query, keys, values, 0.3, mask_b11N=mask)
    want = attend(query, *given, 0.3, mask_b11N=mask)
    rtol, atol = (1e-6, 1e-6) if dtype == torch.float32 else (2**-7, 2**-8)
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)


def test_a_part_of_which_a_token_sees_nothing() -> None:
    """Would catch a part's numbers that leak into a token that does not attend to it."""
    seen = attend(torch.randn(b, L, A, E), *keys_values(2, 4, torch.float32), 0.3)
    unseen = partial.Partial(torch.full((b, L, A, E), 7.0), torch.full((b, L, A), -math.inf))
    for parts in ([seen, unseen], [seen, unseen, unseen]):
        assert torch.equal(merge(parts), seen.mean_bLAE)


def test_large_scores() -> None:
    """Would catch scores in half precision, and sums of parts that overflow; Qwen2's scores are that large."""
    torch.manual_seed(0)
    query = (40 * torch.randn(b, L, A, E)).bfloat16()
    parts_of = [keys_values(2, N, torch.bfloat16) for N in (6, 9)]
    got = merge([attend(query, 20 * keys, values, 0.5) for keys, values in parts_of])
    keys = torch.cat([20 * keys for keys, _ in parts_of], dim=2).float()
    values = torch.cat([values for _, values in parts_of], dim=2).float()
    want = F.scaled_dot_product_attention(
        query.float().transpose(1, 2), keys, values, scale=0.5, enable_gqa=True
    ).transpose(1, 2)
    torch.testing.assert_close(got.float(), want, rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize("causal", [False, True])
def test_plain_products_equal_the_kernel(causal: bool) -> None:
    """Would catch other numbers on devices for which torch has no kernel that returns log-sum-exps."""
    query = torch.randn(b, A, L, E)
    keys, values = keys_values(A, L, torch.float32)
    mask = None
    if not causal:
        mask = torch.zeros(b, 1, L, L)
        mask[0, :, :, 2:] = -math.inf
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, keys, values, 0.0, causal, attn_mask=mask, scale=0.3
    )
    for got, want in zip(partial.plain(query, keys, values, mask, causal, 0.3), kernel, strict=True):
        torch.testing.assert_close(got, want)


def test_shapes_of_cudas_kernel() -> None:
    """Would catch a signature of torch's that has changed: shapes alone, as no GPU is needed for them."""
    query, keys = torch.empty(b, 2, L, E, device="meta"), torch.empty(b, 2, 9, E, device="meta")
    mean, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, keys, keys, None, True, 0.0, False, scale=0.3
    )
    assert mean.shape == (b, 2, L, E)
    assert lse.shape[:2] == (b, 2)
    assert lse.shape[2] >= L


def test_a_device_without_the_kernel_takes_plain_products(caplog: pytest.LogCaptureFixture) -> None:
    """Would catch an engine that stops where torch's kernel does not know the card; here, as there is none for CPUs."""
    assert not partial.equals_plain(torch.device("cpu"), torch.bfloat16, E)
    assert "attention by plain products on cpu, torch.bfloat16" in caplog.text


def test_memory_that_runs_out_says_nothing_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch plain products for the rest of a process whose memory was once full; float16 is tried only here."""

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(partial, "_cuda", full)
        with pytest.raises(torch.OutOfMemoryError):
            partial.equals_plain(torch.device("cpu"), torch.float16, E)
    monkeypatch.setattr(partial, "_cuda", partial.plain)
    assert partial.equals_plain(torch.device("cpu"), torch.float16, E)
    partial.equals_plain.cache_clear()


@pytest.mark.parametrize("tokens", [1, 2, 3])
@pytest.mark.parametrize("causal", [False, True])
def test_few_queries_in_bfloat16(tokens: int, causal: bool) -> None:
    """Would catch numbers of the queries with which few are padded."""
    query = torch.randn(b, tokens, 2, E).bfloat16()
    keys, values = keys_values(2, tokens if causal else 6, torch.bfloat16)
    mask = None
    if not causal:
        mask = torch.zeros(b, 1, 1, 6)
        mask[..., 4:] = -math.inf
    got = attend(query, keys, values, 0.3, mask_b11N=mask, causal=causal)
    want = partial.plain(query.transpose(1, 2), keys, values, mask, causal, 0.3)
    assert got.mean_bLAE.shape == query.shape
    torch.testing.assert_close(got.mean_bLAE.transpose(1, 2), want[0], rtol=2**-6, atol=2**-6)
    torch.testing.assert_close(got.lse_bLA.transpose(1, 2), want[1], rtol=1e-2, atol=1e-2)
