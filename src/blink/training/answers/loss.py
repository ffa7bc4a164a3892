"""The loss of right answers above an extension, with gradients in its TokenSR alone.

A layer is trained under a policy that scans it alone and always expands, so that layers do not couple. What enters it is
the stock model's: that runs once for all trained layers and keeps no activations. The layers from it on run again for each
trained layer, over prompt, extension and answer, with a graph.

Axes: n questions about one image, S columns of a prompt with its answer, d hidden width, V the vocabulary.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blink.inference.algorithm import run_scanned_layer
from blink.inference.attention import hooks_enabled
from blink.inference.calls.given import crop_prefixes, view_maker
from blink.inference.calls.prompt_spans import prompt_spans
from blink.inference.crops import Crops, OriginalPicture, Samples
from blink.inference.policy import Policy
from blink.inference.run import Run
from blink.inference.spans import Spans
from blink.inference.streams import join, merge, run_stream, split
from blink.model.backbone import Backbone
from blink.model.families import Encoded
from blink.model.image_inputs import embed_prompt, encode_image
from blink.model.token_sr import Context
from blink.training.answers.lessons import IGNORED, AskedImage
from blink.training.features.states import refine


class EnteringStates(NamedTuple):
    """Prompts with answers as they enter some layers of the stock model.

    Attributes:
        states: layer -> [n, S, d].
        spans: of the prompts.
        added: what the model adds behind some layers (DeepStack): layer -> [n, S, d].
        samples: what else the prompts are known by.
        labels_nS: see `AskedImage`.
    """

    states: dict[int, Tensor]
    spans: Spans
    added: Mapping[int, Tensor]
    samples: Samples
    labels_nS: Tensor


class InOwnDtype(nn.Module):
    """A module that is called with tokens of the backbone's dtype and computes in its own, under autocast as it is here."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.module = module
        self.needs_context = getattr(module, "needs_context", False)
        self.needs_crop = getattr(module, "needs_crop", False)
        self._autocast = torch.autocast(
            device.type,
            dtype=torch.get_autocast_dtype(device.type),
            enabled=torch.is_autocast_enabled(device.type),
        )

    def forward(self, tokens_BdHW: Tensor, context: Context | None = None) -> Tensor:
        """As the module."""
        with self._autocast:
            return refine(self.module, tokens_BdHW, context)


def answer_policy(layer: int, *, patches: int = 2, positions: str = "append") -> Policy:
    """The policy that a layer is trained under: it scans that alone, and always expands."""
    return Policy([layer], tau_exp=0, tau_drop=0, patches=patches, positions=positions)


def answer_losses(
    backbone: Backbone,
    asked: Sequence[AskedImage],
    modules: Mapping[int, nn.Module | None],
    *,
    patches: int = 2,
    positions: str = "append",
) -> dict[int, Tensor]:
    """The loss of the answers of a batch for each layer's module, with that alone at work: float32 scalars, in nats.

    Of the questions about one image it is the mean over all tokens of the answers, and equals the loss that `attach` with
    `answer_policy` gives for these rows with labels; of a batch the mean over its images. So a batch that several processes
    or accumulated batches share out gives what it gives in one.

    Args:
        backbone: frozen and whole, on the device of `asked`.
        modules: layer -> TokenSR; None is interpolation.
    """
    device = backbone.device.type
    wrapped = {
        layer: None if module is None else InOwnDtype(module, backbone.device)
        for layer, module in modules.items()
    }
    crops = any(module is not None and module.needs_crop for module in wrapped.values())
    losses: dict[int, list[Tensor]] = {layer: [] for layer in modules}
    with torch.autocast(device, enabled=False):
        for image in asked:
            entering = enter_layers(backbone, image, modules, crops=crops)
            for layer, module in wrapped.items():
                policy = answer_policy(layer, patches=patches, positions=positions)
                run = Run(policy, None if module is None else {layer: module})
                losses[layer].append(loss_above(backbone, run, layer, entering))
    return {layer: torch.stack(found).mean() for layer, found in losses.items()}


@torch.no_grad()
def enter_layers(
    backbone: Backbone, asked: AskedImage, layers: Mapping[int, object], *, crops: bool = False
) -> EnteringStates:
    """Run prompts with answers up to the highest of some layers, as the stock model does.

    Args:
        crops: whether regions of the image will be encoded.
    """
    n = len(asked.ids_nS)
    pixels = {
        name: value.to(backbone.dtype) if value.is_floating_point() else value
        for name, value in asked.pixels.items()
    }
    once = encode_image(backbone, {**pixels, "input_ids": asked.ids_nS[:1]})
    encoded = Encoded(once.features_Td.repeat(n, 1), tuple(part.repeat(n, 1) for part in once.added))
    embedded = embed_prompt(backbone, asked.ids_nS, encoded)
    of_each = {name: value.repeat(n, *[1] * (value.dim() - 1)) for name, value in pixels.items()}
    valid_nS = None if asked.valid_nS.all() else asked.valid_nS
    inputs = {**of_each, "input_ids": asked.ids_nS}
    spans = prompt_spans(backbone, inputs, valid_nS, labels_BS=asked.labels_nS)
    cut = None
    if crops:
        assert asked.image is not None, "regions to encode are cut out of the image"
        picture = OriginalPicture(asked.image, view_maker(backbone))
        cut = Crops(backbone, crop_prefixes(asked.ids_nS, spans, backbone.image_token_id), [picture] * n)
    states = {}
    streams = split(backbone, embedded.hidden_BSd, list(range(n)), spans, {}, [])
    for layer in range(max(layers) + 1):
        if layer in layers:
            states[layer] = join(streams)
        if layer < max(layers):
            streams = [
                run_stream(backbone, layer, stream, False, embedded.added).stream for stream in streams
            ]
    return EnteringStates(states, spans, embedded.added, Samples([""] * n, crops=cut), asked.labels_nS)


def loss_above(backbone: Backbone, run: Run, layer: int, entering: EnteringStates) -> Tensor:
    """Expand at a layer, run it and all above it, and compare with the answers: the mean over their tokens."""
    spans, added = entering.spans, entering.added
    streams = split(
        backbone, entering.states[layer], list(range(len(entering.labels_nS))), spans, extensions={}, known=[]
    )
    with hooks_enabled(backbone):
        scanned = run_scanned_layer(backbone, run, layer, spans, streams, entering.samples, False, added)
        streams = merge(backbone, spans, [output.stream for output in scanned.outputs], scanned.entering)
        for above in range(layer + 1, backbone.num_layers):
            streams = [run_stream(backbone, above, stream, False, added).stream for stream in streams]
    hidden_nSd = backbone.final_norm(join(streams))
    follows_nS = entering.labels_nS[:, 1:] != IGNORED
    labels = entering.labels_nS[:, 1:][follows_nS]
    logits_TV = backbone.logits(hidden_nSd[:, :-1][follows_nS]).float()
    return F.cross_entropy(logits_TV, labels)
