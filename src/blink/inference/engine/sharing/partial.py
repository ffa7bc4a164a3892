"""Attention to some of the keys, and the softmax over all of them merged of such parts.

Tokens that share keys attend to these where they lie, all in one product, and to their own tokens' beside them. What is
merged are means of values, by the log-sum-exps of the scores behind them, as blockwise and cascaded attention do.

Axes: b batch entries, L tokens, N columns of keys, A query heads, K key heads, G = A / K, Q = L G, E width of one head; g key
heads that lie side by side, k = K / g, q = g Q, e = g E.
"""

import logging
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from blink.inference.saliency import without_autocast

log = logging.getLogger(__name__)

ALIGNED = 8
"""Of so many columns is a mask a multiple, which CUDA's kernel asks for."""

FEWEST = 4
"""Queries that torch's bfloat16 kernel for CPUs is given: for one it takes two and a half times as long as for four."""


class Partial(NamedTuple):
    """Attention of some tokens to some keys.

    Attributes:
        mean_bLAE: of values, weighted by a softmax over these keys.
        lse_bLA: log-sum-exp of these keys' scaled scores, float32 at least; -inf where a token sees none.
    """

    mean_bLAE: Tensor
    lse_bLA: Tensor


def attend(
    query_bLAE: Tensor,
    keys_bKNE: Tensor,
    values_bKNE: Tensor,
    scaling: float,
    *,
    mask_b11N: Tensor | None = None,
    causal: bool = False,
) -> Partial:
    """Attention of tokens to keys.

    Args:
        query_bLAE: rotated; A is a multiple of K.
        keys_bKNE, values_bKNE: or with heads side by side, [b, k, N, e], unless `causal`.
        mask_b11N: numbers to add to scores, of which no entry may rule out all keys; None: nothing.
        causal: the keys are those of the L tokens themselves, each of which sees itself and those before it.
    """
    b, L, A, E = query_bLAE.shape
    g = keys_bKNE.shape[3] // E
    K = keys_bKNE.shape[1] * g
    # Under autocast a rotary embedding leaves q and k in float32, beside values in half precision.
    dtype = torch.promote_types(query_bLAE.dtype, values_bKNE.dtype)
    query_bLAE, keys_bKNE, values_bKNE = (part.to(dtype) for part in (query_bLAE, keys_bKNE, values_bKNE))
    if causal and A > K:
        keys_bKNE, values_bKNE = (part.repeat_interleave(A // K, dim=1) for part in (keys_bKNE, values_bKNE))
        K = A
    G = A // K
    query_bKQE = query_bLAE.unflatten(2, (K, G)).transpose(1, 2).reshape(b, K, L * G, E)
    query_bkqe = query_bKQE if g == 1 else _of_heads(query_bKQE, g)
    q = query_bkqe.shape[2]
    if q < FEWEST and dtype == torch.bfloat16 and query_bLAE.device.type == "cpu":
        query_bkqe = F.pad(query_bkqe, (0, 0, 0, FEWEST - q))
    if mask_b11N is not None:
        mask_b11N = mask_b11N.to(dtype).expand(-1, *query_bkqe.shape[1:3], -1)
    with without_autocast(query_bLAE):
        mean_bkqe, lse_bkq = _kernel(query_bkqe, keys_bKNE, values_bKNE, mask_b11N, causal, scaling)
    mean_bkqe, lse_bkq = mean_bkqe[:, :, :q], lse_bkq[:, :, :q]
    mean_bKQE = mean_bkqe if g == 1 else _own_heads(mean_bkqe, g)
    lse_bKQ = lse_bkq.reshape(b, K, L * G)
    # Kernels write the heads of a token side by side, so that this most often copies nothing.
    mean_bLAE = mean_bKQE.unflatten(2, (L, G)).transpose(1, 2).reshape(b, L, A, E)
    return Partial(mean_bLAE, lse_bKQ.unflatten(2, (L, G)).transpose(1, 2).reshape(b, L, A))


def _of_heads(query_bKQE: Tensor, g: int) -> Tensor:
    """Queries of keys whose heads lie side by side, g of them: zeros in the others' places, [b, k, q, e]."""
    query_bkgQE = query_bKQE.unflatten(1, (-1, g))
    b, k, _, Q, E = query_bkgQE.shape
    placed_bkgQgE = query_bKQE.new_zeros(b, k, g, Q, g, E)
    placed_bkgQgE.diagonal(dim1=2, dim2=4).copy_(query_bkgQE.permute(0, 1, 3, 4, 2))
    return placed_bkgQgE.view(b, k, g * Q, g * E)


def _own_heads(mean_bkqe: Tensor, g: int) -> Tensor:
    """Of the means of all g heads those of each query's own: [b, K, Q, E]."""
    mean_bkgQgE = mean_bkqe.unflatten(3, (g, -1)).unflatten(2, (g, -1))
    mean_bkQEg = mean_bkgQgE.diagonal(dim1=2, dim2=4)
    return mean_bkQEg.permute(0, 1, 4, 2, 3).flatten(1, 2)


def merge(parts: Sequence[Partial]) -> Tensor:
    """Attention to the keys of all parts: [b, L, A, E], in the parts' dtype.

    Args:
        parts: of the same tokens, each of which sees some key of the first.
    """
    mean_bLAE, lse_bLA = parts[0]
    dtype = mean_bLAE.dtype
    wide = torch.promote_types(dtype, lse_bLA.dtype)
    for part in parts[1:]:
        # The share of this part in the softmax over all keys so far.
        weight_bLA = (part.lse_bLA - lse_bLA).sigmoid().to(wide)
        mean_bLAE = mean_bLAE.to(wide).lerp(part.mean_bLAE.to(wide), weight_bLA[..., None])
        lse_bLA = torch.logaddexp(lse_bLA, part.lse_bLA)
    return mean_bLAE.to(dtype)


def _kernel(
    query_bKQE: Tensor,
    keys_bKNE: Tensor,
    values_bKNE: Tensor,
    mask: Tensor | None,
    causal: bool,
    scaling: float,
) -> tuple[Tensor, Tensor]:
    """Means [b, K, Q, E] and log-sum-exps [b, K, Q], by torch's kernels behind `scaled_dot_product_attention`.

    That function itself does not return log-sum-exps; torch's own context parallelism calls these kernels for them.
    """
    device = query_bKQE.device
    if device.type == "cpu":
        mean_bKQE, lse_bKQ = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query_bKQE, keys_bKNE, values_bKNE, 0.0, causal, attn_mask=mask, scale=scaling
        )
        return mean_bKQE, lse_bKQ
    fits = device.type == "cuda" and equals_plain(device, query_bKQE.dtype, query_bKQE.shape[3])
    return (_cuda if fits else plain)(query_bKQE, keys_bKNE, values_bKNE, mask, causal, scaling)


def _cuda(
    query_bKQE: Tensor,
    keys_bKNE: Tensor,
    values_bKNE: Tensor,
    mask: Tensor | None,
    causal: bool,
    scaling: float,
) -> tuple[Tensor, Tensor]:
    mean, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        query_bKQE, keys_bKNE, values_bKNE, mask, True, 0.0, causal, scale=scaling
    )
    return mean, lse[..., : query_bKQE.shape[2]]  # padded behind


@lru_cache
def equals_plain(device: torch.device, dtype: torch.dtype, E: int) -> bool:
    """Whether CUDA's kernel takes such heads, and gives on this card what plain products give; tried once."""
    generator = torch.Generator(device).manual_seed(0)
    L, N = 5, 2 * ALIGNED

    def draw(tokens: int) -> Tensor:
        return torch.randn(2, 3, tokens, E, generator=generator, device=device).to(dtype)

    mask = torch.zeros(2, 1, 1, N, dtype=dtype, device=device)
    mask[1, ..., ALIGNED + 1 :] = -math.inf
    try:
        for given in (
            (draw(L), draw(N), draw(N), mask.expand(-1, 3, L, -1), False, 0.3),
            (draw(L), draw(L), draw(L), None, True, 0.3),
        ):
            for got, want in zip(_cuda(*given), plain(*given), strict=True):
                torch.testing.assert_close(got.float(), want.float(), rtol=0.02, atol=0.02)
    except torch.OutOfMemoryError:
        raise  # says nothing of the kernel, and is not kept
    except (RuntimeError, AssertionError) as error:
        log.warning("attention by plain products on %s, %s, heads of %d: %s", device, dtype, E, error)
        return False
    return True


def plain(
    query_bKQE: Tensor,
    keys_bKNE: Tensor,
    values_bKNE: Tensor,
    mask: Tensor | None,
    causal: bool,
    scaling: float,
) -> tuple[Tensor, Tensor]:
    """What the kernels compute, in plain products of at least float32, for devices that have none."""
    wide = torch.promote_types(query_bKQE.dtype, torch.float32)
    scores_bKQN = (query_bKQE.to(wide) * scaling) @ keys_bKNE.to(wide).transpose(2, 3)
    if mask is not None:
        scores_bKQN = scores_bKQN + mask
    if causal:
        Q, N = scores_bKQN.shape[2:]
        seen_QN = torch.ones(Q, N, dtype=torch.bool, device=scores_bKQN.device).tril()
        scores_bKQN = scores_bKQN.masked_fill(~seen_QN, -math.inf)
    mean_bKQE = scores_bKQN.softmax(dim=-1) @ values_bKNE.to(wide)
    return mean_bKQE.to(query_bKQE.dtype), scores_bKQN.logsumexp(dim=-1)
