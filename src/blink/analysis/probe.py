"""What the last prompt token of a question attends to, layer by layer: one query row per layer, never a full map.

The prompt runs through the same loop as in inference (`blink.inference.algorithm.run_prompt`), with or without a policy; a row
is taken of the sequence as it enters a layer, after that layer's expansion or drop. The model object is not changed.

Axes: V = H x W visual tokens of the (base) picture, X tokens of a living extension, S columns of a prompt.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from rich.progress import track
from torch import Tensor, nn

from blink.bench import Sample
from blink.inference.algorithm import Run, Stream, last_row, run_prompt
from blink.inference.policy import Event, Policy
from blink.inference.spans import find_spans
from blink.model.backbone import Backbone
from blink.model.prompts import Template


class Look(NamedTuple):
    """Attention of the last prompt token at one layer, mean over heads: float32 on the CPU.

    What is missing from a sum of 1 lies on system and text, and for LLaVA-NeXT on the tiles.

    Attributes:
        original_V: on the visual tokens of the (base) picture, row-major.
        extension_X: on the living extension, row-major; X is 0 where none lives.
    """

    original_V: Tensor
    extension_X: Tensor


class Probed(NamedTuple):
    """One question: the looks by layer, and what the policy did."""

    looks: dict[int, Look]
    events: list[Event]


@torch.inference_mode()
def probe(
    backbone: Backbone,
    inputs: Mapping[str, Tensor],
    layers: Collection[int],
    policy: Policy | None = None,
    modules: Mapping[int, nn.Module] | None = None,
    keys: Sequence[str] | None = None,
) -> list[Probed]:
    """Run a batch of prompts and look at `layers`.

    Args:
        inputs: what the processor made of prompts and pictures, on the backbone's device and in its dtype.
        layers: where to look.
        policy: may expand and drop on the way; None runs the backbone as it is.
        modules: TokenSR per layer, on the layer's device; a scanned layer without one is interpolated only.
        keys: names of the samples, for policies that draw.

    Raises:
        ValueError: a row has not exactly one picture with text after it, or a layer does not exist.
    """
    for layer in layers:
        backbone.input_norm(layer)
    ids_BS, mask = inputs["input_ids"], inputs.get("attention_mask")
    valid_BS = None if mask is None or bool((mask != 0).all()) else mask != 0
    spans = find_spans(ids_BS, valid_BS, backbone.image_token_id)
    images = {name: inputs[name] for name in ("pixel_values", "image_sizes") if name in inputs}
    looks: list[dict[int, Look]] = [{} for _ in ids_BS]

    def watch(layer: int, streams: list[Stream]) -> None:
        if layer in layers:
            for stream in streams:
                for row, look in zip(stream.rows, _looks(backbone, layer, stream), strict=True):
                    looks[row][layer] = look

    embedded_BSd = backbone.embed_prompt(ids_BS, images)
    names = keys or [""] * len(looks)
    passed = run_prompt(backbone, Run(policy, modules), embedded_BSd, spans, names, watch=watch)
    return [Probed(*pair) for pair in zip(looks, passed.events, strict=True)]


class Prober:
    """Probes samples in left-padded batches.

    Args:
        backbone: model and processor.
        template: how a question becomes the prompt.
        modules: TokenSR by layer, for policies that expand with them; placed where their layers are.
        batch_size: samples at once.
    """

    def __init__(
        self,
        backbone: Backbone,
        template: Template,
        *,
        modules: Mapping[int, nn.Module] | None = None,
        batch_size: int = 16,
    ) -> None:
        self.backbone = backbone
        self.template = template
        self.modules = Run(None, modules).placed(backbone).modules
        self.batch_size = batch_size

    def __call__(
        self,
        samples: Sequence[Sample],
        layers: Collection[int],
        policy: Policy | None = None,
        *,
        refine: bool = False,
        doing: str = "looking",
    ) -> Iterator[Probed]:
        """Probe samples one after the other.

        Args:
            refine: expand with the TokenSR modules; otherwise by interpolation alone.
            doing: what the progress bar says.
        """
        starts = range(0, len(samples), self.batch_size)
        for start in track(starts, doing, transient=True):
            batch = samples[start : start + self.batch_size]
            inputs = self.backbone.processor(
                images=[sample.load_image() for sample in batch],
                text=[self.template.prompt(sample.question) for sample in batch],
                padding=True,
                return_tensors="pt",
            ).to(self.backbone.device, self.backbone.dtype)
            yield from probe(
                self.backbone,
                inputs,
                layers,
                policy,
                self.modules if refine else None,
                keys=[sample.id for sample in batch],
            )


def _looks(backbone: Backbone, layer: int, stream: Stream) -> Iterator[Look]:
    spans = stream.spans
    row_bN = last_row(backbone, layer, stream)
    original_bV = row_bN.take_along_dim(spans.visual_columns(backbone.grid[0] * backbone.grid[1]), dim=1)
    extension_bX = spans.take_extension(row_bN[:, :, None])[:, :, 0]
    return (Look(*pair) for pair in zip(original_bV.cpu(), extension_bX.cpu(), strict=True))
