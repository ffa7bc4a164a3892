"""What all designs of TokenSR have in common: what they are given, the sizes that describe them, and their convolutions.

Axes: B samples, H x W the grid that a region was resized to (or the region's own cells, where it was not), d hidden width,
G x g cells of the whole grid.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from blink.model.token_sr.regions import Box, upsample
from blink.model.token_sr.resizing import ResizingConv2d, is_watched
from blink.runs.values import UserError, is_whole, whole_number

LARGEST = 2**40
"""Weights of one matrix or convolution, beyond which sizes are a mistake: torch cannot even name such tensors, or nearly so."""


class Context(NamedTuple):
    """What a module that declares `needs_context` is given beside the region.

    Attributes:
        visual_BdGg: all tokens of the base view as they enter the layer, [B, d, G, g].
        boxes: the region's cells in it, one per row.
        crop_BdHW: projected features of the region, cut out of the picture and encoded anew, as they enter layer 0; None
            unless the module declares `needs_crop`.
    """

    visual_BdGg: Tensor
    boxes: Sequence[Box]
    crop_BdHW: Tensor | None = None


class Design(nn.Module, ABC):
    """A trainable map of a resized region's tokens, [B, d, H, W] -> [B, d, H, W] of any H and W.

    One whose `forward`, and `convolve` if it has that, name an argument `size` is called `module(region, size=(H, W))`, and
    resizes the region itself.

    Attributes:
        kind: name of the design in configs and folders.
        size_names: arguments of the constructor beyond `channels`; each is kept as an attribute of that name.
        needs_context: whether it is called `module(region, context)`.
        needs_crop: whether its context must hold the encoded crop.
        channels: hidden width d of the backbone.
    """

    kind: ClassVar[str]
    size_names: ClassVar[tuple[str, ...]]
    needs_context: ClassVar[bool] = False
    needs_crop: ClassVar[bool] = False
    channels: int

    @property
    def sizes(self) -> dict[str, Any]:
        """All that `make_token_sr` needs beside kind and channels, to make another one like it."""
        return {name: getattr(self, name) for name in self.size_names}

    @abstractmethod
    def forward(self, tokens_BdHW: Tensor, context: Any = None) -> Tensor:
        """Refine a grid of tokens; shape and dtype stay."""


class Convolutions(Design):
    """A design of convolutions with ReLU between them, which keep the grid; arguments and errors as of `blink.TokenSR`."""

    size_names = ("hidden", "kernels")
    inputs: ClassVar[int] = 1
    """Grids of tokens that the first convolution sees, one behind the other."""

    def __init__(
        self,
        channels: int,
        hidden: Sequence[int] | None = None,
        kernels: Sequence[int] = (5, 3, 1),
    ) -> None:
        super().__init__()
        channels = whole_number("channels", channels, hint="a width")
        hidden = (channels // 2, channels // 4) if hidden is None else whole_tuple("hidden", hidden)
        kernels = whole_tuple("kernels", kernels)
        if len(kernels) != len(hidden) + 1:
            raise UserError(f"kernels={kernels} and hidden={hidden}: give one kernel more than hidden widths")
        if any(kernel < 1 or kernel % 2 == 0 for kernel in kernels):
            raise UserError(f"kernels={kernels}: only odd sizes keep the grid with symmetric padding")
        check_widths(channels, hidden)
        self.channels = channels
        self.hidden = hidden
        self.kernels = kernels
        befores, afters = (self.inputs * channels, *hidden), (*hidden, channels)
        self.convolutions = nn.ModuleList(
            ResizingConv2d(before, after, kernel)
            for before, after, kernel in zip(befores, afters, kernels, strict=True)
        )

    def convolve(self, tokens_Bchw: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """All convolutions, one after the other: [B, inputs * d, h, w] -> [B, d, H, W].

        Args:
            size: (H, W) to resize to first; None: it stays h x w.
        """
        first, *others = self.convolutions
        if size is None:
            hidden_BcHW = first(tokens_Bchw)
        elif isinstance(first, ResizingConv2d) and not is_watched(first):
            hidden_BcHW = first(tokens_Bchw, size)
        else:
            hidden_BcHW = first(upsample(tokens_Bchw, size))
        for convolution in others:
            hidden_BcHW = convolution(F.relu(hidden_BcHW))
        refined_BdHW: Tensor = hidden_BcHW
        return refined_BdHW


def resizes(module: nn.Module) -> bool:
    """Whether a module is a design that resizes its region itself, and nobody has put himself in its way.

    Its methods are looked at as they are by now: a subclass's own, a mixin's, or a patch of the class or the module.
    """
    return (
        isinstance(module, Design)
        and not is_watched(module)
        and all(
            _takes_size(getattr(module, name)) for name in ("forward", "convolve") if hasattr(module, name)
        )
    )


def _takes_size(method: Any) -> bool:
    """Whether a function names an argument `size`: itself, for what it wraps is not what is called."""
    code = getattr(method, "__code__", None)  # builtins and other callables have none
    return code is not None and "size" in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def zeroed(part: nn.Module) -> nn.Module:
    """The same layer with all weights 0, so that what it adds is nothing at first."""
    for weight in part.parameters():
        nn.init.zeros_(weight)
    return part


def rms(tokens_BdHW: Tensor) -> Tensor:
    """Root mean square of each token over its channels, in float32: [B, 1, H, W], never 0.

    Hidden states grow from layer to layer by orders of magnitude. A design that sees tokens divided by this, and whose
    correction is multiplied by it, learns alike in every layer and on every backbone.
    """
    return tokens_BdHW.float().square().mean(dim=1, keepdim=True).clamp_min(1e-12).sqrt()


def whole_tuple(name: str, values: Any) -> tuple[int, ...]:
    """Whole numbers of any sequence or array.

    Raises:
        ValueError: it is none, or holds something else.
    """
    listed = () if isinstance(values, str) or not hasattr(values, "__iter__") else tuple(values)
    if not listed or not all(is_whole(value) for value in listed):
        raise UserError(f"{name}={values!r}: expected whole numbers, such as (5, 3, 1)")
    return tuple(int(value) for value in listed)


def check_widths(channels: int, hidden: Sequence[int]) -> None:
    """Raise ValueError unless every width is at least 1."""
    if min(channels, *hidden) < 1:
        raise UserError(f"channels={channels}, hidden={tuple(hidden)}: every width must be at least 1")


def check_not_absurd(channels: int, sizes: Mapping[str, Any]) -> None:
    """Raise ValueError if a matrix or convolution of these sizes would be larger than `LARGEST`."""
    hidden = sizes.get("hidden") or ()
    kernels = sizes.get("kernels") or (1,) * (len(hidden) + 1)
    widths = zip((channels, *hidden), (*hidden, channels), kernels, strict=False)
    if any(before * after * kernel**2 > LARGEST for before, after, kernel in widths):
        told = ", ".join(f"{name}={value!r}" for name, value in {"channels": channels, **sizes}.items())
        raise UserError(f"{told} make a convolution of more than {LARGEST:.0e} weights")
