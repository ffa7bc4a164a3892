"""Cross-attention from the fine grid of an extension to the region and all that surrounds it.

Axes: B samples, N = H x W tokens of the fine grid, M = G x g cells of the whole one, d hidden width, w width of the
attention, F features of a position.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blink.model.token_sr.base import Context, Design, check_widths, rms, whole_tuple, zeroed
from blink.runs.values import UserError, whole_number

_BANDS = 6
"""Frequencies of a position's features: from half a wave over the whole grid, doubling."""


class AttentionTokenSR(Design):
    """The resized tokens plus what each fetches from the layer's visual tokens; the last layer starts at zero.

    A token asks by its content and its place, in units of the whole grid, for the tokens of the base view; what it asked
    and what it got go through GELU and a last linear layer. Tokens are divided by their root mean square before, and
    the output is multiplied by that of the resized tokens.

    Args:
        channels: hidden width d of the backbone.
        hidden: the width w of the attention, a single number; None: (d // 2,).
        heads: that it is divided into; None: one for every 64 channels, where that goes.

    Raises:
        ValueError: for widths that the heads do not divide, or what is no whole number.
    """

    kind = "attention"
    size_names = ("hidden", "heads")
    needs_context = True

    def __init__(self, channels: int, hidden: Sequence[int] | None = None, heads: int | None = None) -> None:
        super().__init__()
        self.channels = whole_number("channels", channels, hint="a width")
        self.hidden = (max(1, self.channels // 2),) if hidden is None else whole_tuple("hidden", hidden)
        check_widths(self.channels, self.hidden)
        if len(self.hidden) != 1:
            raise UserError(f"hidden={self.hidden}: an attention has one width, as [1024]")
        (width,) = self.hidden
        self.heads = math.gcd(width, max(1, width // 64)) if heads is None else whole_number("heads", heads)
        if width % self.heads:
            raise UserError(f"heads={self.heads} and hidden={self.hidden}: heads must divide the width")
        self.query = nn.Linear(self.channels, width)
        self.key_value = nn.Linear(self.channels, 2 * width)
        self.query_place = nn.Linear(4 * _BANDS, width, bias=False)
        self.key_place = nn.Linear(4 * _BANDS, width, bias=False)
        self.output = zeroed(nn.Linear(2 * width, self.channels))

    def forward(self, tokens_BdHW: Tensor, context: Any = None) -> Tensor:
        """Correct a grid of tokens by those of the whole picture; shape and dtype stay."""
        assert isinstance(context, Context), "needs_context: it is called with one"
        (H, W), (G, g) = tokens_BdHW.shape[2:], context.visual_BdGg.shape[2:]
        dtype, device = tokens_BdHW.dtype, tokens_BdHW.device
        scale_B1HW = rms(tokens_BdHW)
        fine_BNd = _listed((tokens_BdHW / scale_B1HW).to(dtype))
        coarse_BMd = _listed((context.visual_BdGg / rms(context.visual_BdGg)).to(dtype))
        places = [
            _place((H, W), (box.top / G, box.left / g, box.height / G, box.width / g), device)
            for box in context.boxes
        ]
        query_BNw = self.query(fine_BNd) + self.query_place(torch.stack(places).to(dtype))
        key_BMw, value_BMw = self.key_value(coarse_BMd).chunk(2, dim=-1)
        key_BMw = key_BMw + self.key_place(_place((G, g), (0, 0, 1, 1), device).to(dtype))
        query, key, value = (self._split(part) for part in (query_BNw, key_BMw, value_BMw))
        found_BNw = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        correction_BNd = self.output(F.gelu(torch.cat([query_BNw, found_BNw], dim=-1)))
        correction_BdHW = correction_BNd.transpose(1, 2).unflatten(2, (H, W))
        return tokens_BdHW + (correction_BdHW * scale_B1HW).to(dtype)

    def _split(self, part_BNw: Tensor) -> Tensor:
        """[B, N, w] -> [B, heads, N, w / heads]."""
        return part_BNw.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _listed(tokens_BdHW: Tensor) -> Tensor:
    return tokens_BdHW.flatten(2).transpose(1, 2)


def _place(size: tuple[int, int], frame: tuple[float, float, float, float], device: torch.device) -> Tensor:
    """Sine and cosine of where the middle of each cell lies in the picture: [N, F] float32.

    Args:
        size: rows and columns of cells.
        frame: top, left, height and width of them all together, in fractions of the picture.
    """
    (H, W), (top, left, height, width) = size, frame
    rows_H = top + (torch.arange(H, device=device) + 0.5) * height / H
    columns_W = left + (torch.arange(W, device=device) + 0.5) * width / W
    place_N2 = torch.cartesian_prod(rows_H, columns_W)
    wave_N2b = place_N2[..., None] * math.pi * 2.0 ** torch.arange(_BANDS, device=device)
    return torch.cat([wave_N2b.sin(), wave_N2b.cos()], dim=-1).flatten(1)
