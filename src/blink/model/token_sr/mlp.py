"""A perceptron for each token by itself, after interpolation: the paper's future work (App. G)."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from blink.model.token_sr.base import Design, check_widths, rms, whole_tuple, zeroed
from blink.runs.values import whole_number


class MlpTokenSR(Design):
    """The resized tokens plus what a perceptron makes of each, GELU between its layers; the last starts at zero.

    Tokens are divided by their root mean square before it, and its output is multiplied by that.

    Args:
        channels: hidden width d of the backbone.
        hidden: widths between the layers, at least one; None: (d,).

    Raises:
        ValueError: for a width below 1, or what is no whole number.
    """

    kind = "mlp"
    size_names = ("hidden",)

    def __init__(self, channels: int, hidden: Sequence[int] | None = None) -> None:
        super().__init__()
        self.channels = whole_number("channels", channels, hint="a width")
        self.hidden = (self.channels,) if hidden is None else whole_tuple("hidden", hidden)
        check_widths(self.channels, self.hidden)
        befores, afters = (self.channels, *self.hidden), (*self.hidden, self.channels)
        self.layers = nn.ModuleList(
            nn.Linear(before, after) for before, after in zip(befores, afters, strict=True)
        )
        zeroed(self.layers[-1])

    def forward(self, tokens_BdHW: Tensor, context: Any = None) -> Tensor:
        """Correct a grid of tokens; shape and dtype stay."""
        scale_B1HW = rms(tokens_BdHW)
        hidden_BHWc = (tokens_BdHW / scale_B1HW).to(tokens_BdHW.dtype).movedim(1, -1)
        for layer in self.layers[:-1]:
            hidden_BHWc = F.gelu(layer(hidden_BHWc))
        correction_BdHW = self.layers[-1](hidden_BHWc).movedim(-1, 1)
        return tokens_BdHW + (correction_BdHW * scale_B1HW).to(tokens_BdHW.dtype)
