"""What a scanned layer shows of the rows that run through it: saliency, read inside its own attention, and decisions.

A layer that may change the sequence decides before it attends (`Scan`). Under a policy that can insert nothing no layer
waits: each one leaves a query and its keys behind, and all decisions are taken together after the last one (`Watch`).

Axes: B rows, b or g rows of one stream, N columns at one layer, A query heads, K key heads, E width of one head,
V visual tokens of the base grid, L scanned layers, d hidden width.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor

from blink.inference.attention import Hook, LeaveLayer, hooks_enabled
from blink.inference.crops import Samples
from blink.inference.policy import Event, Policy
from blink.inference.saliency import (
    Decision,
    RowsOfSaliency,
    attention_of,
    attention_row,
    attention_scores,
    scan_and_decide,
    similarity_row,
)
from blink.inference.spans import Spans, pick
from blink.inference.streams import Stream, run_stream
from blink.model.backbone import Backbone


class Scan:
    """Hook of a scanned layer: saliency from the last prompt token of every row of a stream, and the decisions.

    Attributes:
        events: one per row of the stream, once the layer's attention was reached.
    """

    def __init__(self, policy: Policy, layer: int, stream: Stream, samples: Samples) -> None:
        self.events: list[Event] = []
        self._policy, self._layer = policy, layer
        self._stream, self._samples = stream, samples

    def __call__(
        self,
        query_bANE: Tensor,
        keys_bKNE: Tensor,
        values_bKNE: Tensor,
        scaling: float,
        stock: Callable[[], tuple[Tensor, Any]],
        /,
    ) -> tuple[Tensor, Any]:
        """Decide by one row of this layer's attention, then attend as the stock model does."""
        self.look(query_bANE, keys_bKNE, scaling)
        return stock()

    @torch.no_grad()
    def look(self, query_bANE: Tensor, keys_bKNE: Tensor, scaling: float) -> None:
        """Decide by the attention of the last prompt token; leave the layer if that changes a row's sequence."""
        row_bN = row_of_last(self._stream.spans, query_bANE, keys_bKNE, scaling)
        self.decide(on_picture(row_bN, self._stream.spans))

    def decide(self, saliency: Sequence[RowsOfSaliency]) -> None:
        """Take the decisions; leave the layer if one of them changes a row's sequence."""
        # Lines 3, 4, 6 and 10: saliency of each of the p x p regions, the ratio rho, and its two thresholds.
        decisions = _decisions(self._policy, self._layer, self._stream.rows, self._samples)
        self.events = scan_and_decide(lambda _: saliency, decisions)
        living = self._stream.spans.extension > 0
        if any(event.action == "expand" or (living and event.action == "drop") for event in self.events):
            raise LeaveLayer


class Watch:
    """Scans of a whole pass under a policy that never expands, whose sequences so stay as they are.

    The keys of scanned layers, which a cache most often holds anyway, are read after the last layer: one after the other
    small operations take less than half of what they take between layers.

    Args:
        spans: of all rows.
    """

    def __init__(self, backbone: Backbone, policy: Policy, spans: Spans, samples: Samples) -> None:
        self._backbone, self._policy = backbone, policy
        self._spans, self._samples = spans, samples
        self._layers: list[int] = []
        self._seen: list[tuple[Tensor, Tensor, float]] = []  # query [B, A, E], keys and scaling of each layer
        self._similarity: list[list[RowsOfSaliency]] = []

    def hook(self, layer: int, stream: Stream) -> Hook | None:
        """What a scanned layer runs with; None where it is scanned from without."""
        self._layers.append(layer)
        if self._policy.saliency == "similarity":
            with torch.no_grad():
                self._similarity.append(similarity(self._backbone, layer, stream))
            return None
        return partial(self._keep, stream.spans)

    def _keep(
        self,
        spans: Spans,
        query_BANE: Tensor,
        keys_BKNE: Tensor,
        values_BKNE: Tensor,
        scaling: float,
        stock: Callable[[], tuple[Tensor, Any]],
        /,
    ) -> tuple[Tensor, Any]:
        """Keep the query of the last prompt token and the keys that it sees."""
        last_BAE = spans.last(query_BANE.detach(), dim=2).clone()  # not a view, which would keep all queries
        self._seen.append((last_BAE, keys_BKNE.detach(), scaling))
        return stock()

    def events(self) -> list[list[Event]]:
        """The events of each row; from a GPU they are read here, once."""
        B = len(self._samples.keys)
        decisions = [
            decision
            for index, layer in enumerate(self._layers)
            for decision in _decisions(self._policy, layer, range(B), self._samples, index * B)
        ]
        events = scan_and_decide(lambda _: self._saliency(), decisions)
        return [events[row::B] for row in range(B)]

    def _saliency(self) -> list[RowsOfSaliency]:
        """Of the rows of every layer, layer by layer."""
        B, L = len(self._samples.keys), len(self._layers)
        if self._similarity:
            device = self._similarity[0][0].saliency_bV.device  # layers may lie on several
            return [
                RowsOfSaliency(
                    [index * B + row for row in group.rows], group.grid, group.saliency_bV.to(device)
                )
                for index, groups in enumerate(self._similarity)
                for group in groups
            ]
        assert len(self._seen) == L, "a scanned layer did not call its attention function"
        device, scaling = self._seen[0][0].device, self._seen[0][2]
        scores = []
        for query_BAE, keys_BKNE, own in self._seen:
            scores_BKGN = attention_scores(query_BAE, [keys_BKNE]).to(device)
            scores.append(scores_BKGN if own == scaling else scores_BKGN * (own / scaling))
        row_LBN = attention_of(torch.stack(scores) * scaling, self._spans.to(device).seen_by_last)
        return [
            RowsOfSaliency(
                [index * B + row for index in range(L) for row in rows],
                grid,
                saliency_gVL.movedim(-1, 0).flatten(0, 1),
            )
            for rows, grid, saliency_gVL in on_picture(row_LBN.movedim(0, -1), self._spans)
        ]


def _decisions(
    policy: Policy, layer: int, rows: Sequence[int], samples: Samples, first: int = 0
) -> list[Decision]:
    """What is to be decided at a layer, for rows of the batch whose saliency stands in this order, from row `first` on."""
    boxes = samples.boxes or [None] * len(samples.keys)
    return [
        Decision(layer, number, policy, samples.keys[row], row, boxes[row])
        for number, row in enumerate(rows, first)
    ]


def row_of_last(spans: Spans, query_bANE: Tensor, keys_bKNE: Tensor, scaling: float) -> Tensor:
    """Attention of the last prompt token to the whole sequence: [b, N] float32, mean over heads.

    Equals that row of the map that eager attention would form.
    """
    return attention_row(spans.last(query_bANE, dim=2), [keys_bKNE], spans.seen_by_last, scaling)


def on_picture(row_bN: Tensor, spans: Spans) -> list[RowsOfSaliency]:
    """The part of rows of attention that lies on the base views."""
    found = []
    for grid, rows in spans.rows_by_grid.items():
        own, row_gN = spans.select(rows), row_bN if len(rows) == len(row_bN) else pick(row_bN, rows)
        found.append(RowsOfSaliency(rows, grid, own.visual(row_gN, grid)))
    return found


def similarity(backbone: Backbone, layer: int, stream: Stream) -> list[RowsOfSaliency]:
    """Saliency of the base views by Eq. 1 and 2 as they are written."""
    found = []
    for grid, rows in stream.spans.rows_by_grid.items():
        own = stream.spans.select(rows)
        normed_gNd = backbone.input_norm(layer)(pick(stream.hidden_bNd, rows))
        query_gAE = backbone.query(layer, own.last(normed_gNd))
        keys_gKVE = backbone.keys(layer, own.visual(normed_gNd, grid))
        found.append(RowsOfSaliency(rows, grid, similarity_row(query_gAE, keys_gKVE)))
    return found


def last_row(backbone: Backbone, layer: int, stream: Stream) -> Tensor:
    """What `row_of_last` gives in the sequence that enters a layer, which runs up to its attention and no further."""
    rows: list[Tensor] = []

    def hook(query_bANE: Tensor, keys_bKNE: Tensor, _: Tensor, scaling: float, stock: Any, /) -> Any:
        rows.append(row_of_last(stream.spans, query_bANE, keys_bKNE, scaling))
        raise LeaveLayer

    with hooks_enabled(backbone), suppress(LeaveLayer):
        run_stream(backbone, layer, stream, False, {}, hook)
    return rows[0]


def saliency_of(backbone: Backbone, kind: str, layer: int, stream: Stream) -> list[RowsOfSaliency]:
    """Saliency of the base views in the sequence as it stands (Eq. 1 and 2).

    Args:
        kind: "attention" or "similarity", as in `Policy.saliency`.
    """
    if kind == "similarity":
        return similarity(backbone, layer, stream)
    return on_picture(last_row(backbone, layer, stream), stream.spans)
