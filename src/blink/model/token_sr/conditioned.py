"""Convolutions that also see the region's encoded crop as it enters layer 0: real resolution without layers below L.

Encoding a region anew means vision tower, projector and every decoder layer below L. This design has the first two run,
and learns what the layers would have done.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from blink.model.token_sr.base import Context, Convolutions, rms, zeroed
from blink.model.token_sr.regions import upsample


class ConditionedTokenSR(Convolutions):
    """The resized tokens plus what convolutions make of them and of the encoded crop; the last starts at zero.

    The first convolution sees both grids, one behind the other. Both are divided by the tokens' root mean square (the
    crop's by its own), for states that enter layer 0 are smaller than others by orders of magnitude, and the output
    is multiplied by that of the resized tokens. Arguments and errors are those of `blink.TokenSR`.
    """

    kind = "conditioned"
    needs_context = True
    needs_crop = True
    inputs = 2

    def __init__(
        self, channels: int, hidden: Sequence[int] | None = None, kernels: Sequence[int] = (5, 3, 1)
    ) -> None:
        super().__init__(channels, hidden, kernels)
        zeroed(self.convolutions[-1])

    def forward(self, tokens_BdHW: Tensor, context: Any = None) -> Tensor:
        """Correct a grid of tokens by its encoded crop; shape and dtype stay."""
        assert isinstance(context, Context), "needs_context: it is called with one"
        assert context.crop_BdHW is not None, "needs_crop: the context holds it"
        H, W = tokens_BdHW.shape[2:]
        crop_BdHW = context.crop_BdHW
        if crop_BdHW.shape[2:] != (H, W):  # a region that is not resized is smaller than its crop
            crop_BdHW = upsample(crop_BdHW, (H, W))
        scale_B1HW = rms(tokens_BdHW)
        both_BcHW = torch.cat([tokens_BdHW / scale_B1HW, crop_BdHW / rms(crop_BdHW)], dim=1)
        correction_BdHW = self.convolve(both_BcHW.to(tokens_BdHW.dtype))
        return tokens_BdHW + (correction_BdHW * scale_B1HW).to(tokens_BdHW.dtype)
