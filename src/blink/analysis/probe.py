"""Runs batches of prompts and reads the last prompt token's attention on the picture at some layers.

A prompt runs through the same loop as in inference (`blink.inference.algorithm.run_prompt`), with or without a policy,
and the model object is not changed. Of attention one query row per layer is computed, never a full map.

Axes: S columns of a prompt, N columns at one layer, b rows of one stream, V = H x W visual tokens of the (base)
picture, X tokens of a living extension, d hidden width.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import NamedTuple

import torch
from rich.progress import track
from torch import Tensor

from blink.analysis.kept import Kept, Piece
from blink.bench import Sample
from blink.inference.algorithm import Observer, PassOutput, run_prompt
from blink.inference.calls.given import NOTHING_GIVEN, Given
from blink.inference.calls.prompt_spans import prompt_spans
from blink.inference.crops import Samples
from blink.inference.policy import Event
from blink.inference.run import Run
from blink.inference.scan import last_row, on_picture
from blink.inference.spans import Spans
from blink.inference.streams import Stream
from blink.model.backbone import Backbone
from blink.model.families import Grid
from blink.model.image_inputs import (
    base_views,
    embed_prompt,
    encode_image,
    pixel_digests,
    prompt_inputs,
    sample_key,
)
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


@torch.inference_mode()
def probe(
    backbone: Backbone,
    inputs: Mapping[str, Tensor],
    layers: Collection[int],
    run: Run = STOCK,
    given: Given = NOTHING_GIVEN,
) -> list[Probed]:
    """Run a batch of prompts and read the attention on the picture at `layers`.

    Args:
        inputs: the processor's output for prompts and pictures, on the backbone's device and in its dtype.
        layers: whose attention is read.
        run: may expand and drop on the way; its modules are on their layers' devices.
        given: pictures and boxes of the rows, for runs that need them.

    Raises:
        ValueError: a row has not exactly one picture with text after it, or a layer does not exist.
    """
    for layer in layers:
        backbone.check_layer(layer)
    attention: list[dict[int, PictureAttention]] = [{} for _ in inputs["input_ids"]]

    def before_layer(layer: int, streams: list[Stream]) -> None:
        if layer in layers:
            for stream in streams:
                found = picture_attention(stream.spans, last_row(backbone, layer, stream))
                for row, one in zip(stream.rows, found, strict=True):
                    attention[row][layer] = one

    passed = run_observed(backbone, inputs, run, before_layer, given=given)
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
        pictures = [sample.load_image() for sample in batch]
        prompts = [self.template.prompt(sample.question) for sample in batch]
        inputs = prompt_inputs(self.backbone, pictures, prompts)
        probed = probe(self.backbone, inputs, layers, run, Given(pictures=pictures))
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


def run_observed(
    backbone: Backbone,
    inputs: Mapping[str, Tensor],
    run: Run,
    before_layer: Observer,
    before_scan: Observer | None = None,
    given: Given = NOTHING_GIVEN,
) -> PassOutput:
    """Run prompts as an attached model would, with observers before each scan and each layer.

    Args:
        given: pictures and boxes of the rows, for runs that need them.
    """
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
    samples = Samples(keys)
    if run.policy is not None:
        views = base_views(backbone, inputs) if run.encodes and given.pictures is None else None
        samples = Samples(
            keys,
            given.seen_boxes(backbone, run.policy, len(ids_BS)),
            given.crops(backbone, run, ids_BS, spans, views),
        )
    embedded = embed_prompt(backbone, ids_BS, encode_image(backbone, inputs))
    return run_prompt(
        backbone,
        run,
        embedded.hidden_BSd,
        spans,
        samples,
        added=embedded.added,
        before_layer=before_layer,
        before_scan=before_scan,
    )


def picture_attention(spans: Spans, row_bN: Tensor) -> list[PictureAttention]:
    """Split each row of attention into its parts on picture and extension."""
    original = {
        row: (grid, row_V)
        for rows, grid, row_gV in on_picture(row_bN, spans)
        for row, row_V in zip(rows, row_gV.cpu(), strict=True)
    }
    extension_bX = spans.take_extension(row_bN[:, :, None])[:, :, 0].cpu()
    return [PictureAttention(*original[row], extension_X) for row, extension_X in enumerate(extension_bX)]
