"""Token super-resolution: the trained module of one layer (Eq. 4, App. A.1), and expansion of a region with it.

Training and inference cut and resize regions with the same functions. Knows visual tokens as grids of vectors,
and no backbone.

Axes: B samples, V = H x W visual tokens, d hidden width, h x w one region, X tokens of an extension (H x W, or h x w where
the region is not resized).
"""

import warnings
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blink.runs.values import UserError, is_whole, whole_number


class TokenSR(nn.Module):
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

    def __init__(
        self,
        channels: int,
        hidden: Sequence[int] | None = None,
        kernels: Sequence[int] = (5, 3, 1),
    ) -> None:
        super().__init__()
        channels = whole_number("channels", channels, hint="a width")
        hidden = (channels // 2, channels // 4) if hidden is None else _numbers("hidden", hidden)
        kernels = _numbers("kernels", kernels)
        widths = (channels, *hidden, channels)
        if len(kernels) != len(hidden) + 1:
            raise UserError(f"kernels={kernels} and hidden={hidden}: give one kernel more than hidden widths")
        if any(kernel < 1 or kernel % 2 == 0 for kernel in kernels):
            raise UserError(f"kernels={kernels}: only odd sizes keep the grid with symmetric padding")
        if min(widths) < 1:
            raise UserError(f"channels={channels}, hidden={hidden}: every width must be at least 1")
        self.channels = channels
        self.hidden = hidden
        self.kernels = kernels
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, kernel, padding=kernel // 2)
            for before, after, kernel in zip(widths[:-1], widths[1:], kernels, strict=True)
        )

    def forward(self, tokens_BdHW: Tensor) -> Tensor:
        """Refine a grid of tokens; shape and dtype stay."""
        if tokens_BdHW.device.type == "cpu":
            # Hidden states lie channels last, where a CPU's convolutions of these widths take up to 1.9 times as long.
            tokens_BdHW = tokens_BdHW.contiguous()
        for convolution in self.convolutions[:-1]:
            tokens_BdHW = F.relu(convolution(tokens_BdHW))
        refined_BdHW: Tensor = self.convolutions[-1](tokens_BdHW)
        return refined_BdHW


class Box(NamedTuple):
    """A rectangle of cells of a grid: row and column of its first cell, and how many there are."""

    top: int
    left: int
    height: int
    width: int


def check_patches(patches: int, grid: tuple[int, int], where: str = "") -> None:
    """Raise ValueError unless `grid` (H, W) splits into `patches` x `patches` regions, 2 <= p <= min(H, W).

    Args:
        where: names the sample in the message, where grids depend on pictures.
    """
    H, W = grid
    if not 2 <= patches <= min(H, W):
        raise UserError(
            f"{where}patches={patches} does not fit the {H} x {W} grid of visual tokens; use a number from 2 to "
            f"{min(H, W)}"
            if min(H, W) > 1
            else f"{where}the {H} x {W} grid of visual tokens cannot be split into {patches} x {patches} regions: the "
            "picture is too narrow"
        )


def region_box(region: int, patches: int, grid: tuple[int, int]) -> Box:
    """The cells of one region, by its row-major index; a side of n cells is cut at floor(i n / p)."""
    (row, column), (H, W) = divmod(region, patches), grid
    top, bottom = row * H // patches, (row + 1) * H // patches
    left, right = column * W // patches, (column + 1) * W // patches
    return Box(top, left, bottom - top, right - left)


def region_frame(
    region: int, patches: int, grid: tuple[int, int] | None, size: tuple[float, float] = (1.0, 1.0)
) -> tuple[float, float, float, float]:
    """Where a region lies in a picture that shows the whole grid: left, top, width and height.

    Args:
        grid: (H, W), at the edges of whose cells regions end; None: all regions are equal.
        size: (width, height) of the picture; the default gives fractions.
    """
    H, W = grid = grid or (patches, patches)
    box, (width, height) = region_box(region, patches, grid), size
    return box.left * width / W, box.top * height / H, box.width * width / W, box.height * height / H


def cut_region(visual_BdHW: Tensor, region: int, patches: int) -> Tensor:
    """Cut one of the p x p regions out of each sample: [B, d, h, w].

    Args:
        visual_BdHW: visual tokens as a grid.
        region: row-major index in [0, p^2).
    """
    box = region_box(region, patches, (visual_BdHW.shape[2], visual_BdHW.shape[3]))
    return visual_BdHW[:, :, box.top : box.top + box.height, box.left : box.left + box.width]


def upsample(region_Bdhw: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a region to `size` (H, W), bilinear in float32 with align_corners=False; the dtype stays."""
    resized = F.interpolate(region_Bdhw.float(), size=size, mode="bilinear", align_corners=False)
    return resized.to(region_Bdhw.dtype)


def expand(
    visual_BVd: Tensor,
    regions: Sequence[int],
    grid: tuple[int, int],
    patches: int,
    interpolate: bool = True,
    module: nn.Module | None = None,
) -> list[Tensor]:
    """Make the extensions of one layer: cut, resize, TokenSR, flatten (Sec. 3.2.1).

    Args:
        visual_BVd: the original visual tokens that enter the layer, row-major.
        regions: region to expand per sample.
        grid: (H, W) of the visual tokens.
        interpolate: resize the region to H x W; otherwise its h x w tokens go on as they are (Table 7), and where p does
            not divide the grid regions differ in size.
        module: TokenSR of the layer; None leaves the resized tokens (Blink-interp).

    Returns:
        One [X, d] per sample in the dtype of `visual_BVd`.

    Raises:
        ValueError: if the module changes the shape of its input.
    """
    visual_BdHW = visual_BVd.transpose(1, 2).unflatten(2, grid)
    sizes: dict[tuple[int, int], list[int]] = {}
    for row, region in enumerate(regions):
        box = region_box(region, patches, grid)
        sizes.setdefault((box.height, box.width), []).append(row)
    extensions: dict[int, Tensor] = {}
    for rows in sizes.values():
        cut = [cut_region(visual_BdHW[row : row + 1], regions[row], patches) for row in rows]
        tokens_bdhw = torch.cat(cut)
        if interpolate:
            tokens_bdhw = upsample(tokens_bdhw, grid)
        if module is not None:
            tokens_bdhw = _refined(module, tokens_bdhw)
        extensions |= zip(rows, tokens_bdhw.flatten(2).transpose(1, 2), strict=True)
    return [extensions[row] for row in range(len(regions))]


def _refined(module: nn.Module, tokens_Bdhw: Tensor) -> Tensor:
    """What a TokenSR makes of tokens, in their dtype; ValueError if it changes their shape."""
    refined: Tensor = module(tokens_Bdhw)
    if refined.shape != tokens_Bdhw.shape:
        raise UserError(
            f"the token_sr module made {list(refined.shape)} of {list(tokens_Bdhw.shape)}; it must keep the shape"
        )
    return refined.to(tokens_Bdhw.dtype)


def check_layer_keys(modules: Mapping[Any, Any]) -> None:
    """Raise ValueError unless all keys of a mapping are layers: whole numbers from 0."""
    wrong = [layer for layer in modules if not is_whole(layer) or layer < 0]
    if wrong:
        raise UserError(f"token_sr names layers {wrong}; expected whole numbers from 0, as in {{12: module}}")


def check_has_layers(available: Collection[int], layers: Collection[int], source: str) -> None:
    """Raise ValueError unless every one of `layers` is among those that have a module."""
    missing = [layer for layer in layers if layer not in available]
    if missing:
        raise UserError(
            f"{source} has token_sr modules for layers {sorted(available)}, but layers {missing} are scanned too; "
            "train those with `python -m blink.train` or scan fewer layers"
        )


def check_modules(modules: Mapping[Any, Any], layers: Collection[int], channels: int, source: str) -> None:
    """Raise ValueError unless every one of `layers` has a module, and no TokenSR among them is of another width."""
    check_layer_keys(modules)
    check_has_layers(modules, layers, source)
    for layer in layers:
        module = modules[layer]
        if not isinstance(module, nn.Module):
            raise UserError(
                f"token_sr of layer {layer} is {module!r}; expected a torch.nn.Module that makes [B, d, H, W] of "
                "[B, d, H, W] (torch.nn.Identity() for none)"
            )
        if isinstance(module, TokenSR) and module.channels != channels:
            raise UserError(
                f"the token_sr module of layer {layer} has {module.channels} channels, "
                f"the backbone's hidden width is {channels}; train modules for this backbone"
            )


def placed(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The module itself if its floating-point tensors are of this device and dtype, else a copy that is.

    Warns where weights that require grad are copied: the caller's then get no gradient.
    """
    tensors = [tensor for tensor in (*module.parameters(), *module.buffers()) if tensor.is_floating_point()]
    if all((tensor.device, tensor.dtype) == (device, dtype) for tensor in tensors):
        return module
    if device.type == "meta":
        raise UserError(
            "the model's weights are on the meta device, as an offloaded model has them (accelerate.cpu_offload); Blink "
            "needs them in memory"
        )
    if any(tensor.requires_grad for tensor in tensors):
        warnings.warn(
            f"a token_sr module whose weights require grad is not {dtype} on {device}, as its layer is, and was copied: "
            "its own weights get no gradient, and later changes of them have no effect. Move it there first "
            "(module.to(...)), or freeze it (module.requires_grad_(False)) where it is only used",
            stacklevel=2,
        )
    return deepcopy(module).to(device=device, dtype=dtype)


def _numbers(name: str, values: Any) -> tuple[int, ...]:
    """Whole numbers of any sequence or array.

    Raises:
        ValueError: it is none, or holds something else.
    """
    listed = () if isinstance(values, str) or not hasattr(values, "__iter__") else tuple(values)
    if not listed or not all(is_whole(value) for value in listed):
        raise UserError(f"{name}={values!r}: expected whole numbers, such as (5, 3, 1)")
    return tuple(int(value) for value in listed)
