"""Interpolation plus a correction by the paper's convolutions, which is zero before training."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from blink.model.token_sr.base import Convolutions, zeroed
from blink.model.token_sr.regions import upsample


class ResidualTokenSR(Convolutions):
    """The resized tokens plus what the convolutions make of them; the last convolution starts at zero.

    So training begins at plain interpolation, and never has to learn to carry the tokens through a bottleneck.
    Arguments and errors are those of `blink.TokenSR`.
    """

    kind = "residual"

    def __init__(
        self, channels: int, hidden: Sequence[int] | None = None, kernels: Sequence[int] = (5, 3, 1)
    ) -> None:
        super().__init__(channels, hidden, kernels)
        zeroed(self.convolutions[-1])

    def forward(
        self, tokens_BdHW: Tensor, context: Any = None, size: tuple[int, int] | None = None
    ) -> Tensor:
        """Correct a grid of tokens; shape and dtype stay. Arguments as of `blink.TokenSR`."""
        if size is None:
            return tokens_BdHW + self.convolve(tokens_BdHW)
        return upsample(tokens_BdHW, size) + self.convolve(tokens_BdHW, size)
