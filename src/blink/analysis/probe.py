"""Runs prompts and records, layer by layer, the last prompt token's attention and logit lens (head behind the layer).

A prompt runs through the same loop as in inference (`blink.inference.algorithm.run_prompt`), with or without a policy,
and the model object is not changed. Of attention one query row per layer is computed, never a full map. `probe` takes
batches and reads that row alone; `record` takes one prompt and fills a `LayerRecord` for each layer.

Axes: S columns of a prompt, N columns at one layer, b rows of one stream, V = H x W visual tokens of the (base)
picture, X tokens of a living extension, d hidden width.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from rich.progress import track
from torch import Tensor

from blink.analysis.kept import Kept, Piece
from blink.bench import Sample
from blink.inference.algorithm import (
    Observer,
    PassOutput,
    Stream,
    last_row,
    on_picture,
    run_prompt,
    saliency_of,
)
from blink.inference.policy import Event, Policy, living
from blink.inference.run import Run
from blink.inference.saliency import RowsOfSaliency, focus
from blink.inference.spans import Spans, prompt_spans
from blink.model.backbone import Backbone
from blink.model.families import Grid
from blink.model.image_inputs import embed_prompt, encode_image, pixel_digests, prompt_inputs, sample_key
from blink.model.prompts import Template
from blink.runs.signals import finishing_first

STOCK = Run()
"""The backbone as it is."""


class PictureAttention(NamedTuple):
    """Attention of the last prompt token at one layer, mean over heads: float32 on the CPU.

    What is missing from a sum of 1 lies on system and text, and on tiles, newlines and separators.

    Attributes:
        grid: (H, W) of the (base) picture.
        original_V: on the visual tokens of the (base) picture, row-major.
        extension_X: on the living extension, row-major; X is 0 where none lives.
    """

    grid: Grid
    original_V: Tensor
    extension_X: Tensor


class Probed(NamedTuple):
    """One question: attention by layer, in the sequence after that layer's action, and the events of the policy."""

    attention: dict[int, PictureAttention]
    events: list[Event]


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
def probe(
    backbone: Backbone, inputs: Mapping[str, Tensor], layers: Collection[int], run: Run = STOCK
) -> list[Probed]:
    """Run a batch of prompts and read the attention on the picture at `layers`.

    Args:
        inputs: the processor's output for prompts and pictures, on the backbone's device and in its dtype.
        layers: whose attention is read.
        run: may expand and drop on the way; its modules are on their layers' devices.

    Raises:
        ValueError: a row has not exactly one picture with text after it, or a layer does not exist.
    """
    for layer in layers:
        backbone.check_layer(layer)
    attention: list[dict[int, PictureAttention]] = [{} for _ in inputs["input_ids"]]

    def before_layer(layer: int, streams: list[Stream]) -> None:
        if layer in layers:
            for stream in streams:
                found = _picture_attention(stream.spans, last_row(backbone, layer, stream))
                for row, one in zip(stream.rows, found, strict=True):
                    attention[row][layer] = one

    passed = _run(backbone, inputs, run, before_layer)
    return [Probed(*pair) for pair in zip(attention, passed.events, strict=True)]


class Prober:
    """Probes samples in left-padded batches.

    Args:
        backbone: model and processor.
        template: how a question becomes the prompt.
        batch_size: samples at once.
        kept: where batches are kept that were probed before, under these settings.
    """

    def __init__(
        self, backbone: Backbone, template: Template, *, batch_size: int = 16, kept: Kept | None = None
    ) -> None:
        self.backbone = backbone
        self.template = template
        self.batch_size = batch_size
        self.kept = kept or Kept()

    def __call__(
        self,
        samples: Sequence[Sample],
        layers: Collection[int],
        run: Run = STOCK,
        *,
        label: str = "probing",
    ) -> Iterator[Probed]:
        """Probe samples one after the other.

        Args:
            label: what the progress bar says; it tells apart runs that are kept.

        Raises:
            Stopped: a signal asks for an end; after the batch that was being probed.
        """
        run = run.placed(self.backbone)
        starts = range(0, len(samples), self.batch_size)
        for start in track(starts, label, transient=True):
            batch = samples[start : start + self.batch_size]
            name = json.dumps([label, list(layers), [sample.id for sample in batch]])
            with finishing_first() as pending:
                piece = self.kept.piece(name, partial(self._probed, batch, layers, run))
                pending.check(f"{start + len(batch):,} of {len(samples):,} questions are looked at ({label})")
            yield from _unpacked(piece)

    def _probed(self, batch: Sequence[Sample], layers: Collection[int], run: Run) -> Piece:
        inputs = prompt_inputs(
            self.backbone,
            [sample.load_image() for sample in batch],
            [self.template.prompt(sample.question) for sample in batch],
        )
        probed = probe(self.backbone, inputs, layers, run)
        tensors = {
            f"{row} {layer} {part}": getattr(attention, part)
            for row, one in enumerate(probed)
            for layer, attention in one.attention.items()
            for part in ("original_V", "extension_X")
        }
        notes = [
            {
                "grids": {layer: attention.grid for layer, attention in one.attention.items()},
                "events": [asdict(event) for event in one.events],
            }
            for one in probed
        ]
        return Piece(tensors, notes)


def _unpacked(piece: Piece) -> Iterator[Probed]:
    for row, notes in enumerate(piece.notes):
        attention = {
            int(layer): PictureAttention(
                grid=(H, W),
                original_V=piece.tensors[f"{row} {layer} original_V"],
                extension_X=piece.tensors[f"{row} {layer} extension_X"],
            )
            for layer, (H, W) in notes["grids"].items()
        }
        yield Probed(attention, [Event(**event) for event in notes["events"]])


@torch.inference_mode()
def record(
    backbone: Backbone,
    inputs: Mapping[str, Tensor],
    run: Run,
    scan_like: Policy,
    watched: Sequence[int] = (),
) -> list[LayerRecord]:
    """Run one prompt and record every layer.

    Args:
        inputs: the processor's output for one prompt and its picture, on the backbone's device and in its dtype.
        run: may expand and drop on the way; its modules are on their layers' devices.
        scan_like: the policy whose saliency and regions are used, also where nothing is scanned; the run's own if it
            has one.
        watched: ids of tokens whose probability is of interest.

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
            normed_d.append(backbone.final_norm(stream.hidden_bNd[0, stream.spans.last_B[0]]))

    def before_layer(layer: int, streams: list[Stream]) -> None:
        [stream] = streams
        row_1N = last_row(backbone, layer, stream)
        [attention] = _picture_attention(stream.spans, row_1N)
        columns.append(stream.spans.columns)
        shares.append(_shares(row_1N[0], stream.spans))
        extensions.append(attention.extension_X)

    passed = _run(backbone, inputs, run, before_layer, before_scan)
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


def _run(
    backbone: Backbone,
    inputs: Mapping[str, Tensor],
    run: Run,
    before_layer: Observer,
    before_scan: Observer | None = None,
) -> PassOutput:
    """Run prompts as an attached model would, with observers before each scan and each layer."""
    ids_BS, mask_BS = inputs["input_ids"], inputs.get("attention_mask")
    valid_BS = torch.ones_like(ids_BS, dtype=torch.bool) if mask_BS is None else mask_BS != 0
    spans = prompt_spans(backbone, inputs, None if bool(valid_BS.all()) else valid_BS)
    keys = [""] * len(ids_BS)
    if run.policy is not None and run.policy.draws:
        digests = pixel_digests(backbone, inputs)
        keys = [
            sample_key(ids_S[valid_S], digest)
            for ids_S, valid_S, digest in zip(ids_BS, valid_BS, digests, strict=True)
        ]
    embedded = embed_prompt(backbone, ids_BS, encode_image(backbone, inputs))
    return run_prompt(
        backbone,
        run,
        embedded.hidden_BSd,
        spans,
        keys,
        added=embedded.added,
        before_layer=before_layer,
        before_scan=before_scan,
    )


def _picture_attention(spans: Spans, row_bN: Tensor) -> list[PictureAttention]:
    """Split each row of attention into its parts on picture and extension."""
    original = {
        row: (grid, row_V)
        for rows, grid, row_gV in on_picture(row_bN, spans)
        for row, row_V in zip(rows, row_gV.cpu(), strict=True)
    }
    extension_bX = spans.take_extension(row_bN[:, :, None])[:, :, 0].cpu()
    return [PictureAttention(*original[row], extension_X) for row, extension_X in enumerate(extension_bX)]


def _shares(row_N: Tensor, spans: Spans) -> Shares:
    """Sum a row of attention over the spans; `spans` is of this one row."""
    start, end = int(spans.visual_start_B[0]), int(spans.visual_end_B[0])
    [(H, W)] = spans.grids
    picture = slice(int(spans.base_start_B[0]), int(spans.base_start_B[0]) + H * W)
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
