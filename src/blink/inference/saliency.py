"""Saliency-guided scanning: query and keys -> saliency of visual tokens -> regions -> ratio -> event. Sec. 3.1, Eq. 1-3.

Functions of tensors: projections and spans are found elsewhere. Everything is computed in float32, inside
`torch.autocast`, too.

Axes: B samples, A query heads, K key heads, E width of one head, N tokens of the sequence, V = H x W visual tokens
of the grid, R = p x p regions.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from blink.inference.boxes import SeenBox
from blink.inference.policy import Event, Policy, decide
from blink.model.token_sr import region_box
from blink.runs.values import NotFiniteError


class Focus(NamedTuple):
    """The region of highest saliency: `ratio_B` float32 in (0, 1], its share; `region_B` int64, its row-major index."""

    ratio_B: Tensor
    region_B: Tensor


def without_autocast(like: Tensor) -> AbstractContextManager[Any]:
    """A context in which matrix products on the device of `like` stay in the dtype of their factors."""
    kind = like.device.type
    # Entering torch's context costs as much as a small matrix product; not every kind of device has it.
    enabled = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if enabled else nullcontext()


def attention_scores(query_BAE: Tensor, keys: Sequence[Tensor]) -> Tensor:
    """One token's query times all keys, not yet scaled: [B, K, A / K, N] float32; arguments as `attention_row`."""
    B, A, E = query_BAE.shape
    K = keys[0].shape[-3]
    query_LGE = query_BAE.float().reshape(
        B * K, A // K, E
    )  # L rows times key heads, G queries that share one
    with without_autocast(query_BAE):
        blocks = [
            torch.bmm(query_LGE, block.float().flatten(0, 1).mT).view(B, K, A // K, -1)
            if block.dim() == 4
            # a product would copy it for each sample
            else torch.einsum("bkge,kme->bkgm", query_LGE.unflatten(0, (B, K)), block.float())
            for block in keys
        ]
    return torch.cat(blocks, dim=-1) if len(blocks) > 1 else blocks[0]


def attention_of(scores_BKGN: Tensor, valid_BN: Tensor | None) -> Tensor:
    """Attention of scaled scores: softmax over the columns that are no padding, and the mean over heads [B, N]."""
    if valid_BN is not None:
        scores_BKGN = scores_BKGN.masked_fill(~valid_BN[:, None, None], float("-inf"))
    return scores_BKGN.softmax(dim=-1).mean(dim=(-3, -2))


def attention_row(
    query_BAE: Tensor, keys: Sequence[Tensor], valid_BN: Tensor | None, scaling: float
) -> Tensor:
    """One row of the attention map, averaged over heads: softmax over all keys, never the whole map.

    Equals the last row that eager attention would return, up to the rounding of its dtype.

    Args:
        query_BAE: rotated query of one token per sample; A is a multiple of K.
        keys: rotated keys of every token that this query may see, in blocks that stand side by side: [B, K, M, E],
            or [K, M, E] where all samples see the same; their M add up to N.
        valid_BN: bool, False where a column is padding; None if there is none.
        scaling: what attention multiplies its scores by.

    Returns:
        [B, N] float32, rows sum to 1, 0 at padding.
    """
    return attention_of(attention_scores(query_BAE, keys) * scaling, valid_BN)


def similarity_row(query_BAE: Tensor, keys_BKVE: Tensor) -> Tensor:
    """Eq. 1-2 read literally: one dot product over all heads, scaled by the root of its length, then softmax.

    Grouped keys are repeated for the query heads that share them. The softmax over the visual tokens makes the
    ratio of Eq. 3 defined for negative scores.

    Args:
        query_BAE: linear projection of the last prompt token, no rotary embedding.
        keys_BKVE: linear projections of the visual tokens, no rotary embedding.

    Returns:
        [B, V] float32, rows sum to 1.
    """
    B, A, E = query_BAE.shape
    K = keys_BKVE.shape[1]
    query_BKE = query_BAE.float().view(B, K, A // K, E).sum(dim=2)
    with without_autocast(query_BAE):
        scores_BV = torch.einsum("bke,bkve->bv", query_BKE, keys_BKVE.float())
    scores_BV = scores_BV / (A * E) ** 0.5
    return scores_BV.softmax(dim=-1)


def focus(saliency_BV: Tensor, grid: tuple[int, int], patches: int) -> Focus:
    """Sum saliency over the p x p regions, take the hottest and its share (Eq. 3).

    Args:
        saliency_BV: non-negative saliency of the H x W visual tokens, row-major.
        grid: (H, W).

    Returns:
        The ratio and the region; the lowest index wins ties. No saliency anywhere counts as an even spread.
    """
    found = [hottest(sums) for sums in region_sums(saliency_BV, grid, patches).tolist()]
    ratios, regions = zip(*found, strict=True)
    device = saliency_BV.device
    return Focus(torch.tensor(ratios, device=device), torch.tensor(regions, device=device))


def hottest(sums: Sequence[float]) -> tuple[float, int]:
    """The ratio of Eq. 3 and the region of highest saliency, of one sample's saliency by region."""
    total, most = sum(sums), max(sums)
    return (1 / len(sums) if total == 0 else most / total), sums.index(most)


def region_sums(saliency_BV: Tensor, grid: tuple[int, int], patches: int) -> Tensor:
    """Aggregate the saliency of V = H x W tokens over p x p regions: [B, R] float32, row-major."""
    H, W = grid
    saliency_BV = saliency_BV.float()
    if H % patches == W % patches == 0:
        blocks = saliency_BV.view(-1, patches, H // patches, patches, W // patches)
        return blocks.sum(dim=(2, 4)).flatten(1)
    saliency_BHW = saliency_BV.unflatten(1, grid)
    boxes = (region_box(region, patches, grid) for region in range(patches**2))
    return torch.stack(
        [
            saliency_BHW[:, box.top : box.top + box.height, box.left : box.left + box.width].sum(dim=(1, 2))
            for box in boxes
        ],
        dim=1,
    )


class Decision(NamedTuple):
    """A decision to take, on one row of saliency by one policy.

    Attributes:
        layer: about to run, scanned by the policy.
        row: of the saliency.
        policy: which decides.
        key: names the sample, for policies that draw.
        sample: its number among the prompts, which errors name.
        box: of what the sample's question is about, for policies that select by it.
    """

    layer: int
    row: int
    policy: Policy
    key: str
    sample: int
    box: SeenBox | None = None


class RowsOfSaliency(NamedTuple):
    """Saliency of some rows whose base views have one grid.

    Attributes:
        rows: their numbers.
        grid: (H, W).
        saliency_bV: [b, V] float32.
    """

    rows: Sequence[int]
    grid: tuple[int, int]
    saliency_bV: Tensor


@torch.no_grad()
def scan_and_decide(
    saliency: Callable[[str], Sequence[RowsOfSaliency]], decisions: Sequence[Decision]
) -> list[Event]:
    """From saliency to the event of each decision, in their order: regions, ratio, thresholds (Algorithm 1, 4 to 10).

    Equal events are one object: the many runs of a sweep differ less than their thresholds do.

    The rows may be those of a batch at one layer or at many (`scan.py`), or shared by many runs (`branching.py`). Events
    are plain numbers, for which a GPU has to be waited for: once for all that is given.

    Args:
        saliency: computes the saliency of all rows, from its kind as `Policy.saliency` names it.

    Raises:
        NotFiniteError: a ratio is not a finite number, which compares with no threshold.
    """
    kinds_and_patches = list(dict.fromkeys((d.policy.saliency, d.policy.patches) for d in decisions))
    groups = {kind: saliency(kind) for kind in dict.fromkeys(kind for kind, _ in kinds_and_patches)}
    summed = [
        (kind, patches, rows, region_sums(rows.saliency_bV, rows.grid, patches))
        for kind, patches in kinds_and_patches
        for rows in groups[kind]
    ]
    parts = [sums_bR for *_, sums_bR in summed]
    flat = torch.cat([part.flatten() for part in parts]) if len(parts) > 1 else parts[0].flatten()
    numbers = iter(flat.tolist())
    found = {
        (kind, patches, row): (*hottest(list(islice(numbers, patches**2))), rows.grid)
        for kind, patches, rows, _ in summed
        for row in rows.rows
    }
    known: dict[Event, Event] = {}
    events = []
    for layer, row, policy, key, sample, box in decisions:
        ratio, region, grid = found[policy.saliency, policy.patches, row]
        if not math.isfinite(ratio):
            raise NotFiniteError(
                f"the saliency ratio is {ratio}, for the hidden states that enter the layer",
                layer=layer,
                sample=sample,
            )
        boxed = None if box is None else box.region(policy.patches, grid)
        event = decide(policy, layer, ratio, region, key, boxed)
        events.append(known.setdefault(event, event))
    return events
