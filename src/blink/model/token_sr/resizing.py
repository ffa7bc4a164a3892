"""A convolution of resized tokens that computes its products on the tokens as they were.

Resizing and convolving are linear. A k x k convolution of a grid H x W is k^2 products of each of its tokens with a matrix,
shifted and summed; where the grid was resized from a region of h x w tokens, those products can be taken of the region's
tokens, and resized, shifted and summed after that: H W / (h w) times fewer of them, four times for a quadrant.

Axes: B samples, h x w a region, H x W the grid that it is resized to, i input and o output channels, k taps on a side.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blink.model.token_sr.regions import upsample

_LEAST_WEIGHTS = 2**20
"""Weights from which it pays; below, products are cheaper than what is done around them."""

_CHANNELS = 64
"""Output channels at a time: the weights of so many are put in order within a CPU's cache."""


class ResizingConv2d(nn.Conv2d):
    """A convolution that keeps the grid and, if it is told a size, resizes its input to that first.

    Args:
        channels_i, channels_o: of input and output.
        kernel: k, odd; k // 2 zeros lie on each side.
    """

    def __init__(self, channels_i: int, channels_o: int, kernel: int) -> None:
        super().__init__(channels_i, channels_o, kernel, padding=kernel // 2)

    def forward(self, tokens_Bihw: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Convolve: [B, o, H, W].

        Args:
            size: (H, W) to resize to, as `upsample` does; None: the tokens are the grid.
        """
        cpu = tokens_Bihw.device.type == "cpu"
        if size is not None:
            # Counted without the weight, which a parametrization would make anew.
            weights = self.in_channels * self.out_channels * self.kernel_size[0] ** 2
            # Only for a CPU is it known to be faster; under autocast it would be more casts than products.
            if cpu and weights >= _LEAST_WEIGHTS and not torch.is_autocast_enabled("cpu"):
                return self._of_cells(tokens_Bihw, size)
            tokens_Bihw = upsample(tokens_Bihw, size)
        if cpu:
            # Hidden states lie channels last, where a CPU's convolutions of these widths take up to 1.9 times as long.
            tokens_Bihw = tokens_Bihw.contiguous()
        return super().forward(tokens_Bihw)

    def _of_cells(self, tokens_Bihw: Tensor, size: tuple[int, int]) -> Tensor:
        """Resize and convolve, by products of the tokens as they are: [B, o, H, W]."""
        B, _, h, w = tokens_Bihw.shape
        (H, W), k = size, self.kernel_size[0]
        wide = torch.promote_types(tokens_Bihw.dtype, torch.float32)
        rows_HM = _taps(h, H, k, tokens_Bihw, wide).transpose(1, 2).flatten(1)  # M = k h
        columns_WN = _taps(w, W, k, tokens_Bihw, wide).flatten(1)  # N = w k
        tokens_Ti = tokens_Bihw.permute(0, 2, 3, 1).flatten(0, 2)  # T = B h w
        parts: list[Tensor] = []
        for weight_oikk in self.weight.split(_CHANNELS):
            o = len(weight_oikk)
            products_TP = F.linear(tokens_Ti, weight_oikk.permute(2, 3, 0, 1).flatten(0, 2))  # P = k k o
            products_BkhwQ = products_TP.view(B, h, w, k, k * o).permute(0, 3, 1, 2, 4).to(wide)  # Q = k o
            of_rows_BHNo = (rows_HM @ products_BkhwQ.reshape(B, k * h, w * k * o)).view(B, H, w * k, o)
            parts.append(columns_WN @ of_rows_BHNo)
        grid_BHWo = torch.cat(parts, dim=3)
        if self.bias is not None:
            grid_BHWo = grid_BHWo + self.bias.to(wide)
        return grid_BHWo.permute(0, 3, 1, 2).to(tokens_Bihw.dtype).contiguous()


def is_watched(module: nn.Module) -> bool:
    """Whether somebody's hook or patch sees what a module is called with, and expects resized tokens there.

    Hooks of all modules, as torch's counter of FLOPs has, are to see what runs without them.
    """
    return bool(module._forward_pre_hooks or module._forward_hooks) or "forward" in vars(module)


def _taps(n: int, N: int, k: int, like: Tensor, dtype: torch.dtype) -> Tensor:
    """How much of each of n cells each tap of a convolution sees at each of the N places that they are resized to: [N, n, k]."""
    options: dict[str, Any] = {"device": like.device, "dtype": dtype}
    cells_1nN = F.interpolate(torch.eye(n, **options)[None], size=N, mode="linear", align_corners=False)
    padded_nM = F.pad(cells_1nN[0], (k // 2, k // 2))  # beyond the grid lie zeros
    return padded_nM.unfold(1, N, 1).permute(2, 0, 1)
