"""Rows that decode together: one token of each at a time. Rows leave when their answer ends, and others enter meanwhile.

Legend: r live rows, g slots, q places for rows in a slot, C columns of own keys, N columns of keys, A query heads, K key
heads, G = A / K, E width of one head, d hidden width.
"""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from blink.inference.cache import KeysValues, OneCall
from blink.inference.engine.decoding import next_ids
from blink.inference.engine.groups import Places, SharedKeys, added, attend, cut, cut_groups
from blink.inference.engine.rows import Rotary, next_positions
from blink.inference.engine.slots import Decoding, Slots
from blink.model.backbone import Backbone, Frame

log = logging.getLogger(__name__)

_GROWTH = 64
"""For how many tokens room is made at a time."""


@dataclass
class RowLimit:
    """Most rows at once, once memory ran out; None before that."""

    rows: int | None = None

    def ran_out(self, rows: int) -> None:
        """Halve the rows at once, called where memory ran out with so many; with a single one that error goes on."""
        if rows == 1:
            raise
        self.rows = rows // 2
        log.warning("out of memory with %d rows; going on with %d at once", rows, self.rows)


class _Pattern(NamedTuple):
    """Layers on one device in which the same extensions live.

    Attributes:
        columns: of trunk and extension.
        visible_gS: bool, which of these each slot sees; None: all.
        first_r: position of the first token of text of each row.
    """

    columns: int
    visible_gS: Tensor | None
    first_r: Tensor


class _Newest(NamedTuple):
    """The newest tokens of some rows, on one device.

    Attributes:
        places: of the rows in their slots.
        slot_r, place_r, own_r: slot and place of each row, and how many tokens of its own have keys.
        own_gqC: bool, which columns behind the shared ones each row sees.
    """

    places: Places
    slot_r: Tensor
    place_r: Tensor
    own_r: Tensor
    own_gqC: Tensor


class _Step(NamedTuple):
    """What the layers of one pattern share in one step.

    Attributes:
        newest: the tokens.
        frame: their rotary embeddings.
        mask_gqN: numbers to add to scores.
        column_r: where the keys of the newest tokens go.
    """

    newest: _Newest
    frame: Frame
    mask_gqN: Tensor
    column_r: Tensor


class Pool:
    """Rows that decode.

    Args:
        rotary: reaches as far as any row may come.
        max_bytes: of keys and values, where more than one row decodes.
        max_new_tokens: of an answer.
        limit: of rows at once.
    """

    def __init__(
        self, backbone: Backbone, rotary: Rotary, *, max_bytes: int, max_new_tokens: int, limit: RowLimit
    ) -> None:
        self._backbone, self._rotary = backbone, rotary
        self._max_bytes, self._max_new_tokens, self._limit = max_bytes, max_new_tokens, limit
        self._rows_of: list[list[Decoding]] = []  # by slot; an empty one is free
        self._slots = Slots(backbone.num_layers, 1)
        self._patterns: list[_Pattern] = []
        self._pattern_of: list[int] = []

    @property
    def rows(self) -> list[Decoding]:
        """Those that decode, slot by slot."""
        return [row for of_slot in self._rows_of for row in of_slot]

    def enter(self, waiting: Sequence[Decoding]) -> int:
        """Take in as many of the first rows as there is memory for, at least one if none decodes: how many."""
        count, live = len(waiting), self.rows
        if self._limit.rows is not None:
            count = min(count, max(self._limit.rows - len(live), 0))
        while count and (count > 1 or live) and self._bytes([*live, *waiting[:count]]) > self._max_bytes:
            count //= 2
        if count:
            self._take(waiting[:count], live)
        return count

    def step(self) -> list[Decoding]:
        """Run the newest token of each row through every layer, and add the one that follows: the rows.

        A token that cannot be chosen is added as `NOT_FINITE`.
        """
        rows = [
            (slot, place, row)
            for slot, of_slot in enumerate(self._rows_of)
            for place, row in enumerate(of_slot)
        ]
        own = max(row.own for _, _, row in rows) + 1
        if own > self._slots.M:
            kept = [slot for slot, of_slot in enumerate(self._rows_of) if of_slot]
            self._slots.reach(0, own + _GROWTH, (), kept)
        ids: list[int] = []
        while len(ids) < len(rows):
            piece = rows[len(ids) :][: self._limit.rows]
            try:
                ids += self._run(piece, len(ids))
            except torch.OutOfMemoryError:
                self._limit.ran_out(len(piece))
        for (_, _, row), token in zip(rows, ids, strict=True):
            row.own += 1
            row.ids.append(token)
        return [row for _, _, row in rows]

    def leave(self, gone: Collection[Decoding]) -> None:
        """Let rows go. Their slots are free; once half of all are, the others move together."""
        if not gone:
            return
        kept = [[place for place, row in enumerate(of_slot) if row not in gone] for of_slot in self._rows_of]
        live = [slot for slot, places in enumerate(kept) if places]
        some_left = any(len(kept[slot]) < len(self._rows_of[slot]) for slot in live)
        if live and (some_left or 2 * len(live) <= len(kept)):
            self._slots.select(live, [kept[slot] for slot in live])
            kept, self._rows_of = [kept[slot] for slot in live], [self._rows_of[slot] for slot in live]
        self._rows_of = [
            [of_slot[place] for place in places] for of_slot, places in zip(self._rows_of, kept, strict=True)
        ]
        if live:
            self._find_patterns()
        else:
            self._rows_of = []

    def _bytes(self, rows: Sequence[Decoding]) -> int:
        """Of the keys and values of some rows, by estimate."""
        own = max(len(row.question.text) for row in rows) + self._max_new_tokens
        shared = max(row.shared_columns for row in rows)
        groups = cut_groups([row.shares for row in rows], shared, own, 1)
        columns = len(groups) * (shared + own * max(map(len, groups)))
        return columns * self._backbone.token_bytes(1).kept

    def _take(self, rows: Sequence[Decoding], live: Sequence[Decoding]) -> None:
        """Give rows slots, and copy what they attend to into these."""
        keys = [row.shares for row in rows]
        own = max(len(row.question.text) for row in rows) + min(self._max_new_tokens - 1, _GROWTH)
        if live:
            classes: dict[object, list[int]] = {}
            for number, key in enumerate(keys):
                classes.setdefault(key, []).append(number)
            groups = cut(classes.values(), self._slots.q)
        else:
            groups = cut_groups(keys, max(row.shared_columns for row in rows), own, 1)
            groups.sort(key=lambda group: rows[group[0]].history[-1] is None)  # quicker to copy side by side
            self._slots, self._rows_of = Slots(self._backbone.num_layers, max(map(len, groups))), []
        kept = [slot for slot, of_slot in enumerate(self._rows_of) if of_slot]
        taken = [slot for slot, of_slot in enumerate(self._rows_of) if not of_slot][: len(groups)]
        taken += range(len(self._rows_of), len(self._rows_of) + len(groups) - len(taken))
        self._rows_of += [[] for _ in range(max(taken) + 1 - len(self._rows_of))]
        self._slots.reach(len(self._rows_of), own, rows, kept)
        entering = [[rows[number] for number in group] for group in groups]
        for slot, of_slot in zip(taken, entering, strict=True):
            self._rows_of[slot] = of_slot
        self._slots.fill(taken, entering)
        self._find_patterns()

    def _find_patterns(self) -> None:
        """Find which layers are alike, and what each slot sees in them."""
        rows = self.rows
        # A free slot is like another, and nobody reads what it attends to.
        firsts = [of_slot[0] if of_slot else rows[0] for of_slot in self._rows_of]
        trunks, questions = [row.question.trunk for row in firsts], [row.question for row in rows]
        found: dict[tuple[Any, ...], int] = {}
        self._patterns, self._pattern_of = [], []
        for layer, X in enumerate(self._slots.X):
            extensions = [row.history[layer] for row in firsts]
            device = self._backbone.device_of(layer)
            key = (device, X, *(None if e is None else (e.columns, e.placement) for e in extensions))
            if key not in found:
                found[key] = len(found)
                shared = SharedKeys(trunks, extensions, self._slots.P, X)
                positions = next_positions(questions, [row.history[layer] for row in rows])
                first_r = torch.tensor(positions, device=device)
                self._patterns.append(_Pattern(self._slots.P + X, shared.visible(device), first_r))
            self._pattern_of.append(found[key])

    def _run(self, rows: Sequence[tuple[int, int, Decoding]], number: int) -> list[int]:
        """Run the newest token of some rows through every layer: the ids that follow.

        Args:
            rows: slot and place of each, in order; `number` is that of the first among all rows.
        """
        backbone, slots, q = self._backbone, self._slots, self._slots.q
        first, last = rows[0][0], rows[-1][0] + 1
        place_of = [(slot - first) * q + place for slot, place, _ in rows]
        numbers = [[slot, place, row.own, row.ids[-1]] for slot, place, row in rows]
        slot_r, place_r, own_r, newest_r = torch.tensor(numbers, device=backbone.device).T
        hidden_r1d = backbone.embed(newest_r)[:, None]
        newest = {}
        for device in {pattern.first_r.device for pattern in self._patterns}:
            places = Places(place_of, last - first, q, device)
            newest[device] = self._newest(places, *(of_r.to(device) for of_r in (slot_r, place_r, own_r)))
        steps = [
            self._step(pattern, newest[pattern.first_r.device], first, last, number, hidden_r1d.dtype)
            for pattern in self._patterns
        ]
        for layer, pattern in enumerate(self._pattern_of):
            hook = _Attend(slots.layers[layer], steps[pattern], first, last)
            hidden_r1d = backbone.run_layer(layer, hidden_r1d, steps[pattern].frame, OneCall(), hook)
        return next_ids(backbone, hidden_r1d[:, 0])

    def _newest(self, places: Places, slot_r: Tensor, place_r: Tensor, own_r: Tensor) -> _Newest:
        """Newest tokens, and what each row sees of its slot's own columns."""
        q = self._slots.q
        column_C = torch.arange((int(own_r.max()) + 1) * q, device=own_r.device)
        place_q1 = torch.arange(q, device=own_r.device)[:, None]
        own_gq1 = places.spread(own_r)[..., None]
        own_gqC = (column_C // q <= own_gq1) & (column_C % q == place_q1)
        return _Newest(places, slot_r, place_r, own_r, own_gqC)

    def _step(
        self, pattern: _Pattern, newest: _Newest, first: int, last: int, number: int, dtype: torch.dtype
    ) -> _Step:
        """What layers share in a step; slots and `number` as in `_run`."""
        (columns, visible_gS, first_r), (_, _, place_r, own_r, own_gqC) = pattern, newest
        q, device = self._slots.q, own_r.device
        shared_gqS = torch.ones(last - first, q, columns, dtype=torch.bool, device=device)
        if visible_gS is not None:
            shared_gqS = visible_gS[first:last, None].expand(-1, q, -1)
        mask_gqN = added(torch.cat((shared_gqS, own_gqC), dim=-1), dtype)
        position_r1 = (first_r[number : number + len(own_r)] + own_r)[:, None]
        frame = self._rotary.frame(position_r1).to(device)
        return _Step(newest, frame, mask_gqN, columns + own_r * q + place_r)


class _Attend:
    """Hook of a layer's attention: stores the keys and values of new tokens, one of each row, and attends to all.

    Args:
        known: of the layer, all slots; the rows are in those from `first` to `last`, the latter not included.
    """

    def __init__(self, known: KeysValues, step: _Step, first: int, last: int) -> None:
        self._known, self._step, self._first, self._last = known, step, first, last

    def __call__(
        self, query_rA1E: Tensor, keys_rK1E: Tensor, values_rK1E: Tensor, scaling: float, stock: Any, /
    ) -> tuple[Tensor, None]:
        """Attend: [r, 1, A, E]."""
        keys_gKNE, values_gKNE = self._known
        places, slot_r = self._step.newest.places, self._step.newest.slot_r
        # Under autocast a rotary embedding leaves q and k in float32, beside values in half precision.
        keys_gKNE[slot_r, :, self._step.column_r] = keys_rK1E[:, :, 0].to(keys_gKNE.dtype)
        values_gKNE[slot_r, :, self._step.column_r] = values_rK1E[:, :, 0].to(values_gKNE.dtype)
        mask_gqN = self._step.mask_gqN
        q, N = mask_gqN.shape[1:]
        G = query_rA1E.shape[1] // keys_gKNE.shape[1]
        if q > 1 and G > 1:
            mask_gqN = mask_gqN.repeat_interleave(G, dim=1)
        mixed_gq1AE = attend(
            places.spread(query_rA1E).to(keys_gKNE.dtype),
            keys_gKNE[self._first : self._last, :, :N],
            values_gKNE[self._first : self._last, :, :N].to(keys_gKNE.dtype),
            mask_gqN[:, None].to(keys_gKNE.dtype),
            scaling,
        )
        return places.collect(mixed_gq1AE).to(values_rK1E.dtype), None
