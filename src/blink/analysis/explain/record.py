"""What happens to one prompt at every layer: where its last token looks, what Blink does, what the head would say.

The prompt runs through the same loop as in inference (`blink.inference.algorithm.run_prompt`); the model object is not changed.

Axes: N columns at one layer, V = H x W visual tokens of the (base) picture, X tokens of an extension, d hidden width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from blink.inference.algorithm import Run, Stream, last_row, run_prompt, saliency_of, sample_key
from blink.inference.policy import Event, Policy, living
from blink.inference.saliency import focus
from blink.inference.spans import Spans, find_spans
from blink.model.backbone import Backbone
from blink.model.image_inputs import pixel_digests


class Shares(NamedTuple):
    """Attention of the last prompt token on each span, mean over heads; together 1.

    Attributes:
        system: before the picture.
        picture: the (base) picture's visual tokens.
        tiles: the rest of the visual span, LLaVA-NeXT's tiles and newlines.
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
        saliency_V: float32, the policy's saliency of the (base) picture's tokens, row-major, in the sequence as it
            enters the layer, before any action: what a scan sees, also at layers that are not scanned.
        ratio: saliency ratio of it (Eq. 3).
        region: its hottest region, row-major.
        event: what was done; None at a layer that is not scanned.
        extension: (layer of birth, region) of the extension that lives in this layer; None if there is none.
        columns: tokens of the sequence that the layer runs on.
        shares: where the last token's attention goes in that sequence.
        extension_X: float32, attention on the extension, row-major; empty if there is none.
        words: probability of each watched token if the final norm and head are put behind this layer.
        top: the most probable token there.
    """

    layer: int
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
    policy: Policy,
    modules: Mapping[int, nn.Module],
    watched: Sequence[int] = (),
) -> list[LayerRecord]:
    """Run one prompt and record every layer.

    Args:
        inputs: what the processor made of one prompt and its picture, on the backbone's device and in its dtype.
        policy: may expand and drop on the way; its saliency and patches are also used where it does not scan.
        modules: TokenSR per layer; a scanned layer without one is interpolated only.
        watched: ids of tokens whose probability is of interest.

    Raises:
        ValueError: the prompt has not exactly one picture with text after it.
    """
    ids_1S = inputs["input_ids"]
    spans = find_spans(ids_1S, None, backbone.image_token_id)
    images = {name: inputs[name] for name in ("pixel_values", "image_sizes") if name in inputs}
    key = ""
    if policy.draws:
        [digest] = pixel_digests(backbone, inputs["pixel_values"], inputs.get("image_sizes"))
        key = sample_key(ids_1S[0], digest)
    V = backbone.grid[0] * backbone.grid[1]
    scans: list[Tensor] = []
    attended: list[tuple[int, Shares, Tensor]] = []
    normed_d: list[Tensor] = []

    def before(layer: int, streams: list[Stream]) -> None:
        [stream] = streams
        scans.append(saliency_of(backbone, policy, layer, stream)[0].cpu())
        if layer:
            normed_d.append(backbone.final_norm(stream.hidden_bNd[0, stream.spans.last_B[0]]))

    def after(layer: int, streams: list[Stream]) -> None:
        [stream] = streams
        row_N = last_row(backbone, layer, stream)[0]
        extension_X = stream.spans.take_extension(row_N[None, :, None])[0, :, 0].cpu()
        attended.append((stream.spans.columns, _shares(row_N, stream.spans, V), extension_X))

    passed = run_prompt(
        backbone,
        Run(policy, modules).placed(backbone),
        backbone.embed_prompt(ids_1S, images),
        spans,
        [key],
        watch=after,
        watch_scan=before,
    )
    [events] = passed.events
    normed_d.append(passed.hidden_BSd[0, spans.last_B[0]])
    by_layer = {event.layer: event for event in events}
    alive = living(events, backbone.num_layers)
    records = []
    for layer, (saliency_V, (columns, shares, extension_X), state_d) in enumerate(
        zip(scans, attended, normed_d, strict=True)
    ):
        found = focus(saliency_V[None], backbone.grid, policy.patches)
        words, top = _words(backbone, state_d, watched)
        records.append(
            LayerRecord(
                layer=layer,
                saliency_V=saliency_V,
                ratio=float(found.ratio_B[0]),
                region=int(found.region_B[0]),
                event=by_layer.get(layer),
                extension=alive[layer],
                columns=columns,
                shares=shares,
                extension_X=extension_X,
                words=words,
                top=top,
            )
        )
    return records


def _shares(row_N: Tensor, spans: Spans, V: int) -> Shares:
    """Sum a row of attention over the spans; `spans` is of this one row."""
    start, end = int(spans.visual_start_B[0]), int(spans.visual_end_B[0])
    borders = (0, start, start + V, end, end + spans.extension, spans.columns)
    return Shares(*(float(row_N[first:last].sum()) for first, last in pairwise(borders)))


def _words(backbone: Backbone, normed_d: Tensor, watched: Sequence[int]) -> tuple[tuple[Word, ...], Word]:
    """What the head says to a normed state: the watched tokens, and the most probable one."""
    probabilities = backbone.logits(normed_d[None])[0].float().softmax(dim=-1)
    top = int(probabilities.argmax())
    return (
        tuple(Word(token, float(probabilities[token])) for token in watched),
        Word(top, float(probabilities[top])),
    )
