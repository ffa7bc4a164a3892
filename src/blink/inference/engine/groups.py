"""Rows of many pictures in one call of attention: rows that share keys form a group, and a group is a batch entry.

The keys of a group are those of its trunk and of its extension, one copy for all of its rows, and behind them those of the
rows' own tokens, of which each row sees its own. So all rows are one call of `scaled_dot_product_attention`, whose batch
entries have G queries per row and token. A row pays for the own tokens of the others in its group, so groups are cut where
that costs more than another copy of what they share.

Legend: R rows, g groups, q places for rows in a group, T tokens of a row, M columns of a row's own keys, P columns of trunks
(the longest), X of extensions (the longest), N = P + X + M q columns of keys, A query heads, K key heads, G = A / K,
E width of one head.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from blink.inference.cache import KeysValues
from blink.inference.engine.extensions import Extension
from blink.inference.engine.trunk import Trunk, copy, stack
from blink.inference.saliency import without_autocast

_COPY = 24
"""What it costs to copy and read a column of keys, in products of a query with it."""


def cut_groups(keys: Sequence[Hashable], shared: int, own: int, queries: int) -> list[list[int]]:
    """Group rows by what they share, in pieces of such a size that attention costs least.

    Args:
        keys: per row, equal where rows share trunk and extensions.
        shared: columns of keys that a group shares.
        own: columns of each row's own.
        queries: tokens of each row that attend in a call.
    """
    classes: dict[Hashable, list[int]] = {}
    for row, key in enumerate(keys):
        classes.setdefault(key, []).append(row)
    counts = sorted({len(rows) for rows in classes.values()})
    sizes = sorted({-(-count // pieces) for count in counts for pieces in range(1, min(count, 32) + 1)})

    def cost(size: int) -> int:
        pieces = sum(-(-len(rows) // size) for rows in classes.values())
        return pieces * (shared + size * own) * (_COPY + size * queries)

    return cut(classes.values(), min(sizes, key=cost))


def cut(classes: Any, size: int) -> list[list[int]]:
    """Lists of rows in even pieces of at most `size`."""
    groups = []
    for rows in classes:
        pieces = -(-len(rows) // size)
        groups += [
            rows[len(rows) * piece // pieces : len(rows) * (piece + 1) // pieces] for piece in range(pieces)
        ]
    return groups


class Places:
    """Where rows stand in g groups of q places; a place without a row gets the numbers of some row, and nobody reads it.

    Args:
        place_of: number of each row's place, counted through all groups.
    """

    def __init__(self, place_of: Sequence[int], g: int, q: int, device: torch.device) -> None:
        self.g, self.q = g, q
        self._dense = list(place_of) == list(range(g * q))
        if not self._dense:
            row_of = [0] * (g * q)
            for row, place in enumerate(place_of):
                row_of[place] = row
            self._row_P, self._place_R = (
                torch.tensor(numbers, device=device) for numbers in (row_of, list(place_of))
            )

    @classmethod
    def of(cls, groups: Sequence[Sequence[int]], device: torch.device) -> "Places":
        """Places of the rows of groups, each of which has as many as the largest has rows."""
        q = max(map(len, groups))
        place_of = {row: g * q + j for g, rows in enumerate(groups) for j, row in enumerate(rows)}
        return cls([place_of[row] for row in range(len(place_of))], len(groups), q, device)

    def spread(self, of_R: Tensor) -> Tensor:
        """From rows to places: [g, q, ...] of [R, ...]."""
        return (of_R if self._dense else of_R[self._row_P]).unflatten(0, (self.g, self.q))

    def collect(self, of_gq: Tensor) -> Tensor:
        """From places to rows: [R, ...] of [g, q, ...]."""
        of_P = of_gq.flatten(0, 1)
        return of_P if self._dense else of_P[self._place_R]


class SharedKeys:
    """Where keys of trunks and extensions stand in those of groups.

    Args:
        trunks, extensions: of each group.
        P, X: columns for trunks and extensions; None: as many as the longest has.
    """

    def __init__(
        self,
        trunks: Sequence[Trunk],
        extensions: Sequence[Extension | None],
        P: int | None = None,
        X: int | None = None,
    ) -> None:
        self._trunks, self._extensions = trunks, extensions
        self.P = max(trunk.columns for trunk in trunks) if P is None else P
        longest = max((extension.columns for extension in extensions if extension is not None), default=0)
        self.X = longest if X is None else X

    def visible(self, device: torch.device) -> Tensor | None:
        """Which of the columns a group sees, bool [g, P + X]; None: all of them."""
        columns_g2 = [
            (trunk.columns, 0 if extension is None else extension.columns)
            for trunk, extension in zip(self._trunks, self._extensions, strict=True)
        ]
        if set(columns_g2) == {(self.P, self.X)}:
            return None
        columns_2g1 = torch.tensor(columns_g2, device=device).T[..., None]
        parts = [
            torch.arange(size, device=device) < of_g1
            for size, of_g1 in zip((self.P, self.X), columns_2g1, strict=True)
        ]
        return torch.cat(parts, dim=1)

    def fill(self, into: KeysValues, layer: int) -> None:
        """Copy keys and values of a layer into the first columns of `into`, [g, K, N, E]."""
        for first, size, things in ((0, self.P, self._trunks), (self.P, self.X, self._extensions)):
            by_columns: dict[int, list[int]] = {}
            for group, thing in enumerate(things):
                by_columns.setdefault(0 if thing is None else thing.columns, []).append(group)
            if set(by_columns) != {size}:
                # Zeros, as a number of no meaning may be nan, which a weight of 0 does not undo.
                for whole in into:
                    whole[:, :, first : first + size] = 0
            by_columns.pop(0, None)
            for columns, groups in by_columns.items():
                entries = [things[group].entry(layer) for group in groups]  # type: ignore[union-attr]
                start, end = groups[0], groups[-1] + 1
                if groups == list(range(start, end)):
                    copy(entries, KeysValues(*(part[start:end, :, first : first + columns] for part in into)))
                    continue
                for whole, found in zip(into, stack(entries), strict=True):
                    whole[groups, :, first : first + columns] = found


def attend(
    query_gqATE: Tensor, keys_gKNE: Tensor, values_gKNE: Tensor, mask: Tensor | None, scaling: float
) -> Tensor:
    """Attention of the queries of each group's rows over its keys, in one softmax: [g, q, T, A, E].

    Args:
        query_gqATE: rotated; A is a multiple of K.
        mask: numbers to add to scores, [g, 1, q G T, N], or 1 in place of q G T where all are the same; None: nothing.
    """
    g, q, A, T, E = query_gqATE.shape
    K = keys_gKNE.shape[1]
    query_gKQE = query_gqATE.unflatten(2, (K, A // K)).transpose(1, 2).reshape(g, K, -1, E)
    with without_autocast(query_gqATE):
        mixed_gKQE = F.scaled_dot_product_attention(
            query_gKQE, keys_gKNE, values_gKNE, attn_mask=mask, scale=scaling
        )
    mixed_gKqGTE = mixed_gKQE.view(g, K, q, A // K, T, E)
    return mixed_gKqGTE.permute(0, 2, 4, 1, 3, 5).reshape(g, q, T, A, E)


def added(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Booleans as numbers to add to scores: 0 or -inf."""
    zero = torch.zeros((), dtype=dtype, device=visible.device)
    return torch.where(visible, zero, float("-inf"))


class Groups:
    """Rows of a prompt, arranged for a layer by the trunks and extensions that they attend to.

    Args:
        trunks, extensions: of each row.
        T: columns of text, padded behind.
    """

    def __init__(
        self,
        trunks: Sequence[Trunk],
        extensions: Sequence[Extension | None],
        T: int,
        device: torch.device,
    ) -> None:
        columns = [
            trunk.columns + (0 if extension is None else extension.columns)
            for trunk, extension in zip(trunks, extensions, strict=True)
        ]
        groups = cut_groups(list(zip(trunks, extensions, strict=True)), max(columns), T, T)
        # Those with an extension first, so that all extensions are copied at once.
        groups.sort(key=lambda rows: extensions[rows[0]] is None)
        self._T = T
        self.places = Places.of(groups, device)
        firsts = [rows[0] for rows in groups]
        self.shared = SharedKeys([trunks[row] for row in firsts], [extensions[row] for row in firsts])
        self._masks: dict[tuple[int, torch.dtype], Tensor] = {}

    def keys_values(self, layer: int, own: KeysValues) -> KeysValues:
        """All keys and values of each group, [g, K, N, E].

        Args:
            own: of the rows' text, [R, K, T, E].
        """
        S = self.shared.P + self.shared.X
        found = []
        for part_RKTE in own:
            _, K, T, E = part_RKTE.shape
            whole = part_RKTE.new_empty(self.places.g, K, S + T * self.places.q, E)
            own_gqKTE = self.places.spread(part_RKTE)
            whole[:, :, S:].unflatten(2, (T, self.places.q)).copy_(own_gqKTE.permute(0, 2, 3, 1, 4))
            found.append(whole)
        filled = KeysValues(*found)
        self.shared.fill(filled, layer)
        return filled

    def attend(self, query_RATE: Tensor, all_gKNE: KeysValues, scaling: float) -> Tensor:
        """Attention of every token of text: [R, T, A, E], in the values' dtype."""
        keys, values = all_gKNE
        wide = torch.promote_types(query_RATE.dtype, values.dtype)
        # Under autocast a rotary embedding leaves q and k in float32, beside values in half precision.
        mask = self._mask(query_RATE.shape[1] // keys.shape[1], query_RATE.to(wide))
        mixed_gqTAE = attend(
            self.places.spread(query_RATE).to(wide), keys.to(wide), values.to(wide), mask, scaling
        )
        return self.places.collect(mixed_gqTAE).to(values.dtype)

    def attention_row(self, query_RAE: Tensor, keys_gKNE: Tensor, token_R: Tensor, scaling: float) -> Tensor:
        """Attention of one token of each row, averaged over heads: float32 [R, P], over its trunk alone.

        Args:
            token_R: number of the token.
        """
        A, K = query_RAE.shape[1], keys_gKNE.shape[1]
        query_gqKGE = self.places.spread(query_RAE.float() * scaling).unflatten(2, (K, A // K))
        query_gKQE = query_gqKGE.transpose(1, 2).flatten(2, 3)
        with without_autocast(query_RAE):
            scores_gKQN = query_gKQE @ keys_gKNE.float().transpose(2, 3)
        mask_gqTN = self._visible(query_RAE.device)
        token_gq = self.places.spread(token_R)
        mask_gqN = mask_gqTN.take_along_dim(token_gq[..., None, None], dim=2)[:, :, 0]
        scores_gKqGN = scores_gKQN.unflatten(2, (self.places.q, A // K))
        scores_gKqGN = scores_gKqGN.masked_fill(~mask_gqN[:, None, :, None], float("-inf"))
        weights_gqN = scores_gKqGN.softmax(dim=-1).mean(dim=(1, 3))
        return self.places.collect(weights_gqN[..., : self.shared.P])

    def _visible(self, device: torch.device) -> Tensor:
        """What each token sees: bool [g, q, T, N]."""
        g, q, T = self.places.g, self.places.q, self._T
        S = self.shared.P + self.shared.X
        shared_gS = self.shared.visible(device)
        if shared_gS is None:
            shared_gS = torch.ones(g, S, dtype=torch.bool, device=device)
        column_C = torch.arange(T * q, device=device)
        same_qC = column_C % q == torch.arange(q, device=device)[:, None]
        before_TC = column_C // q <= torch.arange(T, device=device)[:, None]
        own_qTC = same_qC[:, None] & before_TC
        return torch.cat(
            (shared_gS[:, None, None].expand(g, q, T, S), own_qTC.expand(g, q, T, T * q)), dim=-1
        )

    def _mask(self, G: int, like: Tensor) -> Tensor:
        """Numbers to add to scores, [g, 1, q G T, N]."""
        if (G, like.dtype) not in self._masks:
            mask_gqTN = added(self._visible(like.device), like.dtype)
            mask_gqGTN = mask_gqTN[:, :, None].expand(-1, -1, G, -1, -1)
            self._masks[G, like.dtype] = mask_gqGTN.flatten(1, 3)[:, None]
        return self._masks[G, like.dtype]
