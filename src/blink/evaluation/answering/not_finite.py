"""Where a stock model first makes nan or infinity of a prompt."""

from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from blink.model.backbone import Backbone
from blink.model.image_inputs import prompt_inputs


@torch.inference_mode()
def first_not_finite(backbone: Backbone, image: Image.Image, prompt: str) -> int | str:
    """Return where the stock model first makes nan or infinity of a prompt: a decoder layer, or another part in words.

    Where it makes none, modules of TokenSR do, as no other part is Blink's own.
    """
    model, decoder = backbone.model, backbone.decoder
    parts: dict[nn.Module, int | str] = {
        **{part: _in_words(name) for name, part in backbone.core.named_children() if part is not decoder},
        decoder.embed_tokens: "embeddings",
        **{layer: number for number, layer in enumerate(decoder.layers)},
        decoder.norm: "final norm",
        model.lm_head: "language modelling head",
    }
    found: list[int | str] = []

    def note(part: nn.Module, _: Any, output: Any) -> None:
        tensors = (
            output.values()
            if isinstance(output, Mapping)
            else output
            if isinstance(output, tuple)
            else [output]
        )
        if not all(tensor.isfinite().all() for tensor in tensors if isinstance(tensor, Tensor)):
            found.append(parts[part])

    hooks = [part.register_forward_hook(note) for part in parts]
    try:
        model(**prompt_inputs(backbone, [image], [prompt]))
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else "TokenSR modules, since the backbone alone is finite"


def _in_words(name: str) -> str:
    """A part of a model: "vision tower", "projector"."""
    return name.removeprefix("multi_modal_").replace("_", " ")
