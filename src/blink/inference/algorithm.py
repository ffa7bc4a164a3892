"""Algorithm 1 as one joint pass over [system; visual; extension; text], and decoding on the KV cache it leaves.

The loop of `run_prompt` is the algorithm's; its comments name the lines of the paper. The functions that it calls
follow it: scan, act, run a layer.

Axes: B rows, b rows of one stream, S columns of the input, N columns at one layer, V visual tokens of the base grid,
X tokens of an extension, d hidden width.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from blink.inference.attention import LeaveLayer, hooks_enabled
from blink.inference.cache import BlinkCache, KeyLayout
from blink.inference.crops import Recipe, Samples
from blink.inference.policy import Event, Policy
from blink.inference.run import Run
from blink.inference.scan import Scan, Watch, similarity
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
    watch: Watch | None = None
    if run.policy is not None and run.policy.never_expands:
        watch = Watch(backbone, run.policy, spans, samples)
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
            scans = run.policy is not None and run.scans(layer)  # line 1: for L in L_sel
            if scans and watch is None:
                # Lines 3 to 15: scan, decide, expand or drop, and run the layer on what came of it.
                entering, outputs, actions = run_scanned_layer(
                    backbone, run, layer, spans, streams, samples, keep, added
                )
                for row, event in actions.items():
                    events[row].append(event)
            else:
                entering = streams
                hooks = [watch.hook(layer, stream) if scans and watch else None for stream in streams]
                outputs = [
                    run_stream(backbone, layer, stream, keep, added, hook)
                    for stream, hook in zip(streams, hooks, strict=True)
                ]
            if before_layer is not None:
                before_layer(layer, entering)
            here = spans.to(streams[0].hidden_bNd.device)
            streams = merge(backbone, here, [output.stream for output in outputs], known=entering)
            if cache is not None:
                cache.store([output.piece for output in outputs if output.piece is not None])
    if watch is not None:
        events = watch.events()
    # Line 16. The extension goes before the final norm, so that S logits come of S input tokens.
    hidden_BSd = backbone.final_norm(join(streams))
    if cache is not None:
        cache.finish_prompt(spans, events)
    return PassOutput(hidden_BSd, events, (*states, hidden_BSd) if keep_states else ())


class ScannedLayer(NamedTuple):
    """A scanned layer: the streams that it ran on, what came of them, and the event of each row."""

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
) -> ScannedLayer:
    """Scan, decide, expand or drop, and run the layer (Algorithm 1, lines 3 to 15).

    The scan happens inside the layer's own attention, where q and k are at hand. If no row of a stream changes, the
    layer just goes on, and the scan has cost one row of attention; otherwise it is left there, the sequences are
    changed, and it runs once more on these.

    Args:
        spans: of the prompt, without extensions.
    """
    assert run.policy is not None, "only a policy scans"
    events: dict[int, Event] = {}
    unchanged: list[Stream] = []
    changing: list[Stream] = []
    outputs: list[LayerOutput] = []
    for stream in streams:
        scan = Scan(run.policy, layer, stream, samples)
        try:
            if run.policy.saliency == "similarity":
                scan.decide(similarity(backbone, layer, stream))
                outputs.append(run_stream(backbone, layer, stream, keep, added))
            else:
                outputs.append(run_stream(backbone, layer, stream, keep, added, scan))
            unchanged.append(stream)
        except LeaveLayer:
            changing.append(stream)
        assert scan.events, f"layer {layer} did not call its attention function"
        events |= zip(stream.rows, scan.events, strict=True)
    changed: list[Stream] = []
    if changing:
        spans = spans.to(changing[0].hidden_bNd.device)
        # Lines 7, 8, 11, 12 and 14: [hs_s; hs_v; hs_SR; hs_t] or [hs_s; hs_v; hs_t]; line 15: mask and positions.
        changed = act(backbone, run, layer, spans, changing, events, samples, known=streams)
        outputs += [run_stream(backbone, layer, stream, keep, added) for stream in changed]
    return ScannedLayer([*unchanged, *changed], outputs, events)


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
