"""FLOPs of a question that was answered.

What it was answered together with makes no difference, so that runs compare.
"""

import logging
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import torch
from torch import nn

from blink.evaluation.answering.cost import (
    NOTHING,
    Crop,
    decode,
    extension_tokens,
    prompt,
    token_sr,
    two_passes,
    vision,
)
from blink.inference.policy import Event, Policy
from blink.model.backbone import Backbone
from blink.model.dimensions import Dimensions, NotCountedError
from blink.model.image_inputs import PictureShapes
from blink.model.token_sr import Design, make_token_sr
from blink.model.token_sr.files import token_sr_config

log = logging.getLogger(__name__)


class Meter:
    """FLOPs of questions under one policy, picture and answer included, as `attach` and `generate` do them.

    Args:
        backbone: model and processor.
        policy: None for the backbone as it is.
        modules: folder, hub id or mapping, as for `attach`.
        shapes: of pictures; None makes them anew.
        zooms: whether the policy decides about a second pass (`answering/zoom.py`).
    """

    def __init__(
        self,
        backbone: Backbone,
        policy: Policy | None,
        modules: str | PathLike[str] | Mapping[int, nn.Module] | None,
        shapes: PictureShapes | None = None,
        *,
        zooms: bool = False,
    ) -> None:
        self._dims: Dimensions | None = None
        self._tokenizer = backbone.processor.tokenizer
        self._image_token = backbone.image_token_id
        self._policy, self._zooms = policy, zooms
        self._shapes = shapes or PictureShapes(backbone)
        try:
            self._module = None if modules is None else _module(modules)
            self._dims = Dimensions.of(backbone.model)
        except NotCountedError as why:
            log.warning("%s", why)

    def __call__(self, size: tuple[int, int], text: str, events: Sequence[Event], answer: int) -> int | None:
        """FLOPs of one question; None if they cannot be counted.

        Args:
            size: (width, height) of its picture.
            text: the full prompt, with one image token.
            events: what was done at the prompt; none if it was answered without Blink.
            answer: tokens of the answer, the closing one included.
        """
        dims, policy = self._dims, self._policy
        if dims is None:
            return None
        shape = self._shapes(size)
        ids: list[int] = self._tokenizer(text)["input_ids"]
        tokens = len(ids) - 1 + shape.tokens
        H, W = shape.grid
        view = None if dims.tower.patches else (H * dims.tower.merge, W * dims.tower.merge)
        extension = extension_tokens(policy, shape.grid) if policy is not None and events else None
        crop, encoding = None, vision(dims, 1 if view is None else [view])
        if policy is not None and policy.source == "encode":
            before = ids.index(self._image_token) + shape.lead
            crop = Crop(encoding, before + H * W + dims.tower.projected)
        elif self._module is not None and self._module.needs_crop:
            crop = Crop(encoding)
        cost = vision(dims, shape.views)
        if self._zooms and policy is not None and events:
            cost += two_passes(
                dims,
                tokens,
                answer - 1,
                zoomed=events[0].action == "expand",
                crop=encoding,
                saliency=policy.saliency,
                visual=H * W,
            )
            return cost.flops
        cost += prompt(
            dims,
            tokens,
            events,
            extension=extension,
            expander=NOTHING
            if self._module is None
            else token_sr(dims, self._module, H * W, view, encoding=False),
            crop=crop,
            saliency="attention" if policy is None else policy.saliency,
            visual=H * W,
        )
        return (cost + decode(dims, tokens, answer - 1, events, extension, H * W)).flops


def _module(modules: str | PathLike[str] | Mapping[int, nn.Module]) -> Design | None:
    """One of several TokenSR modules that are alike; None if they compute nothing, as identities.

    Raises:
        NotCountedError: they are of different sizes, or of a kind of their own.
    """
    if not isinstance(modules, Mapping):
        config = token_sr_config(modules)
        with torch.device("meta"):
            return make_token_sr(config.kind, config.channels, config.sizes)
    found: dict[Any, Design | None] = {}
    for layer, module in modules.items():
        if isinstance(module, Design):
            found[module.kind, tuple(module.sizes.items())] = module
        elif any(True for _ in module.parameters()):
            raise NotCountedError(
                f"the module of layer {layer} is a {type(module).__name__} and no TokenSR: FLOPs are not counted"
            )
        else:
            found[None] = None
    if len(found) > 1:
        raise NotCountedError("the modules are of different sizes: FLOPs are not counted")
    return found.popitem()[1] if found else None
