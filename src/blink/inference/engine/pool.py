"""Rows that decode together: one token of each at a time. Rows leave when their answer ends, and others enter meanwhile.

Legend: r live rows, S slots, N columns of own keys that are in use, A query heads, K key heads, E width of one head, d hidden
width.
"""

import logging
import math
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from blink.inference.cache import KeysValues, OneCall
from blink.inference.engine.decoding import next_ids
from blink.inference.engine.rows import Rotary, next_positions
from blink.inference.engine.sharing.groups import Groups, added
from blink.inference.engine.sharing.partial import ALIGNED, Partial, attend, merge
from blink.inference.engine.sharing.trunk import Entry
from blink.inference.engine.slots import Decoding, Slots
from blink.model.backbone import Backbone
from blink.model.dimensions import attention_widths

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
        trunks, extensions: that the rows attend to.
        first_r: position of the first token of text of each row.
    """

    trunks: Groups
    extensions: Groups | None
    first_r: Tensor

    def select(self, rows: Sequence[int]) -> "_Pattern":
        """Some of the rows."""
        trunks = self.trunks.select(rows)
        assert trunks is not None, "each row stands behind a trunk"
        extensions = None if self.extensions is None else self.extensions.select(rows)
        return _Pattern(trunks, extensions, self.first_r[list(rows)])


class _Shared(NamedTuple):
    """Keys and values of a layer's trunks and extensions; None: no row had any when the rows were arranged."""

    trunks: KeysValues
    extensions: KeysValues | None


class _Arranged(NamedTuple):
    """How the rows share keys.

    Attributes:
        pattern_of: of each layer, a number among `patterns`.
        shared: of each layer.
    """

    patterns: Sequence[_Pattern]
    pattern_of: Sequence[int]
    shared: Sequence[_Shared]

    def select(self, rows: Sequence[int]) -> "_Arranged":
        """Some of the rows, beside the same keys."""
        return self._replace(patterns=[pattern.select(rows) for pattern in self.patterns])


class _Newest(NamedTuple):
    """The newest tokens of some rows, on one device.

    Attributes:
        slot_r, own_r: slot of each row, and how many tokens of its own have keys.
        of_slot: number of the row in each slot, or of any where it is free; None: the rows fill all slots in order.
        mask_S11N: which own columns each row sees, as numbers to add to scores.
    """

    slot_r: Tensor
    own_r: Tensor
    of_slot: Tensor | None
    mask_S11N: Tensor


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
        self._live: dict[int, Decoding] = {}  # by slot, ascending
        self._slots = Slots()
        self._arranged: _Arranged | None = None  # None: by the next step

    @property
    def rows(self) -> list[Decoding]:
        """Those that decode, slot by slot."""
        return list(self._live.values())

    def enter(self, waiting: Sequence[Decoding]) -> int:
        """Take in as many of the first rows as there is memory for, at least one if none decodes: how many."""
        while count := self._fitting(waiting):
            try:
                self._take(waiting[:count])
                break
            except torch.OutOfMemoryError:
                self._limit.ran_out(len(self._live) + count)
                if not self._live:
                    self._slots.clear()
        return count

    def step(self) -> list[Decoding]:
        """Run the newest token of each row through every layer, and add the one that follows: the rows.

        A token that cannot be chosen is added as `NOT_FINITE`.

        Raises:
            torch.OutOfMemoryError: the rows are as they were.
        """
        rows = self.rows
        own = max(row.own for row in rows) + 1
        if own > self._slots.M:
            self._slots.reach(0, own + _GROWTH)
        self._arranged = self._arranged or self._arrange()
        for row, token in zip(rows, self._run(self._arranged), strict=True):
            row.own += 1
            row.ids.append(token)
        return rows

    def leave(self, gone: Collection[Decoding]) -> None:
        """Let rows go. Their slots are free; once half of all are, the others move together."""
        if not gone:
            return
        kept = [number for number, row in enumerate(self._live.values()) if row not in gone]
        self._live = {slot: row for slot, row in self._live.items() if row not in gone}
        arranged, self._arranged = self._arranged, None
        # Without memory for it the others stay in their slots, and are arranged anew.
        with suppress(torch.OutOfMemoryError):
            if not self._live:
                self._slots.clear()
            elif 2 * len(self._live) <= self._slots.S:
                self._slots.select(list(self._live))
                self._live = dict(enumerate(self._live.values()))
            elif arranged is not None:
                self._arranged = arranged.select(kept)

    def put_back(self) -> list[Decoding]:
        """Let all rows go, which may enter again: their keys wait on the CPU, so that a GPU has room for fewer of them."""
        rows = self.rows
        layers = [KeysValues(*(part.cpu() for part in of_layer)) for of_layer in self._slots.layers]
        for slot, row in self._live.items():
            row.text = [Entry(of_layer, slot) for of_layer in layers]
        self.leave(rows)
        return rows

    def _fitting(self, waiting: Sequence[Decoding]) -> int:
        """How many of the first rows there should be memory for, at least one if none decodes."""
        count, live = len(waiting), self.rows
        if self._limit.rows is not None:
            count = min(count, max(self._limit.rows - len(live), 0))
        while count and (count > 1 or live) and self._bytes([*live, *waiting[:count]]) > self._max_bytes:
            count //= 2
        return count

    def _bytes(self, rows: Sequence[Decoding]) -> int:
        """Of the keys and values of some rows, by estimate."""
        own = max(len(row.question.text) for row in rows) + self._max_new_tokens
        trunks = {row.question.trunk for row in rows}
        extensions = {extension for row in rows for extension in row.history if extension is not None}
        # Where lengths differ, or waves, they are laid side by side, padded to the longest.
        shared = sum(
            len(blocks) * max((block.columns for block in blocks), default=0)
            for blocks in (trunks, extensions)
        )
        columns = shared + len(rows) * own
        return columns * self._backbone.token_bytes(1).kept

    def _take(self, rows: Sequence[Decoding]) -> None:
        """Give rows slots, and copy the keys of their text into these."""
        free = [slot for slot in range(self._slots.S) if slot not in self._live][: len(rows)]
        taken = [*free, *range(self._slots.S, self._slots.S + len(rows) - len(free))]
        own = max(row.own for row in rows) + min(self._max_new_tokens - 1, _GROWTH)
        assert rows[0].text is not None, "a row enters once"
        self._arranged = None
        self._slots.reach(taken[-1] + 1, own, rows[0].text)
        self._slots.fill(taken, rows)
        self._live = dict(sorted({**self._live, **dict(zip(taken, rows, strict=True))}.items()))

    def _arrange(self) -> _Arranged:
        """Group rows by what they share, find which layers are alike, and lay the shared keys side by side."""
        rows, backbone = self.rows, self._backbone
        heads = attention_widths(backbone.decoder.config).heads
        blocks = [row.question.trunk for row in rows]
        questions = [row.question for row in rows]
        found: dict[tuple[Any, ...], int] = {}
        trunks_of: dict[torch.device, Groups | None] = {}
        patterns: list[_Pattern] = []
        pattern_of: list[int] = []
        shared: list[_Shared] = []
        for layer in range(backbone.num_layers):
            extensions = [row.history[layer] for row in rows]
            device = backbone.device_of(layer)
            key = (device, *map(id, extensions))
            if key not in found:
                found[key] = len(found)
                if device not in trunks_of:
                    trunks_of[device] = Groups.of(blocks, 1, device)
                trunks = trunks_of[device]
                assert trunks is not None, "each row stands behind a trunk"
                first_r = torch.tensor(next_positions(questions, extensions), device=device)
                patterns.append(_Pattern(trunks, Groups.of(extensions, 1, device), first_r))
            pattern = patterns[found[key]]
            trunks, extended = pattern.trunks, pattern.extensions
            of_extensions = None if extended is None else extended.keys_for_steps(layer, heads)
            shared.append(_Shared(trunks.keys_for_steps(layer, heads), of_extensions))
            pattern_of.append(found[key])
        return _Arranged(patterns, pattern_of, shared)

    def _run(self, arranged: _Arranged) -> list[int]:
        """Run the newest token of each row through every layer: the ids that follow."""
        backbone, patterns = self._backbone, arranged.patterns
        of_rows = [[slot, row.own, row.ids[-1]] for slot, row in self._live.items()]
        slot_r, own_r, newest_r = torch.tensor(of_rows, device=backbone.device).T
        hidden_r1d = backbone.embed(newest_r)[:, None]
        dtype = hidden_r1d.dtype
        newest = {
            device: self._newest(list(self._live), slot_r.to(device), own_r.to(device), dtype)
            for device in {pattern.first_r.device for pattern in patterns}
        }
        frames = [
            self._rotary.frame((pattern.first_r + newest[pattern.first_r.device].own_r)[:, None]).to(
                pattern.first_r.device
            )
            for pattern in patterns
        ]
        for layer, number in enumerate(arranged.pattern_of):
            pattern = patterns[number]
            hook = _Attend(
                self._slots.layers[layer], arranged.shared[layer], pattern, newest[pattern.first_r.device]
            )
            hidden_r1d = backbone.run_layer(layer, hidden_r1d, frames[number], OneCall(), hook)
        return next_ids(backbone, hidden_r1d[:, 0])

    def _newest(self, slots: Sequence[int], slot_r: Tensor, own_r: Tensor, dtype: torch.dtype) -> _Newest:
        """Newest tokens, and what each row sees of its own columns."""
        S, of_slot, own_S = self._slots.S, None, own_r
        if list(slots) != list(range(S)):
            row_of = [0] * S
            for row, slot in enumerate(slots):
                row_of[slot] = row
            of_slot = torch.tensor(row_of, device=own_r.device)
            own_S = own_r[of_slot]
        N = math.ceil((int(own_r.max()) + 1) / ALIGNED) * ALIGNED
        visible_SN = torch.arange(N, device=own_r.device) <= own_S[:, None]
        return _Newest(slot_r, own_r, of_slot, added(visible_SN, dtype)[:, None, None])


class _Attend:
    """Hook of a layer's attention: stores the keys and values of new tokens, one of each row, and attends to all.

    Args:
        own: keys and values of the layer, all slots.
    """

    def __init__(self, own: KeysValues, shared: _Shared, pattern: _Pattern, newest: _Newest) -> None:
        self._own, self._shared, self._pattern, self._newest = own, shared, pattern, newest

    def __call__(
        self, query_rA1E: Tensor, keys_rK1E: Tensor, values_rK1E: Tensor, scaling: float, stock: Any, /
    ) -> tuple[Tensor, None]:
        """Attend: [r, 1, A, E]."""
        slot_r, own_r, pattern = self._newest.slot_r, self._newest.own_r, self._pattern
        for part, new_rK1E in zip(self._own, (keys_rK1E, values_rK1E), strict=True):
            # Under autocast a rotary embedding leaves q and k in float32, beside values in half precision.
            part[slot_r, :, own_r] = new_rK1E[:, :, 0].to(part.dtype)
        query_r1AE = query_rA1E.transpose(1, 2)
        parts = [self._attend_own(query_r1AE, scaling)]
        parts.append(pattern.trunks.attend(query_r1AE, self._shared.trunks, scaling))
        if pattern.extensions is not None and self._shared.extensions is not None:
            parts.append(pattern.extensions.attend(query_r1AE, self._shared.extensions, scaling))
        return merge(parts).to(values_rK1E.dtype), None

    def _attend_own(self, query_r1AE: Tensor, scaling: float) -> Partial:
        """Attention to the rows' own tokens."""
        slot_r, _, of_slot, mask_S11N = self._newest
        S, _, _, N = mask_S11N.shape
        keys_SKNE, values_SKNE = (part[:S, :, :N] for part in self._own)
        if of_slot is None:
            return attend(query_r1AE, keys_SKNE, values_SKNE, scaling, mask_b11N=mask_S11N)
        of_all = attend(query_r1AE[of_slot], keys_SKNE, values_SKNE, scaling, mask_b11N=mask_S11N)
        return Partial(*(part[slot_r] for part in of_all))
