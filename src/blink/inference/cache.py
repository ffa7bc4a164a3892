"""The key-value cache of a generation with extensions: layers of different lengths, and each row's events.

Everything that decoding needs travels with this object, so generations that interleave do not mix. It reports the
length of the *input*, which is what `generate` sizes things by.

A row without an extension, in a layer where another row has one, is padded in front with X masked columns: one
decoding step then is one call per layer for all rows, and costs such a row X masked keys in attention, nothing else.

Axes: B rows, M columns of keys at one layer, K key heads, E width of one head.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import DynamicCache, DynamicLayer

from blink.inference.policy import Event
from blink.inference.spans import Spans


@dataclass
class KeyLayout:
    """The prompt's keys in the layers that share a layout.

    Attributes:
        columns: M at the prompt, generated tokens not counted.
        valid_BM: bool, False at padding; None if there is none.
        next_B: int64, position of the first generated token.
    """

    columns: int
    valid_BM: Tensor | None
    next_B: Tensor

    def select(self, rows: Tensor) -> None:
        """Keep `rows` (int64), in that order."""
        self.valid_BM = None if self.valid_BM is None else self.valid_BM[rows.to(self.valid_BM.device)]
        self.next_B = self.next_B[rows.to(self.next_B.device)]


class Piece(NamedTuple):
    """Keys and values [b, K, M, E] of the rows of one stream, and the spans of these rows."""

    rows: list[int]
    keys: Tensor
    values: Tensor
    spans: Spans

    @property
    def shape(self) -> list[tuple[int, int, int]]:
        """(row, M, by how much an extension moves its text): rows of equal shapes share masks and positions."""
        axes, M = len(self.spans.position_CBN), self.keys.shape[2]
        shifts = [placement.shift(axes) for placement in self.spans.placements] or [0] * len(self.rows)
        return [(row, M, shift) for row, shift in zip(self.rows, shifts, strict=True)]


class KeysValues(NamedTuple):
    """Rotated keys and values of some tokens in one layer, [b, K, M, E], or [K, M, E] where no row is meant."""

    keys: Tensor
    values: Tensor


class OneCall:
    """A cache for one call of one layer: keeps the keys and values of its tokens, `new`."""

    new: KeysValues

    def update(self, keys: Tensor, values: Tensor, layer: int, /, **_: Any) -> tuple[Tensor, Tensor]:
        """Keep a layer's keys and values; return them, as all that its queries attend to."""
        self.new = KeysValues(keys, values)
        return self.new


class Pixels(NamedTuple):
    """What a policy needs of the pixels of some prompts, kept for a forward that does not see them; None if not needed.

    Attributes:
        digests: a hash per prompt of its picture, for policies that draw.
        views: pixels of each base view as the vision tower sees them, [C, h, w], for policies that encode regions.
    """

    digests: Sequence[str] | None = None
    views: Sequence[Tensor] | None = None


NO_PIXELS = Pixels()


class BlinkCache(DynamicCache):
    """A DynamicCache whose layers may differ in length, between layers and between rows.

    Args:
        repeats: how many rows in a row share one prompt (beams, returned sequences).
        pixels: of the distinct prompts.
    """

    def __init__(self, repeats: int = 1, pixels: Pixels = NO_PIXELS) -> None:
        super().__init__()
        self.repeats = repeats
        self._pixels = pixels
        self.events: list[list[Event]] = []
        self.key_layouts: list[KeyLayout] = []
        self.layout_of_layer: list[int] = []
        self._shapes: list[list[tuple[int, int, int]]] = []
        self._spans: list[Spans] = []  # of the layer before, most often those of the next, too
        self._layout = 0
        self.valid_BS: Tensor | None = None
        self._next_B: Tensor | None = None
        self.input_length = 0
        self.generated = 0

    def take_pixels(self) -> Pixels:
        """The pixels, which are let go of."""
        pixels, self._pixels = self._pixels, NO_PIXELS
        return pixels

    def store(self, pieces: list[Piece]) -> None:
        """Append one layer's keys and values at the prompt; `pieces` cover every row once."""
        spans = [piece.spans for piece in pieces]
        if len(spans) != len(self._spans) or not all(map(operator.is_, spans, self._spans)):
            self._spans = spans
            shape = sorted(of_row for piece in pieces for of_row in piece.shape)
            if shape not in self._shapes:
                self._shapes.append(shape)
                self.key_layouts.append(_merge_layouts(pieces))
            self._layout = self._shapes.index(shape)
        self.layout_of_layer.append(self._layout)
        keys, values = pieces[0].keys, pieces[0].values
        if len(pieces) > 1:
            keys = _merge(pieces, [piece.keys for piece in pieces])
            values = _merge(pieces, [piece.values for piece in pieces])
        self.layers.append(_filled(keys, values))

    def finish_prompt(self, spans: Spans, events: list[list[Event]]) -> None:
        """Record spans (without extensions) and events of the prompt, once every layer is stored."""
        self.valid_BS, self.input_length, self.events = spans.valid_BN, spans.columns, events
        self._next_B = spans.next_position()

    def stock_positions(self, new: int) -> Tensor:
        """Positions that the stock model gives the next `new` tokens, the same on all axes: int64 [B, N].

        Those of a layer with an extension may differ; the layers' own are ours to set.
        """
        assert self._next_B is not None, "only a prompt has tokens behind it"
        return self._next_B[:, None] + self.generated + torch.arange(new, device=self._next_B.device)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens of the input and of the answer so far, padding counted, extensions not; for any layer."""
        return self.input_length + self.generated

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Refuse: no single mask fits these layers, so a model that asks is not the one that filled them."""
        raise ValueError(
            "this cache holds a generation with Blink; a model that is not attached (any more) cannot continue it: "
            "attach the model again or start from the prompt"
        )

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Make row i what row beam_idx[i] was: keys, values, lengths, masks and events."""
        super().reorder_cache(beam_idx)
        self._select(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows `indices` (int64 or bool)."""
        super().batch_select_indices(indices)
        self._select(indices.nonzero()[:, 0] if indices.dtype == torch.bool else indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row `repeats` times in place."""
        super().batch_repeat_interleave(repeats)
        self._select(torch.arange(len(self.events)).repeat_interleave(repeats))

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last generated tokens, given as a negative number.

        Raises:
            ValueError: if that reaches into the prompt, whose events are taken.
        """
        if abs(tokens_to_remove) > self.generated:
            raise ValueError(
                f"cannot crop {abs(tokens_to_remove)} tokens: only {self.generated} were generated"
            )
        super().crop(tokens_to_remove)
        self.generated -= abs(tokens_to_remove)

    def reset(self) -> None:
        """Forget everything."""
        self.__init__()  # type: ignore[misc]  # the state of a new cache, by definition

    def _select(self, rows: Tensor) -> None:
        for layout in self.key_layouts:
            layout.select(rows)
        if self.valid_BS is not None:
            self.valid_BS = self.valid_BS[rows.to(self.valid_BS.device)]
        if self._next_B is not None:
            self._next_B = self._next_B[rows.to(self._next_B.device)]
        self.events = [self.events[row] for row in rows.tolist()]


def _merge_layouts(pieces: list[Piece]) -> KeyLayout:
    """The layout of all rows, shorter ones padded in front."""
    columns, device = max(piece.keys.shape[2] for piece in pieces), pieces[0].keys.device
    next_B = _in_row_order(pieces, [piece.spans.next_position() for piece in pieces])
    if len(pieces) == 1 and pieces[0].spans.valid_BN is None:
        return KeyLayout(columns, None, next_B)
    masks = []
    for piece in pieces:
        b, _, M, _ = piece.keys.shape
        valid_bM = piece.spans.valid_BN
        if valid_bM is None:
            valid_bM = torch.ones(b, M, dtype=torch.bool, device=device)
        masks.append(F.pad(valid_bM, (columns - M, 0)))
    return KeyLayout(columns, _in_row_order(pieces, masks), next_B)


def _filled(keys: Tensor, values: Tensor) -> DynamicLayer:
    """A cache layer that holds keys and values, without the empty tensors that its own way to them begins with."""
    layer = DynamicLayer()
    layer.keys, layer.values = keys, values
    layer.dtype, layer.device, layer.is_initialized = keys.dtype, keys.device, True
    return layer


def _merge(pieces: list[Piece], tensors: list[Tensor]) -> Tensor:
    """Put [b, K, M, E] of every stream in row order, shorter ones padded in front with zeros."""
    columns = max(tensor.shape[2] for tensor in tensors)
    padded = [F.pad(tensor, (0, 0, columns - tensor.shape[2], 0)) for tensor in tensors]
    return _in_row_order(pieces, padded)


def _in_row_order(pieces: list[Piece], tensors: list[Tensor]) -> Tensor:
    """Concatenate what the streams hold and sort it by row."""
    if len(pieces) == 1:
        return tensors[0]
    rows = torch.tensor([row for piece in pieces for row in piece.rows], device=tensors[0].device)
    return torch.cat(tensors)[rows.argsort()]
