"""Saliency-guided scanning: query and keys -> saliency of visual tokens -> regions -> ratio -> event. Sec. 3.1, Eq. 1-3.

Functions of tensors: projections and spans are found elsewhere. Everything is computed in float32, inside
`torch.autocast`, too.

Axes: B samples, A query heads, K key heads, E width of one head, N tokens of the sequence, V = H x W visual tokens
of the grid, R = p x p regions.
"""

import math
from collections.abc import Callable, Iterator, Sequence
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
    B, A, E = query_BAE.shape
    K = keys[0].shape[-3]
    query_BKGE = query_BAE.float().view(B, K, A // K, E) * scaling
    with without_autocast(query_BAE):
        blocks = [
            query_BKGE @ block.float().transpose(2, 3)
            if block.dim() == 4
            else torch.einsum(
                "bkge,kme->bkgm", query_BKGE, block.float()
            )  # a product would copy it for each sample
            for block in keys
        ]
    scores_BKGN = torch.cat(blocks, dim=-1) if len(blocks) > 1 else blocks[0]
    if valid_BN is not None:
        scores_BKGN = scores_BKGN.masked_fill(~valid_BN[:, None, None], float("-inf"))
    return scores_BKGN.softmax(dim=-1).mean(dim=(1, 2))


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
        row: of the saliency.
        policy: which decides.
        key: names the sample, for policies that draw.
        sample: its number among the prompts, which errors name.
        box: of what the sample's question is about, for policies that select by it.
    """

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


class PendingScan(NamedTuple):
    """What was measured at a scanned layer, still on the device, and the decisions that it is for.

    Attributes:
        layer: which was scanned.
        decisions: to take.
        sums: saliency by region [b, R] of some rows, under the kind of saliency and the patches that it was summed for.
    """

    layer: int
    decisions: Sequence[Decision]
    sums: list[tuple[str, int, RowsOfSaliency, Tensor]]


@torch.no_grad()
def measure(
    layer: int, saliency: Callable[[str], Sequence[RowsOfSaliency]], decisions: Sequence[Decision]
) -> PendingScan:
    """Saliency of the regions that some decisions need (Eq. 3); nothing is read from the device.

    The rows may be those of a batch under one policy (`algorithm.py`), or shared by many runs (`branching.py`).

    Args:
        layer: the layer about to run, scanned by every policy of `decisions`.
        saliency: computes the saliency of all rows, from its kind as `Policy.saliency` names it.
    """
    sums: list[tuple[str, int, RowsOfSaliency, Tensor]] = []
    for kind in dict.fromkeys(decision.policy.saliency for decision in decisions):
        groups = saliency(kind)
        for patches in dict.fromkeys(d.policy.patches for d in decisions if d.policy.saliency == kind):
            sums += [
                (kind, patches, rows, region_sums(rows.saliency_bV, rows.grid, patches)) for rows in groups
            ]
    return PendingScan(layer, decisions, sums)


def decide_pending(scans: Sequence[PendingScan]) -> list[list[Event]]:
    """The events of each decision of some scans: the ratio, and the thresholds (Algorithm 1, 4 to 10).

    Events are plain numbers, for which a GPU has to be waited for: once for all that is given.

    Raises:
        NotFiniteError: a ratio is not a finite number, which compares with no threshold.
    """
    parts = [sums_bR for scan in scans for *_, sums_bR in scan.sums]
    home = parts[0].device
    flat = torch.cat([part.flatten().to(home) for part in parts]) if len(parts) > 1 else parts[0].flatten()
    numbers = iter(flat.tolist())
    return [_events(scan, numbers) for scan in scans]


def scan_and_decide(
    layer: int, saliency: Callable[[str], Sequence[RowsOfSaliency]], decisions: Sequence[Decision]
) -> list[Event]:
    """From saliency to the event of each decision, in their order: `measure`, and `decide_pending` at once."""
    [events] = decide_pending([measure(layer, saliency, decisions)])
    return events


def _events(scan: PendingScan, numbers: Iterator[float]) -> list[Event]:
    """The events of a scan, whose sums are the next ones of `numbers`."""
    ratio_and_region: dict[tuple[str, int, int], tuple[float, int]] = {}
    grids: dict[int, tuple[int, int]] = {}
    for kind, patches, group, sums_bR in scan.sums:
        grids |= dict.fromkeys(group.rows, group.grid)
        for row in group.rows:
            ratio_and_region[kind, patches, row] = hottest(list(islice(numbers, sums_bR.shape[1])))
    events = []
    for row, policy, key, sample, box in scan.decisions:
        ratio, region = ratio_and_region[policy.saliency, policy.patches, row]
        if not math.isfinite(ratio):
            raise NotFiniteError(
                f"the saliency ratio is {ratio}, for the hidden states that enter the layer",
                layer=scan.layer,
                sample=sample,
            )
        boxed = None if box is None else box.region(policy.patches, grids[row])
        events.append(decide(policy, scan.layer, ratio, region, key, boxed))
    return events
