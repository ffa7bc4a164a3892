"""Algorithm 1 as one joint pass over [system; visual; extension; text], and decoding on the KV cache it leaves.

The loop of `run_prompt` is the algorithm's; its comments name the lines of the paper. The functions that it calls
follow it: scan, act, run a layer.

Rows of a batch with a living extension run through a layer apart from the others: two calls on two sub-batches
without padding, rather than one call with every row padded by X columns. A row without an extension so costs what it
costs in the stock model; the price is that such a layer's weights are read twice, and that the hidden states are
copied at a scanned layer where some row changes. Where no row changes nothing is copied. One bf16 layer of width 2048
on a CPU, 4 rows of 635 tokens of which one holds 576 more: 1.21 times the time without that extension (1.23 times the
tokens), against 2.39 times with padding.

Axes: B rows, b rows of one stream, S columns of the input, N columns at one layer, V visual tokens of the base grid,
X tokens of an extension, d hidden width.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blink.inference.cache import BlinkCache, KeyLayout, OneCall, Piece
from blink.inference.policy import Event, Policy, check_layers
from blink.inference.saliency import Decision, attention_row, scan_and_decide, similarity_row
from blink.inference.spans import Spans
from blink.model.backbone import Backbone, Frame, rotate
from blink.model.token_sr import check_modules, check_patches, expand, placed
from blink.model.token_sr_files import load_token_sr


@dataclass(frozen=True)
class Run:
    """One way to answer: a policy, and the modules that it expands with.

    Attributes:
        policy: None is the backbone as it is.
        token_sr: None for interpolation only (Blink-interp); a folder or hub id of `save_token_sr`; or a mapping from
            layer to any module [B, d, H, W] -> [B, d, H, W].
    """

    policy: Policy | None = None
    token_sr: str | os.PathLike[str] | Mapping[int, nn.Module] | None = None

    @property
    def modules(self) -> Mapping[int, nn.Module]:
        """TokenSR per layer, of a resolved run; a scanned layer without one is interpolated only."""
        assert self.token_sr is None or isinstance(self.token_sr, Mapping), "resolve a run before it is used"
        return self.token_sr or {}

    def scans(self, layer: int) -> bool:
        """Whether the policy scans `layer`."""
        return self.policy is not None and layer in self.policy.layers

    def resolve(self, backbone: Backbone) -> "Run":
        """Check that the run fits a model, and read its modules where `token_sr` is a folder or a hub id.

        Returns:
            A run whose `token_sr` is a mapping with a module for each scanned layer and no others, or None.

        Raises:
            ValueError: a scanned layer does not exist or lacks a module, patches do not divide the grid, or modules
                are of another width.
        """
        if self.policy is None:
            return Run()
        layers, width = self.policy.layers, backbone.hidden_size
        check_patches(self.policy.patches, backbone.grid)
        check_layers(layers, backbone.num_layers)
        if self.token_sr is None:
            return self
        modules: Mapping[int, nn.Module]
        if isinstance(self.token_sr, Mapping):
            modules, source = self.token_sr, "the mapping"
        else:
            modules, source = load_token_sr(self.token_sr, channels=width, layers=layers), str(self.token_sr)
        check_modules(modules, layers, width, source)
        return Run(self.policy, {layer: modules[layer] for layer in layers})

    def placed(self, backbone: Backbone) -> "Run":
        """The run with its modules on their layers' device and in their dtype: the same modules, or copies."""
        modules = {
            layer: placed(module, *backbone.device_and_dtype(layer)) for layer, module in self.modules.items()
        }
        return Run(self.policy, modules or None)


@dataclass
class Stream:
    """Rows that run through a layer together: all with a living extension, or all without.

    Attributes:
        rows: which rows of the batch, ascending.
        spans: of these rows.
        frame: attention mask, positions and rotary embedding for these spans.
        hidden_bNd: what enters the next layer.
    """

    rows: list[int]
    spans: Spans
    frame: Frame
    hidden_bNd: Tensor


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
    keys: Sequence[str],
    cache: BlinkCache | None = None,
    keep_states: bool = False,
    before_scan: Observer | None = None,
    before_layer: Observer | None = None,
) -> PassOutput:
    """Run a prompt through every layer; scan, and expand or drop, where the policy says so (Algorithm 1).

    Args:
        run: resolved, its modules placed on their layers.
        hidden_BSd: embeddings, visual tokens in place.
        spans: of the prompt, without extensions.
        keys: names of the samples, for policies that draw at random.
        cache: an empty cache to fill, or None.
        keep_states: fill `PassOutput.states`.
        before_scan: called at every layer with the sequence as a scan sees it.
        before_layer: called at every layer with the sequence that the layer runs on, after expansion or drop.
    """
    events: list[list[Event]] = [[] for _ in keys]
    states: list[Tensor] = []
    streams = split(backbone, hidden_BSd, spans, extensions={}, known=[])
    for layer in range(backbone.num_layers):
        if keep_states:
            states.append(join(streams))
        if before_scan is not None:
            before_scan(layer, streams)
        if run.policy is not None and run.scans(layer):  # line 1: for L in L_sel
            # Lines 3, 4, 6 and 10: saliency of each of the p x p regions, the ratio rho, and its two thresholds.
            actions = scan_streams(backbone, run.policy, layer, streams, keys)
            # Lines 7, 8, 11, 12 and 14: [hs_s; hs_v; hs_SR; hs_t], [hs_s; hs_v; hs_t], or hs as it is; and line 15,
            # mask and positions of that sequence.
            streams = act(backbone, run, layer, spans, streams, actions)
            for of_row, event in zip(events, actions, strict=True):
                of_row.append(event)
        if before_layer is not None:
            before_layer(layer, streams)
        pieces = [run_stream(backbone, layer, stream, keep=cache is not None) for stream in streams]
        if cache is not None:
            cache.store([piece for piece in pieces if piece is not None])
    # Line 16. The extension goes before the final norm, so that S logits come of S input tokens.
    hidden_BSd = backbone.final_norm(join(streams))
    if cache is not None:
        cache.finish_prompt(spans.valid_BN, spans.columns, events)
    return PassOutput(hidden_BSd, events, (*states, hidden_BSd) if keep_states else ())


def scan_streams(
    backbone: Backbone, policy: Policy, layer: int, streams: list[Stream], keys: Sequence[str]
) -> list[Event]:
    """Scan the visual tokens from the last prompt token of every row, and decide: one event per row."""

    def saliency(kind: str) -> Tensor:
        return _in_row_order(streams, [saliency_of(backbone, kind, layer, stream) for stream in streams])

    decisions = [Decision(row, policy, key) for row, key in enumerate(keys)]
    return scan_and_decide(layer, backbone.grid, saliency, decisions)


def saliency_of(backbone: Backbone, kind: str, layer: int, stream: Stream) -> Tensor:
    """Saliency of the base grid's tokens in the sequence as it stands: [b, V] float32 (Eq. 1 and 2).

    Args:
        kind: "attention" or "similarity", as in `Policy.saliency`.
    """
    spans, V = stream.spans, backbone.grid[0] * backbone.grid[1]
    if kind == "similarity":
        normed_bNd = backbone.input_norm(layer)(stream.hidden_bNd)
        query_bAE = backbone.query(layer, spans.last(normed_bNd))
        return similarity_row(query_bAE, backbone.keys(layer, spans.visual(normed_bNd, V)))
    return last_row(backbone, layer, stream).take_along_dim(spans.visual_columns(V), dim=1)


def last_row(backbone: Backbone, layer: int, stream: Stream) -> Tensor:
    """Attention of the last prompt token to the sequence that enters a layer: [b, N] float32, mean over heads.

    Equals the last row of the map that eager attention would form.
    """
    spans, rotary = stream.spans, stream.frame.rotary
    normed_bNd = backbone.input_norm(layer)(stream.hidden_bNd)
    query_bA1E = backbone.query(layer, spans.last(normed_bNd))[:, :, None]
    query_bA1E = rotate(query_bA1E, (spans.last(rotary[0])[:, None], spans.last(rotary[1])[:, None]))
    keys_bKNE = rotate(backbone.keys(layer, normed_bNd), rotary)
    return attention_row(query_bA1E[:, :, 0], [keys_bKNE], spans.valid_BN, backbone.scaling(layer))


def act(
    backbone: Backbone,
    run: Run,
    layer: int,
    spans: Spans,
    streams: list[Stream],
    actions: Sequence[Event],
) -> list[Stream]:
    """Expand and drop as decided, before the layer runs; the streams themselves if no row changes.

    Args:
        run: whose policy decided.
        spans: of the prompt, without extensions.
        actions: the event of every row at this layer.
    """
    assert run.policy is not None, "only a policy acts"
    living = {row: tokens for stream in streams for row, tokens in _extensions(stream).items()}
    expanding = [row for row, event in enumerate(actions) if event.action == "expand"]
    dropping = [row for row, event in enumerate(actions) if event.action == "drop" and row in living]
    if not expanding and not dropping:
        return streams
    hidden_BSd = join(streams)
    expanded: dict[int, Tensor] = {}
    if expanding:
        # hs_SR is made of the visual tokens themselves, never of those of an extension that it replaces.
        visual_bVd = spans.select(expanding).visual(
            hidden_BSd[expanding], backbone.grid[0] * backbone.grid[1]
        )
        region_b = torch.tensor([actions[row].region for row in expanding], device=hidden_BSd.device)
        policy, module = run.policy, run.modules.get(layer)
        tokens_bXd = expand(visual_bVd, region_b, backbone.grid, policy.patches, policy.interpolate, module)
        expanded = dict(zip(expanding, tokens_bXd, strict=True))
    after = {row: event.apply_to(living.get(row), expanded.get(row)) for row, event in enumerate(actions)}
    extensions = {row: tokens for row, tokens in after.items() if tokens is not None}
    return split(backbone, hidden_BSd, spans, extensions, known=streams)


def split(
    backbone: Backbone,
    hidden_BSd: Tensor,
    spans: Spans,
    extensions: Mapping[int, Tensor],
    known: list[Stream],
) -> list[Stream]:
    """Split rows into those without and those with an extension [X, d], and insert it into the latter.

    `known` streams of the same rows and lengths lend their masks and positions.
    """
    B = hidden_BSd.shape[0]
    streams = []
    for rows in ([row for row in range(B) if row not in extensions], sorted(extensions)):
        if not rows:
            continue
        own, hidden_bNd = spans.select(rows), hidden_BSd if len(rows) == B else hidden_BSd[rows]
        if rows[0] in extensions:
            extension_bXd = torch.stack([extensions[row] for row in rows])
            hidden_bNd = own.insert(hidden_bNd, extension_bXd)
            own = own.extended(extension_bXd.shape[1])
        twins = [stream for stream in known if stream.rows == rows and stream.spans.columns == own.columns]
        if twins:
            own, frame = twins[0].spans, twins[0].frame
        else:
            frame = backbone.frame(hidden_bNd, own.valid_BN, own.positions())
        streams.append(Stream(rows, own, frame, hidden_bNd))
    return streams


def join(streams: list[Stream]) -> Tensor:
    """The tokens of the input, extensions removed, all rows in order: [B, S, d]."""
    return _in_row_order(streams, [stream.spans.remove(stream.hidden_bNd) for stream in streams])


def run_stream(backbone: Backbone, layer: int, stream: Stream, keep: bool) -> Piece | None:
    """Run one layer on a stream, in place; return its new keys and values if they are to be kept."""
    call = OneCall()
    stream.hidden_bNd = backbone.run_layer(layer, stream.hidden_bNd, stream.frame, call if keep else None)
    return Piece(stream.rows, *call.new, stream.spans.valid_BN) if keep else None


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


def sample_key(ids_S: Tensor, pixel_digest: str) -> str:
    """Name a prompt, for policies that draw: a hash of its unpadded ids (int64) and of its picture's."""
    return hashlib.sha256(ids_S.cpu().numpy().tobytes() + pixel_digest.encode()).hexdigest()


def _in_row_order(streams: list[Stream], parts: list[Tensor]) -> Tensor:
    """Concatenate what is computed per stream, [b, ...], and sort it by row: [B, ...]."""
    if len(parts) == 1:
        return parts[0]
    rows = torch.tensor([row for stream in streams for row in stream.rows], device=parts[0].device)
    return torch.cat(parts)[rows.argsort()]


def _extensions(stream: Stream) -> dict[int, Tensor]:
    """The extension of each row of a stream, as it stands: row -> [X, d]."""
    if not stream.spans.extension:
        return {}
    return dict(zip(stream.rows, stream.spans.take_extension(stream.hidden_bNd), strict=True))


def _step_frame(backbone: Backbone, hidden_BNd: Tensor, keys: KeyLayout, generated: int) -> Frame:
    """Mask and positions of N tokens after `generated` others, in the layers of one layout."""
    N = hidden_BNd.shape[1]
    valid_BM = keys.valid_BM
    if valid_BM is not None:
        valid_BM = F.pad(valid_BM, (0, generated + N), value=True)
    position_ids = keys.length_B[:, None] + generated + torch.arange(N, device=hidden_BNd.device)
    return backbone.frame(hidden_BNd, valid_BM, position_ids, past=keys.columns + generated)
