"""What a question costs that is answered alone, from what is known once it is answered: its prompt and its events.

The numbers do not depend on what it was answered with, so that runs compare whatever they shared.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from blink.evaluation.cost import NOTHING, Cost, decode, prompt, token_sr, vision
from blink.inference.policy import Event, Policy
from blink.model.dimensions import Dimensions, image_tokens, tiles
from blink.model.token_sr import TokenSR, token_sr_config


class Meter:
    """FLOPs of questions under one policy, picture and answer included, as `attach` and `generate` do them.

    Args:
        config: of the model.
        tokenizer: of its processor.
        policy: None for the backbone as it is.
        modules: folder, hub id or mapping, as for `attach`; modules other than TokenSR count nothing.
    """

    def __init__(
        self,
        config: Any,
        tokenizer: Any,
        policy: Policy | None,
        modules: str | Mapping[int, nn.Module] | None,
    ) -> None:
        self._dims = Dimensions.of(config)
        self._tokenizer = tokenizer
        self._saliency = "attention" if policy is None else policy.saliency
        whole = policy is None or policy.interpolate
        self._extension = self._dims.visual // (1 if policy is None or whole else policy.patches**2)
        expander = _expander(self._dims, modules)
        self._expander = Cost(expander.flops * self._extension // self._dims.visual, expander.bytes)

    def __call__(self, size: tuple[int, int], text: str, events: Sequence[Event], answer: int) -> int:
        """FLOPs of one question.

        Args:
            size: (width, height) of its picture.
            text: the full prompt, with one image token.
            events: what was done at the prompt.
            answer: tokens of the answer, the closing one included.
        """
        width, height = size
        dims = self._dims
        down, across = tiles(dims, height, width) if dims.pinpoints else (0, 0)
        tokens = len(self._tokenizer(text)["input_ids"]) - 1 + image_tokens(dims, height, width)
        cost = vision(dims, 1 + down * across)
        cost += prompt(
            dims,
            tokens,
            events,
            extension=self._extension,
            expander=self._expander,
            saliency=self._saliency,
        )
        return (cost + decode(dims, tokens, answer - 1, events, self._extension)).flops


def _expander(dims: Dimensions, modules: str | Mapping[int, nn.Module] | None) -> Cost:
    """The cost of one extension's module on the whole grid."""
    if modules is None:
        return NOTHING
    if not isinstance(modules, Mapping):
        config = token_sr_config(modules)
        return token_sr(dims, config["hidden"], config["kernels"])
    module = next((module for module in modules.values() if isinstance(module, TokenSR)), None)
    return NOTHING if module is None else token_sr(dims, module.hidden, module.kernels)
