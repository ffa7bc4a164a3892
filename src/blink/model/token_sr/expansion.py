"""Expansion of a region with a TokenSR module, and checks of modules of any kind, a user's own included.

Axes: B samples, V = H x W visual tokens, d hidden width, h x w one region, X tokens of an extension (H x W, or h x w where
the region is not resized).
"""

import warnings
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from blink.model.token_sr.base import Context, Design, resizes
from blink.model.token_sr.regions import cut_region, region_box, upsample
from blink.runs.values import UserError, is_whole


def expand(
    visual_BVd: Tensor,
    regions: Sequence[int],
    grid: tuple[int, int],
    patches: int,
    interpolate: bool = True,
    module: nn.Module | None = None,
    crops: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """Make the extensions of one layer: cut, resize, TokenSR, flatten (Sec. 3.2.1).

    Args:
        visual_BVd: the original visual tokens that enter the layer, row-major.
        regions: region to expand per sample.
        grid: (H, W) of the visual tokens.
        interpolate: resize the region to H x W; otherwise its h x w tokens go on as they are (Table 7), and where p does
            not divide the grid regions differ in size.
        module: TokenSR of the layer; None leaves the resized tokens (Blink-interp).
        crops: projected features of each sample's encoded region as they enter layer 0, [V, d] each, for a module that
            declares `needs_crop`.

    Returns:
        One [X, d] per sample in the dtype of `visual_BVd`.

    Raises:
        ValueError: if the module changes the shape of its input, or needs crops and there are none.
    """
    visual_BdHW = visual_BVd.transpose(1, 2).unflatten(2, grid)
    if getattr(module, "needs_crop", False) and crops is None:
        raise UserError(
            f"the token_sr module ({type(module).__name__}) needs the encoded crop of the region, and no picture is at hand "
            "to cut it from"
        )
    boxes = [region_box(region, patches, grid) for region in regions]
    sizes: dict[tuple[int, int], list[int]] = {}
    for row, box in enumerate(boxes):
        sizes.setdefault((box.height, box.width), []).append(row)
    extensions: dict[int, Tensor] = {}
    for rows in sizes.values():
        cut = [cut_region(visual_BdHW[row : row + 1], regions[row], patches) for row in rows]
        tokens_bdhw = torch.cat(cut)
        size = grid if interpolate else None
        if module is None:
            tokens_bdhw = tokens_bdhw if size is None else upsample(tokens_bdhw, size)
        else:
            context = None
            if getattr(module, "needs_context", False):
                crop_bdHW = None
                if crops is not None:
                    crop_bdHW = torch.stack([crops[row].T.unflatten(1, grid) for row in rows])
                context = Context(visual_BdHW[rows], [boxes[row] for row in rows], crop_bdHW)
            tokens_bdhw = _refined(module, tokens_bdhw, context, size)
        extensions |= zip(rows, tokens_bdhw.flatten(2).transpose(1, 2), strict=True)
    return [extensions[row] for row in range(len(regions))]


def call_module(
    module: nn.Module, tokens_Bdhw: Tensor, context: Context | None, size: tuple[int, int] | None = None
) -> Tensor:
    """Run a module on regions, with what surrounds them if it declares `needs_context`.

    Args:
        size: (H, W) to resize the regions to first; None: they are resized, or go in as they are.
    """
    told: dict[str, Any] = {}
    if size is not None and resizes(module):
        told["size"] = size
    elif size is not None:
        tokens_Bdhw = upsample(tokens_Bdhw, size)
    refined: Tensor = module(*((tokens_Bdhw,) if context is None else (tokens_Bdhw, context)), **told)
    return refined


def _refined(
    module: nn.Module, tokens_Bdhw: Tensor, context: Context | None, size: tuple[int, int] | None
) -> Tensor:
    """What a TokenSR makes of regions, in their dtype; ValueError if that is no tensor or of another shape."""
    refined = call_module(module, tokens_Bdhw, context, size)
    expected = [*tokens_Bdhw.shape[:2], *(size or tokens_Bdhw.shape[2:])]
    if not isinstance(refined, Tensor):
        raise UserError(
            f"the token_sr module ({type(module).__name__}) made a {type(refined).__name__} of a tensor "
            f"{expected}; it must return a tensor of that shape"
        )
    if list(refined.shape) != expected:
        raise UserError(
            f"the token_sr module made {list(refined.shape)} of {expected}; it must keep the shape"
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
    """Raise ValueError unless every one of `layers` has a module, in memory, and no design of ours is of another width."""
    check_layer_keys(modules)
    check_has_layers(modules, layers, source)
    for layer in layers:
        module = modules[layer]
        if not isinstance(module, nn.Module):
            raise UserError(
                f"token_sr of layer {layer} is {module!r}; expected a torch.nn.Module that makes [B, d, H, W] of "
                "[B, d, H, W] (torch.nn.Identity() for none)"
            )
        check_in_memory(layer, module)
        if isinstance(module, Design) and module.channels != channels:
            raise UserError(
                f"the token_sr module of layer {layer} has {module.channels} channels, "
                f"the backbone's hidden width is {channels}; train modules for this backbone"
            )


def check_in_memory(layer: int, module: nn.Module) -> None:
    """Raise ValueError where weights of a layer's module are on the meta device, which holds no numbers."""
    if any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())):
        raise UserError(
            f"weights of the token_sr module of layer {layer} are on the meta device, as an outline or an offloaded module "
            "has them (accelerate.cpu_offload); Blink needs them in memory"
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
