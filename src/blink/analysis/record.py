"""Runs one prompt and records every layer: attention per span, saliency and the logit lens (final norm and head behind it).

Axes: N columns at one layer, V = H x W visual tokens of the (base) picture, X tokens of a living extension, d hidden
width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from blink.analysis.probe import picture_attention, run_observed
from blink.inference.calls.given import NOTHING_GIVEN, Given
from blink.inference.policy import Event, Policy, living
from blink.inference.run import Run
from blink.inference.saliency import RowsOfSaliency, focus
from blink.inference.scan import last_row, saliency_of
from blink.inference.spans import Spans
from blink.inference.streams import Stream
from blink.model.backbone import Backbone
from blink.model.families import Grid


class Shares(NamedTuple):
    """Attention of the last prompt token on each span, mean over heads; together 1.

    Attributes:
        system: before the picture.
        picture: the (base) picture's visual tokens.
        tiles: the rest of the visual span, its tiles, newlines and separators.
        extension: the living extension.
        text: behind the picture, the last token itself included.
    """

    system: float
    picture: float
    tiles: float
    extension: float
    text: float


class Word(NamedTuple):
    """A token of the vocabulary and its probability."""

    token: int
    probability: float


@dataclass(frozen=True)
class LayerRecord:
    """One prompt at one layer.

    Attributes:
        layer: counted from 0.
        grid: (H, W) of the (base) picture.
        saliency_V: float32, saliency of the (base) picture's tokens, row-major, in the sequence as it enters the layer,
            before any action: what a scan sees, also at layers that are not scanned.
        ratio: saliency ratio of it (Eq. 3).
        region: its hottest region, row-major.
        event: the policy's event; None at a layer that is not scanned.
        extension: (layer at which it was made, region) of the extension that lives in this layer; None if there is none.
        columns: tokens of the sequence that the layer runs on.
        shares: where the last token's attention goes in that sequence.
        extension_X: float32, attention on the extension, row-major; empty if there is none.
        words: probability of each watched token if the final norm and head are put behind this layer.
        top: the most probable token there.
    """

    layer: int
    grid: Grid
    saliency_V: Tensor
    ratio: float
    region: int
    event: Event | None
    extension: tuple[int, int] | None
    columns: int
    shares: Shares
    extension_X: Tensor
    words: tuple[Word, ...]
    top: Word


@torch.inference_mode()
def record(
    backbone: Backbone,
    inputs: Mapping[str, Tensor],
    run: Run,
    scan_like: Policy,
    watched: Sequence[int] = (),
    given: Given = NOTHING_GIVEN,
) -> list[LayerRecord]:
    """Run one prompt and record every layer.

    Args:
        inputs: the processor's output for one prompt and its picture, on the backbone's device and in its dtype.
        run: may expand and drop on the way; its modules are on their layers' devices.
        scan_like: the policy whose saliency and regions are used, also where nothing is scanned; the run's own if it
            has one.
        watched: ids of tokens whose probability is of interest.
        given: the picture and the box of what is asked about, for a run that needs them.

    Raises:
        ValueError: the prompt has not exactly one picture with text after it.
    """
    saliency: list[RowsOfSaliency] = []
    columns: list[int] = []
    shares: list[Shares] = []
    extensions: list[Tensor] = []
    normed_d: list[Tensor] = []

    def before_scan(layer: int, streams: list[Stream]) -> None:
        [stream] = streams
        saliency.extend(saliency_of(backbone, scan_like.saliency, layer, stream))
        if layer:  # the input of a layer is the output of the one before it
            normed_d.append(backbone.final_norm(stream.hidden_bNd[0, stream.spans.lasts[0]]))

    def before_layer(layer: int, streams: list[Stream]) -> None:
        [stream] = streams
        row_1N = last_row(backbone, layer, stream)
        [attention] = picture_attention(stream.spans, row_1N)
        columns.append(stream.spans.columns)
        shares.append(_shares(row_1N[0], stream.spans))
        extensions.append(attention.extension_X)

    passed = run_observed(backbone, inputs, run, before_layer, before_scan, given)
    normed_d.append(passed.hidden_BSd[0, -1])
    events = {event.layer: event for event in passed.events[0]}
    alive = living(passed.events[0], backbone.num_layers)
    records = []
    for layer in range(backbone.num_layers):
        _, grid, saliency_1V = saliency[layer]
        found = focus(saliency_1V, grid, scan_like.patches)
        words, top = _words(backbone, normed_d[layer], watched)
        records.append(
            LayerRecord(
                layer=layer,
                grid=grid,
                saliency_V=saliency_1V[0].cpu(),
                ratio=float(found.ratio_B[0]),
                region=int(found.region_B[0]),
                event=events.get(layer),
                extension=alive[layer],
                columns=columns[layer],
                shares=shares[layer],
                extension_X=extensions[layer],
                words=words,
                top=top,
            )
        )
    return records


def _shares(row_N: Tensor, spans: Spans) -> Shares:
    """Sum a row of attention over the spans; `spans` is of this one row."""
    start, end = spans.visual_starts[0], spans.visual_ends[0]
    [(H, W)] = spans.grids
    picture = slice(spans.base_starts[0], spans.base_starts[0] + H * W)
    borders = (0, start, end, end + spans.extension, spans.columns)
    system, visual, extension, text = (float(row_N[first:last].sum()) for first, last in pairwise(borders))
    on_base = float(row_N[picture].sum())
    return Shares(system, on_base, visual - on_base, extension, text)


def _words(backbone: Backbone, normed_d: Tensor, watched: Sequence[int]) -> tuple[tuple[Word, ...], Word]:
    """Next-token probabilities of a normed state: of the watched tokens, and of the most probable one."""
    probabilities = backbone.logits(normed_d[None])[0].float().softmax(dim=-1)
    top = int(probabilities.argmax())
    return (
        tuple(Word(token, float(probabilities[token])) for token in watched),
        Word(top, float(probabilities[top])),
    )
