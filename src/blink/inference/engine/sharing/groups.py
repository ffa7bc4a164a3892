"""Rows of many pictures in one call of attention: rows that share keys are a group, and a group is a batch entry.

Rows share the keys of a trunk, and fewer of them those of an extension. The tokens of a group's rows are the queries of one
batch entry, beside the keys that they share, which are read where they lie: nothing is copied per row. Groups are padded to
as many rows as the largest has, so one of many rows is cut where that costs less.

Legend: R rows, c groups, q places for rows in a group, T tokens of a row, N columns of keys (the most), A query heads, K key
heads, G = A / K, E width of one head.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from blink.inference.cache import KeysValues
from blink.inference.engine.sharing.partial import ALIGNED, FEWEST, Partial, attend
from blink.inference.engine.sharing.trunk import Entry, stack
from blink.inference.saliency import without_autocast


class Block(Protocol):
    """A trunk or an extension, whose keys rows share. Compared by identity."""

    @property
    def columns(self) -> int:
        """Its tokens."""

    def entry(self, layer: int) -> Entry:
        """Keys and values of a layer."""


_COPY = 24
"""What it costs to copy and read a column of keys, in products of a query with it."""

_WIDEST = 512
"""Columns of heads side by side, beyond which torch's kernel is slower by them."""


def cut_groups(keys: Sequence[object], columns: int, queries: int) -> list[list[int]]:
    """Group rows of equal keys, in pieces of such a size that attention costs least.

    Args:
        keys: of each row.
        columns: of keys that a group shares.
        queries: tokens of each row that attend in a call.
    """
    classes: dict[object, list[int]] = {}
    for row, key in enumerate(keys):
        classes.setdefault(key, []).append(row)
    counts = sorted({len(rows) for rows in classes.values()})
    sizes = sorted({-(-count // pieces) for count in counts for pieces in range(1, min(count, 32) + 1)})

    def cost(size: int) -> int:
        pieces = sum(-(-len(rows) // size) for rows in classes.values())
        return pieces * columns * (_COPY + size * queries)

    size = min(sizes, key=cost)
    groups = []
    for rows in classes.values():
        pieces = -(-len(rows) // size)
        groups += [
            rows[len(rows) * piece // pieces : len(rows) * (piece + 1) // pieces] for piece in range(pieces)
        ]
    return groups


class SharedKeys:
    """Keys of trunks, or of extensions, side by side.

    Args:
        blocks: one of each group.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        self._blocks = blocks
        lengths = {block.columns for block in blocks}
        self._alike = len(lengths) == 1
        longest = max(lengths)
        self.columns = longest if self._alike else math.ceil(longest / ALIGNED) * ALIGNED
        self._masks: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def layer(self, layer: int) -> KeysValues:
        """Keys and values, [c, K, N, E]: where they lie, if they lie side by side, and else a copy."""
        entries = [block.entry(layer) for block in self._blocks]
        if self._alike:
            return stack(entries)
        like = entries[0].of.keys
        found = []
        for part in (0, 1):
            # Zeros, as a number of no meaning may be nan, which a weight of 0 does not undo.
            whole = like.new_zeros(len(entries), like.shape[1], self.columns, like.shape[3])
            for group, entry in enumerate(entries):
                whole[group, :, : self._blocks[group].columns] = entry.of[part][entry.row]
            found.append(whole)
        return KeysValues(*found)

    def mask(self, dtype: torch.dtype, device: torch.device) -> Tensor | None:
        """Numbers to add to scores, 0 or -inf, [c, 1, 1, N]; None where all columns are seen."""
        if self._alike:
            return None
        if (dtype, device) not in self._masks:
            columns_c1 = torch.tensor([[block.columns] for block in self._blocks], device=device)
            visible_cN = torch.arange(self.columns, device=device) < columns_c1
            self._masks[dtype, device] = added(visible_cN, dtype)[:, None, None]
        return self._masks[dtype, device]


def added(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Booleans as numbers to add to scores: 0 or -inf."""
    zero = torch.zeros((), dtype=dtype, device=visible.device)
    return torch.where(visible, zero, -math.inf)


class Groups:
    """Rows, each in the group of the trunk, or of the extension, that it attends to.

    Args:
        shared: keys of the groups.
        c, q: groups, and places of each.
        number_of: number of each row's place, counted through all groups; None: it attends to nothing of this kind.
    """

    def __init__(
        self, shared: SharedKeys, c: int, q: int, number_of: Sequence[int | None], device: torch.device
    ) -> None:
        self.shared, self._c, self._q, self._number_of, self._device = shared, c, q, number_of, device
        self._R = len(number_of)
        self._dense = list(number_of) == list(range(c * q))
        if self._dense:
            return
        found = [(row, number) for row, number in enumerate(number_of) if number is not None]
        # A place without a row gets the numbers of some row, and nobody reads it.
        row_of = [found[0][0]] * (c * q)
        for row, number in found:
            row_of[number] = row
        self._row_P, self._row_r, self._place_r = (
            torch.tensor(numbers, device=device) for numbers in (row_of, *zip(*found, strict=True))
        )

    @classmethod
    def of(cls, blocks: Sequence[Block | None], T: int, device: torch.device) -> "Groups | None":
        """Group rows by what they share; None if they share nothing.

        Args:
            blocks: that of each row, or None.
            T: tokens of each row in a call.
        """
        rows = [row for row, block in enumerate(blocks) if block is not None]
        if not rows:
            return None
        found: list[Block] = [block for block in blocks if block is not None]
        groups = cut_groups(found, max(block.columns for block in found), T)
        q = max(map(len, groups))
        number_of: list[int | None] = [None] * len(blocks)
        for group, members in enumerate(groups):
            for place, member in enumerate(members):
                number_of[rows[member]] = group * q + place
        keys = SharedKeys([found[members[0]] for members in groups])
        return cls(keys, len(groups), q, number_of, device)

    def select(self, rows: Sequence[int]) -> "Groups | None":
        """Some of the rows, in the groups as they are; None if none of them is in any."""
        number_of = [self._number_of[row] for row in rows]
        if all(number is None for number in number_of):
            return None
        return Groups(self.shared, self._c, self._q, number_of, self._device)

    def keys_for_steps(self, layer: int, heads: int) -> KeysValues:
        """Keys and values of a layer for many calls with one token of each row.

        Where a key head then has few queries, torch's bfloat16 kernel for CPUs takes up to a fifth less time if some
        heads lie side by side as one, beside queries that are zero in the others' places.

        Args:
            heads: A.

        Returns:
            [c, K, N, E] each, or [c, K / g, N, g E].
        """
        keys_values = self.shared.layer(layer)
        like = keys_values.keys
        K = like.shape[1]
        most = min(FEWEST // max(1, self._q * heads // K), _WIDEST // like.shape[3])
        if most < 2 or like.dtype != torch.bfloat16 or like.device.type != "cpu":
            return keys_values
        g = max(count for count in range(1, most + 1) if K % count == 0)
        return KeysValues(*(part.unflatten(1, (-1, g)).transpose(2, 3).flatten(3) for part in keys_values))

    def attend(self, query_RTAE: Tensor, keys_values: KeysValues, scaling: float) -> Partial:
        """Attention of rows to the keys that they share, for each row and token.

        Args:
            keys_values: of a layer (`shared.layer`, `keys_for_steps`).
        """
        T = query_RTAE.shape[1]
        mask = self.shared.mask(query_RTAE.dtype, query_RTAE.device)
        query_cLAE = self._spread(query_RTAE).flatten(1, 2)
        mean_cLAE, lse_cLA = attend(query_cLAE, *keys_values, scaling, mask_b11N=mask)
        return Partial(
            self._collect(mean_cLAE.unflatten(1, (self._q, T)), 0.0),
            self._collect(lse_cLA.unflatten(1, (self._q, T)), -math.inf),
        )

    def scores(self, query_RAE: Tensor, keys_cKNE: Tensor, scaling: float) -> Tensor:
        """Scaled scores of one token of each row, float32 [R, A, N]; -inf where it does not attend."""
        K = keys_cKNE.shape[1]
        query_cqKGE = self._spread(query_RAE.float() * scaling).unflatten(2, (K, -1))
        query_cKQE = query_cqKGE.transpose(1, 2).flatten(2, 3)
        with without_autocast(query_RAE):
            scores_cKQN = query_cKQE @ keys_cKNE.float().transpose(2, 3)
        mask_c11N = self.shared.mask(scores_cKQN.dtype, scores_cKQN.device)
        if mask_c11N is not None:
            scores_cKQN += mask_c11N
        scores_cqKGN = scores_cKQN.unflatten(2, (self._q, -1)).transpose(1, 2)
        return self._collect(scores_cqKGN.flatten(2, 3), -math.inf)

    def _spread(self, of_R: Tensor) -> Tensor:
        """From rows to places: [c, q, ...] of [R, ...]."""
        return (of_R if self._dense else of_R[self._row_P]).unflatten(0, (self._c, self._q))

    def _collect(self, of_cq: Tensor, otherwise: float) -> Tensor:
        """From places to rows: [R, ...] of [c, q, ...], with a number for rows in no group."""
        of_P = of_cq.flatten(0, 1)
        if self._dense:
            return of_P
        of_r = of_P[self._place_r]
        if len(self._row_r) == self._R:
            return of_r
        of_R = of_r.new_full((self._R, *of_r.shape[1:]), otherwise)
        of_R[self._row_r] = of_r
        return of_R
