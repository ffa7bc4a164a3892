"""KV cache of rows that decode: a slot per group of rows that share trunk and extensions.

A slot is one entry of a batch of keys and values per layer. It holds a copy of what its rows share, and behind it columns
that are written as they go on, q side by side for the q rows of a slot: token m of a row at place j stands in column
m q + j of these. So a step copies no cache, and rows of different pictures and lengths are one call of attention.

Legend: g slots, q places for rows in a slot, P columns of trunks (the longest), X of extensions, M tokens of a row's own,
N = P + X + M q columns of keys, T columns of text, K key heads, E width of one head.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from blink.inference.cache import KeysValues
from blink.inference.engine.extensions import Extension
from blink.inference.engine.groups import SharedKeys
from blink.inference.engine.rows import LayerKeys, Member, Question, Rows
from blink.inference.engine.trunk import Entry


@dataclass(eq=False)
class Decoding:
    """A row that decodes.

    Attributes:
        question, members: as in `Rows`.
        history: the extension that lived at each layer, or None.
        ids: of its answer so far.
        own: how many tokens of its own have keys: text and answer, without the newest.
        text: keys and values of its text by layer, and its number among their rows; None once a slot holds them.
    """

    question: Question
    members: tuple[Member, ...]
    history: tuple[Extension | None, ...]
    ids: list[int]
    own: int
    text: tuple[Sequence[LayerKeys], int] | None

    @classmethod
    def of(cls, rows: Rows, row: int, first: int) -> "Decoding":
        """A row behind the last layer; `first` is the first token of its answer."""
        question, history = rows.questions[row], tuple(layer.extensions[row] for layer in rows.cache)
        return cls(question, rows.members[row], history, [first], len(question.text), (rows.cache, row))

    @property
    def shares(self) -> tuple[object, ...]:
        """Equal where rows share all keys but their own."""
        return (self.question.trunk, self.history)

    @property
    def shared_columns(self) -> int:
        """Columns of keys of trunk and extension, in the layer that has the most."""
        return self.question.trunk.columns + max(0 if e is None else e.columns for e in self.history)


class Slots:
    """Keys and values of all slots, per layer [g, K, N, E].

    Args:
        layers: how many.
        q: places of a slot.

    Attributes:
        g, q, P, M: as in the legend.
        X: per layer.
        layers: keys and values.
    """

    def __init__(self, layers: int, q: int) -> None:
        self.g, self.q, self.P, self.X, self.M = 0, q, 0, [0] * layers, 0
        self.layers: list[KeysValues] = []

    def reach(self, g: int, M: int, rows: Sequence[Decoding], kept: Sequence[int]) -> None:
        """Make room for `g` slots and `M` tokens of each row's own, and for what some rows share.

        Args:
            kept: slots whose content matters.
        """
        P = max([self.P, *(row.question.trunk.columns for row in rows)])
        X = list(self.X)
        for _, history in {row.shares: row.history for row in rows}.items():
            X = [max(old, 0 if new is None else new.columns) for old, new in zip(X, history, strict=True)]
        g, M = max(g, self.g), max(M, self.M)
        if (g, P, X, M) == (self.g, self.P, self.X, self.M):
            return
        before, self.layers = self.layers, []
        index = list(kept)
        for layer, now in enumerate(X):
            parts = []
            for part in (0, 1):
                like = before[layer][part] if before else rows[0].question.trunk.layers[layer][part]
                new = like.new_empty(g, like.shape[1], P + now + M * self.q, like.shape[3])
                # Zeros, as a number of no meaning may be nan, which a weight of 0 does not undo.
                new[:, :, P + now :] = 0
                if index:
                    new[:, :, : P + now] = 0
                if index:
                    old, old_X = before[layer][part], self.X[layer]
                    for start, old_start, size in (
                        (0, 0, self.P),
                        (P, self.P, old_X),
                        (P + now, self.P + old_X, self.M * self.q),
                    ):
                        new[index, :, start : start + size] = old[index, :, old_start : old_start + size]
                parts.append(new)
            self.layers.append(KeysValues(*parts))
        self.g, self.P, self.X, self.M = g, P, X, M

    def fill(self, taken: Sequence[int], rows: Sequence[Sequence[Decoding]]) -> None:
        """Copy what the rows of some slots attend to into these, for which there is room."""
        slots, trunks = list(taken), [of_slot[0].question.trunk for of_slot in rows]
        side_by_side = slots == list(range(slots[0], slots[-1] + 1))
        for layer, of_layer in enumerate(self.layers):
            # Slots side by side are written where they are, others by way of a copy.
            into = KeysValues(
                *(part[slots[0] : slots[-1] + 1] if side_by_side else part[slots] for part in of_layer)
            )
            shared = SharedKeys(
                trunks, [of_slot[0].history[layer] for of_slot in rows], self.P, self.X[layer]
            )
            shared.fill(into, layer)
            self._fill_own(into, layer, rows)
            if not side_by_side:
                for part, of_into in zip(of_layer, into, strict=True):
                    part[slots] = of_into
        for of_slot in rows:
            for row in of_slot:
                row.text = None

    def _fill_own(self, into: KeysValues, layer: int, rows: Sequence[Sequence[Decoding]]) -> None:
        """Copy the keys and values of the text of some slots' rows."""
        by_batch: dict[int, list[tuple[int, int, Entry]]] = {}
        for number, of_slot in enumerate(rows):
            for place, row in enumerate(of_slot):
                assert row.text is not None, "a row enters once"
                entry = row.text[0][layer].entry(row.text[1])
                by_batch.setdefault(id(entry.of), []).append((number, place, entry))
        first = self.P + self.X[layer]
        for entries in by_batch.values():
            own = entries[0][2].of
            T = min(own.keys.shape[2], self.M)  # rows that ran beside a longer one are padded
            row_of = {(number, place): entry.row for number, place, entry in entries}
            for part, own_bKTE in zip(into, own, strict=True):
                columns_gKTqE = part[:, :, first : first + T * self.q].unflatten(2, (T, self.q))
                if len(by_batch) > 1:
                    numbers, places, of_rows = zip(
                        *((number, place, entry.row) for number, place, entry in entries), strict=True
                    )
                    columns_gKTqE[list(numbers), :, :, list(places)] = own_bKTE[list(of_rows), :, :T]
                    continue
                # A place without a row gets some row's: nobody reads it.
                order = [
                    row_of.get((number, place), 0) for number in range(len(rows)) for place in range(self.q)
                ]
                own_gqKTE = own_bKTE[order, :, :T].unflatten(0, (len(rows), self.q))
                columns_gKTqE.copy_(own_gqKTE.permute(0, 2, 3, 1, 4))

    def select(self, live: Sequence[int], places: Sequence[Sequence[int]]) -> None:
        """Keep some slots, and in each of them some places, which move together."""
        q = max(map(len, places))
        slots = list(live)
        filled = [[*kept, *[kept[0]] * (q - len(kept))] for kept in places]
        straight = filled == [list(range(self.q))] * len(slots)
        for layer, of_layer in enumerate(self.layers):
            first, parts = self.P + self.X[layer], []
            for part in of_layer:
                if straight:
                    parts.append(part[slots])
                    continue
                slot_g1 = torch.tensor(slots, device=part.device)[:, None]
                place_gq = torch.tensor(filled, device=part.device)
                own_gqKME = part[:, :, first:].unflatten(2, (self.M, self.q))[slot_g1, :, :, place_gq]
                own_gKCE = own_gqKME.permute(0, 2, 3, 1, 4).flatten(2, 3)
                parts.append(torch.cat((part[slots, :, :first], own_gKCE), dim=2))
            self.layers[layer] = KeysValues(*parts)
        self.g, self.q = len(slots), q
