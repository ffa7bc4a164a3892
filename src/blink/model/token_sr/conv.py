"""The paper's TokenSR (Eq. 4, App. A.1): three convolutions, whose output replaces the resized tokens."""

from typing import Any

from torch import Tensor

from blink.model.token_sr.base import Convolutions


class TokenSR(Convolutions):
    """Three convolutions with ReLU between them: [B, d, H, W] -> [B, d, H, W] of any H and W.

    "Symmetric padding" (App. A.1) is read as k // 2 zeros on each side, which keeps H and W.

    Args:
        channels: hidden width d of the backbone.
        hidden: channels between the convolutions; None: (d // 2, d // 4), which is 4096 -> 2048 -> 1024 -> 4096 of
            the paper.
        kernels: kernel sizes, odd, one more than `hidden` has entries.

    Raises:
        ValueError: for an even kernel, a width below 1, counts that do not match, or what is no whole number.
    """

    kind = "conv"

    def forward(
        self, tokens_BdHW: Tensor, context: Any = None, size: tuple[int, int] | None = None
    ) -> Tensor:
        """Refine a grid of tokens; shape and dtype stay.

        Args:
            size: (H, W) to resize a region to first, with which there are fewer products (`resizing.py`); None: the tokens
                are the grid.
        """
        return self.convolve(tokens_BdHW) if size is None else self.convolve(tokens_BdHW, size)
