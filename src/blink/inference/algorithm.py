"""Algorithm 1 as one joint pass over [system; visual; extension; text], and decoding on the KV cache it leaves.

The loop of `run_prompt` is the algorithm's; its comments name the lines of the paper. The functions that it calls
follow it: scan, act, run a layer.

Axes: B rows, b rows of one stream, S columns of the input, N columns at one layer, V visual tokens of the base grid,
X tokens of an extension, d hidden width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from blink.inference.attention import LeaveLayer, hooks_enabled
from blink.inference.cache import BlinkCache, KeyLayout
from blink.inference.crops import Recipe, Samples
from blink.inference.policy import Event, Policy
from blink.inference.run import Run
from blink.inference.saliency import (
    Decision,
    PendingScan,
    RowsOfSaliency,
    attention_row,
    decide_pending,
    measure,
    similarity_row,
)
from blink.inference.spans import Placement, Spans, check_grids, pick
from blink.inference.streams import (
    LayerOutput,
    LivingExtension,
    Stream,
    extensions_of,
    join,
    merge,
    run_stream,
    split,
)
from blink.model.backbone import Backbone, Frame
from blink.model.families import Grid
from blink.model.token_sr import region_box

Observer = Callable[[int, list[Stream]], None]
"""Called with a layer and the hidden states that enter it; must change nothing."""


class PassOutput(NamedTuple):
    """What a pass over all layers gives.

    Attributes:
        hidden_BSd: states of the input tokens after the final norm.
        events: one list per row, one event per scanned layer.
        states: if asked for, the states of the input tokens that enter each layer, then `hidden_BSd`.
    """

    hidden_BSd: Tensor
    events: list[list[Event]]
    states: tuple[Tensor, ...]


def run_prompt(
    backbone: Backbone,
    run: Run,
    hidden_BSd: Tensor,
    spans: Spans,
    samples: Samples,
    cache: BlinkCache | None = None,
    keep_states: bool = False,
    added: Mapping[int, Tensor] = MappingProxyType({}),
    before_scan: Observer | None = None,
    before_layer: Observer | None = None,
) -> PassOutput:
    """Run a prompt through every layer; scan, and expand or drop, where the policy says so (Algorithm 1).

    Args:
        run: resolved, its modules placed on their layers.
        hidden_BSd: embeddings, visual tokens in place.
        spans: of the prompt, without extensions.
        samples: what the rows are known by beside their tokens.
        cache: an empty cache to fill, or None.
        keep_states: fill `PassOutput.states`.
        added: what the model adds behind some layers (DeepStack): layer -> [B, S, d].
        before_scan: called at every layer with the sequence as a scan sees it.
        before_layer: called at every layer with the sequence that the layer runs on, after expansion or drop.
    """
    if run.policy is not None:
        check_grids(spans, run.policy.patches)
    events: list[list[Event]] = [[] for _ in samples.keys]
    # Where nothing can be inserted no layer waits for its scan: all are read, and their ratios checked, after the last one.
    pending: list[Scan] | None = [] if run.policy is not None and run.policy.never_expands else None
    states: list[Tensor] = []
    keep = cache is not None
    streams = split(backbone, hidden_BSd, list(range(len(events))), spans, extensions={}, known=[])
    with hooks_enabled(backbone):
        for layer in range(backbone.num_layers):
            if backbone.is_spread:
                streams = [stream.to(backbone.device_of(layer)) for stream in streams]
            if keep_states:
                states.append(join(streams))
            if before_scan is not None:
                before_scan(layer, streams)
            if run.policy is not None and run.scans(layer):  # line 1: for L in L_sel
                # Lines 3 to 15: scan, decide, expand or drop, and run the layer on what came of it.
                entering, outputs, actions = run_scanned_layer(
                    backbone, run, layer, spans, streams, samples, keep, added, pending
                )
                for row, event in actions.items():
                    events[row].append(event)
            else:
                entering = streams
                outputs = [run_stream(backbone, layer, stream, keep, added) for stream in streams]
            if before_layer is not None:
                before_layer(layer, entering)
            here = spans.to(streams[0].hidden_bNd.device)
            streams = merge(backbone, here, [output.stream for output in outputs], known=entering)
            if cache is not None:
                cache.store([output.piece for output in outputs if output.piece is not None])
    for scan, of_rows in _decided(pending or []):
        for row, event in zip(scan.rows, of_rows, strict=True):
            events[row].append(event)
    # Line 16. The extension goes before the final norm, so that S logits come of S input tokens.
    hidden_BSd = backbone.final_norm(join(streams))
    if cache is not None:
        cache.finish_prompt(spans, events)
    return PassOutput(hidden_BSd, events, (*states, hidden_BSd) if keep_states else ())


class ScannedLayer(NamedTuple):
    """A scanned layer: the streams that it ran on, what came of them, and the event of each row, unless that is pending."""

    entering: list[Stream]
    outputs: list[LayerOutput]
    events: dict[int, Event]


def run_scanned_layer(
    backbone: Backbone,
    run: Run,
    layer: int,
    spans: Spans,
    streams: list[Stream],
    samples: Samples,
    keep: bool,
    added: Mapping[int, Tensor],
    pending: "list[Scan] | None" = None,
) -> ScannedLayer:
    """Scan, decide, expand or drop, and run the layer (Algorithm 1, lines 3 to 15).

    The scan happens inside the layer's own attention, where q and k are at hand. If no row of a stream changes, the
    layer just goes on, and the scan has cost one row of attention; otherwise it is left there, the sequences are
    changed, and it runs once more on these.

    Args:
        spans: of the prompt, without extensions.
        pending: takes the scans whose decisions can wait, for a policy that never expands; None: they are taken here.
    """
    assert run.policy is not None, "only a policy scans"
    events: dict[int, Event] = {}
    unchanged: list[Stream] = []
    changing: list[Stream] = []
    outputs: list[LayerOutput] = []
    for stream in streams:
        scan = Scan(run.policy, layer, stream, samples, waits=pending is not None)
        try:
            if run.policy.saliency == "similarity":
                scan.decide(similarity(backbone, layer, stream))
                outputs.append(run_stream(backbone, layer, stream, keep, added))
            else:
                outputs.append(run_stream(backbone, layer, stream, keep, added, scan))
            unchanged.append(stream)
        except LeaveLayer:
            changing.append(stream)
        assert scan.found is not None, f"layer {layer} did not call its attention function"
        if pending is not None:
            pending.append(scan)
        else:
            events |= zip(stream.rows, scan.events, strict=True)
    changed: list[Stream] = []
    if changing:
        spans = spans.to(changing[0].hidden_bNd.device)
        # Lines 7, 8, 11, 12 and 14: [hs_s; hs_v; hs_SR; hs_t] or [hs_s; hs_v; hs_t]; line 15: mask and positions.
        changed = act(backbone, run, layer, spans, changing, events, samples, known=streams)
        outputs += [run_stream(backbone, layer, stream, keep, added) for stream in changed]
    return ScannedLayer([*unchanged, *changed], outputs, events)


class Scan:
    """Hook of a scanned layer: saliency from the last prompt token of every row of a stream, and the decisions.

    Args:
        waits: whether the decisions are left to `decide_pending`, since none of them can change a sequence.

    Attributes:
        rows: of the batch, those of the stream.
        found: what was measured, once the layer's attention was reached.
        events: one per row of the stream, unless they wait.
    """

    found: PendingScan | None = None

    def __init__(
        self, policy: Policy, layer: int, stream: Stream, samples: Samples, waits: bool = False
    ) -> None:
        self.events: list[Event] = []
        self.rows, self._waits = stream.rows, waits
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
        keys, boxes = self._samples.keys, self._samples.boxes
        decisions = [
            Decision(row, self._policy, keys[sample], sample, None if boxes is None else boxes[sample])
            for row, sample in enumerate(self._stream.rows)
        ]
        self.found = measure(self._layer, lambda _: saliency, decisions)
        if self._waits:
            return
        [self.events] = decide_pending([self.found])
        living = self._stream.spans.extension > 0
        if any(event.action == "expand" or (living and event.action == "drop") for event in self.events):
            raise LeaveLayer


def _decided(pending: "list[Scan]") -> Iterator[tuple["Scan", list[Event]]]:
    """Scans whose decisions waited, with the events of their rows."""
    found = [scan.found for scan in pending if scan.found is not None]
    return zip(pending, decide_pending(found) if found else [], strict=True)


def row_of_last(spans: Spans, query_bANE: Tensor, keys_bKNE: Tensor, scaling: float) -> Tensor:
    """Attention of the last prompt token to the whole sequence: [b, N] float32, mean over heads.

    Equals that row of the map that eager attention would form.
    """
    return attention_row(spans.last(query_bANE.transpose(1, 2)), [keys_bKNE], spans.seen_by_last, scaling)


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


def act(
    backbone: Backbone,
    run: Run,
    layer: int,
    spans: Spans,
    streams: list[Stream],
    events: Mapping[int, Event],
    samples: Samples,
    known: list[Stream],
) -> list[Stream]:
    """Expand and drop as decided, before the layer runs: streams of the same rows.

    Args:
        run: whose policy decided.
        spans: of the whole prompt, without extensions.
        events: row -> its event at this layer.
        samples: of the whole prompt.
        known: streams whose masks and positions may serve again.
    """
    assert run.policy is not None, "only a policy acts"
    living = {row: tokens for stream in streams for row, tokens in extensions_of(stream).items()}
    rows = sorted(row for stream in streams for row in stream.rows)
    hidden_bSd = join(streams)
    recipe = Recipe.of(run, layer)
    expanding = [row for row in rows if events[row].action == "expand"]
    expanded: dict[int, LivingExtension] = {}
    for grid, group in spans.select(expanding).rows_by_grid.items():
        # hs_SR is made of the visual tokens themselves, or anew, never of those of an extension that it replaces.
        of_group = [expanding[index] for index in group]
        hidden_gSd = (
            hidden_bSd if of_group == rows else pick(hidden_bSd, [rows.index(row) for row in of_group])
        )
        regions = [events[row].region for row in of_group]
        visual_gVd = spans.select(of_group).visual(hidden_gSd, grid)
        made = recipe.tokens(visual_gVd, regions, grid, samples.crops, of_group)
        placed = [placement_of(run.policy, region, grid) for region in regions]
        expanded |= zip(of_group, map(LivingExtension, made, placed), strict=True)
    after = {row: events[row].apply_to(living.get(row), expanded.get(row)) for row in rows}
    extensions = {row: extension for row, extension in after.items() if extension is not None}
    return split(backbone, hidden_bSd, rows, spans, extensions, known)


def placement_of(policy: Policy, region: int, grid: Grid) -> Placement:
    """Where an extension of a region stands."""
    box = region_box(region, policy.patches, grid)
    size = grid if policy.interpolate else (box.height, box.width)
    return Placement(size, box if policy.positions == "region" else None)


def run_step(
    backbone: Backbone, hidden_BNd: Tensor, cache: BlinkCache, keep_states: bool = False
) -> PassOutput:
    """Decode N tokens per row behind what `cache` holds, in each layer at the positions that follow that layer's own.

    Nothing is scanned: the events of the prompt stay.
    """
    frames = [_step_frame(backbone, hidden_BNd, keys, cache.generated) for keys in cache.key_layouts]
    states: list[Tensor] = []
    for layer in range(backbone.num_layers):
        if keep_states:
            states.append(hidden_BNd)
        hidden_BNd = backbone.run_layer(layer, hidden_BNd, frames[cache.layout_of_layer[layer]], cache)
    cache.generated += hidden_BNd.shape[1]
    hidden_BNd = backbone.final_norm(hidden_BNd)
    return PassOutput(hidden_BNd, cache.events, (*states, hidden_BNd) if keep_states else ())


def _step_frame(backbone: Backbone, hidden_BNd: Tensor, keys: KeyLayout, generated: int) -> Frame:
    """Mask and positions of N tokens after `generated` others, in the layers of one layout."""
    N, device = hidden_BNd.shape[1], hidden_BNd.device
    valid_BM = keys.valid_BM
    if valid_BM is not None:
        valid_BM = F.pad(valid_BM.to(device), (0, generated + N), value=True)
    position_BN = keys.next_B.to(device)[:, None] + generated + torch.arange(N, device=device)
    position_CBN = position_BN.expand(backbone.family.axes, -1, -1)
    return backbone.frame(hidden_BNd, valid_BM, position_CBN, past=keys.columns + generated)
