"""Token super-resolution: the trained module of one layer (Eq. 4, App. A.1), expansion of a region, save and load.

Training and inference cut and resize regions with the same functions. Knows visual tokens as grids of vectors,
and no backbone.

A saved folder holds one `layer_NN.safetensors` per layer and a `config.json` with the backbone they belong to.

Axes: B samples, V = H x W visual tokens, d hidden width, h x w one region (h = H / p, w = W / p), X tokens of an
extension (H x W, or h x w where the region is not resized).
"""

import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

CONFIG = "config.json"
FORMAT = 1


class TokenSR(nn.Module):
    """Three convolutions with ReLU between them: [B, d, H, W] -> [B, d, H, W] of any H and W.

    "Symmetric padding" (App. A.1) is read as k // 2 zeros on each side, which keeps H and W.

    Args:
        channels: hidden width d of the backbone.
        hidden: channels between the convolutions; None: (d // 2, d // 4), which is 4096 -> 2048 -> 1024 -> 4096 of
            the paper.
        kernels: kernel sizes, odd, one more than `hidden` has entries.

    Raises:
        ValueError: for an even kernel, a width below 1 or counts that do not match.
    """

    def __init__(
        self,
        channels: int,
        hidden: Sequence[int] | None = None,
        kernels: Sequence[int] = (5, 3, 1),
    ) -> None:
        super().__init__()
        hidden = (channels // 2, channels // 4) if hidden is None else tuple(hidden)
        widths = (channels, *hidden, channels)
        if len(kernels) != len(hidden) + 1:
            raise ValueError(
                f"kernels={tuple(kernels)} and hidden={hidden}: give one kernel more than hidden widths"
            )
        if any(kernel < 1 or kernel % 2 == 0 for kernel in kernels):
            raise ValueError(f"kernels={tuple(kernels)}: only odd sizes keep the grid with symmetric padding")
        if min(widths) < 1:
            raise ValueError(f"channels={channels}, hidden={hidden}: every width must be at least 1")
        self.channels = channels
        self.hidden = hidden
        self.kernels = tuple(kernels)
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


def check_patches(patches: int, grid: tuple[int, int]) -> None:
    """Raise ValueError unless `grid` (H, W) divides into `patches` x `patches` equal regions, p >= 2."""
    H, W = grid
    if patches < 2 or H % patches or W % patches:
        fitting = [p for p in range(2, min(H, W) + 1) if H % p == 0 and W % p == 0]
        raise ValueError(
            f"patches={patches} does not divide the {H} x {W} grid of visual tokens; "
            f"use one of {', '.join(map(str, fitting)) or '(none fits)'}"
        )


def cut_region(visual_BdHW: Tensor, region: int | Tensor, patches: int) -> Tensor:
    """Cut one of the p x p regions out of each sample: [B, d, h, w].

    Args:
        visual_BdHW: visual tokens as a grid.
        region: row-major index in [0, p^2), one for all samples or a tensor [B] of int64.
    """
    B, d, H, W = visual_BdHW.shape
    h, w = H // patches, W // patches
    region_B = torch.as_tensor(region, device=visual_BdHW.device).expand(B)
    cells = visual_BdHW.view(B, d, patches, h, patches, w)
    rows = torch.arange(B, device=visual_BdHW.device)
    return cells[rows, :, region_B // patches, :, region_B % patches]


def upsample(region_Bdhw: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a region to `size` (H, W), bilinear in float32 with align_corners=False; the dtype stays."""
    resized = F.interpolate(region_Bdhw.float(), size=size, mode="bilinear", align_corners=False)
    return resized.to(region_Bdhw.dtype)


def expand(
    visual_BVd: Tensor,
    region_B: Tensor,
    grid: tuple[int, int],
    patches: int,
    interpolate: bool = True,
    module: nn.Module | None = None,
) -> Tensor:
    """Make the extension of one layer: cut, resize, TokenSR, flatten (Sec. 3.2.1).

    Args:
        visual_BVd: the original visual tokens that enter the layer, row-major.
        region_B: int64, region to expand per sample.
        grid: (H, W) of the visual tokens.
        interpolate: resize the region to H x W; otherwise its h x w tokens go on as they are (Table 7).
        module: TokenSR of the layer; None leaves the resized tokens (Blink-interp).

    Returns:
        [B, X, d] in the dtype of `visual_BVd`.

    Raises:
        ValueError: if the module changes the shape of what it is given.
    """
    visual_BdHW = visual_BVd.transpose(1, 2).unflatten(2, grid)
    tokens = cut_region(visual_BdHW, region_B, patches)
    if interpolate:
        tokens = upsample(tokens, grid)
    if module is not None:
        refined: Tensor = module(tokens)
        if refined.shape != tokens.shape:
            raise ValueError(
                f"the token_sr module made {list(refined.shape)} of {list(tokens.shape)}; it must keep the shape"
            )
        tokens = refined.to(visual_BVd.dtype)
    return tokens.flatten(2).transpose(1, 2)


def check_modules(
    modules: Mapping[int, nn.Module], layers: Collection[int], channels: int, source: str
) -> None:
    """Raise ValueError unless every one of `layers` has a module, and no TokenSR among them is of another width."""
    _check_has(modules, layers, source)
    for layer in layers:
        module = modules[layer]
        if isinstance(module, TokenSR) and module.channels != channels:
            raise ValueError(
                f"the token_sr module of layer {layer} has {module.channels} channels, "
                f"the backbone's hidden width is {channels}; train modules for this backbone"
            )


def placed(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The module itself if its floating-point tensors are of this device and dtype, else a copy that is."""
    tensors = [tensor for tensor in (*module.parameters(), *module.buffers()) if tensor.is_floating_point()]
    if all((tensor.device, tensor.dtype) == (device, dtype) for tensor in tensors):
        return module
    return deepcopy(module).to(device=device, dtype=dtype)


def save_token_sr(
    modules: Mapping[int, TokenSR],
    path: str | os.PathLike[str],
    *,
    backbone: str,
    revision: str | None = None,
    objective: str | None = None,
    steps: int | None = None,
    prompt_prefix: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write trained modules into a folder; weights keep their dtype.

    Args:
        modules: layer -> module, all of the same widths and kernels.
        path: folder, made if missing. Files of other layers in it are left alone and no longer listed.
        backbone: folder name or hub id of the backbone whose hidden states they were trained on.
        revision: its revision.
        objective: what was minimised, e.g. "kl".
        steps: optimizer steps per module.
        prompt_prefix: text before the image in training.
        settings: anything else worth keeping, as JSON.

    Raises:
        ValueError: without modules, or if they differ in shape.
    """
    shapes = {(module.channels, tuple(module.hidden), tuple(module.kernels)) for module in modules.values()}
    if len(shapes) != 1:
        raise ValueError(
            f"a token_sr folder holds modules of one shape; got {sorted(shapes) or 'no modules'}"
        )
    channels, hidden, kernels = shapes.pop()
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    for layer, module in modules.items():
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
        save_file(state, folder / _weights_name(layer))
    config = {
        "format": FORMAT,
        "backbone": backbone,
        "revision": revision,
        "layers": sorted(modules),
        "channels": channels,
        "hidden": list(hidden),
        "kernels": list(kernels),
        "objective": objective,
        "steps": steps,
        "prompt_prefix": prompt_prefix,
        "settings": dict(settings or {}),
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_token_sr(
    path: str | os.PathLike[str], *, channels: int | None = None, layers: Collection[int] | None = None
) -> dict[int, TokenSR]:
    """Read the modules that `save_token_sr` wrote: layer -> module, on the CPU, in the dtype of the files.

    Args:
        path: a folder, or a hub id such as "name/blink-token-sr".
        channels: hidden width of the backbone that they are meant for; None skips the check.
        layers: read only the modules of these; None reads all.

    Raises:
        ValueError: if there is no such folder, it lacks a layer, a file is missing or does not fit, or the width is
            another.
    """
    folder = token_sr_folder(path)
    config = token_sr_config(folder)
    wanted = config["layers"] if layers is None else sorted(layers)
    _check_has(config["layers"], wanted, str(path))
    if channels is not None and config["channels"] != channels:
        raise ValueError(
            f"the token_sr modules in {path} are for hidden width {config['channels']} "
            f"(backbone {config['backbone']}), this backbone has {channels}; "
            "train modules for it with `python -m blink.train`"
        )
    modules = {}
    for layer in wanted:
        try:
            module = TokenSR(config["channels"], config["hidden"], config["kernels"])
        except ValueError as error:
            raise ValueError(f"{folder / CONFIG}: {error}") from error
        try:
            state = load_file(folder / _weights_name(layer))
            module.load_state_dict(state, assign=True)
        except (OSError, SafetensorError, RuntimeError) as error:
            raise ValueError(
                f"{folder / _weights_name(layer)} does not hold the module that {CONFIG} lists: {error}"
            ) from error
        modules[layer] = module.requires_grad_(False).eval()
    return modules


def token_sr_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the config.json of a token_sr folder or hub id: keys as the arguments of `save_token_sr`, and `layers`.

    Raises:
        ValueError: if it is missing or is not of this format.
    """
    file = token_sr_folder(path) / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a token_sr folder: {CONFIG} cannot be read ({error})") from error
    needed = {"format", "backbone", "layers", "channels", "hidden", "kernels"}
    if not isinstance(config, dict) or needed - config.keys() or config["format"] != FORMAT:
        raise ValueError(
            f"{file} is not a token_sr config of format {FORMAT} with {', '.join(sorted(needed))}; "
            "write it with save_token_sr"
        )
    for key in ("layers", "hidden", "kernels"):
        value = config[key]
        if not isinstance(value, list) or not all(type(number) is int for number in value):
            raise ValueError(f"{file}: {key}={value!r} is not a list of whole numbers")
    if type(config["channels"]) is not int:
        raise ValueError(f"{file}: channels={config['channels']!r} is not a whole number")
    return config


def token_sr_folder(path: str | os.PathLike[str]) -> Path:
    """Return the local folder of `path`, from the hub if it is no folder but could be a hub id.

    Raises:
        ValueError: it is neither, or cannot be had from the hub.
    """
    if Path(path).is_dir():
        return Path(path)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)):
        raise ValueError(f"token_sr={str(path)!r} is neither a folder nor a hub id (owner/name)")
    try:
        return Path(snapshot_download(str(path), allow_patterns=[CONFIG, "layer_*.safetensors"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"token_sr={str(path)!r} is not a folder and not found on the hub: {error}"
        ) from error


def _check_has(available: Collection[int], layers: Collection[int], source: str) -> None:
    missing = [layer for layer in layers if layer not in available]
    if missing:
        raise ValueError(
            f"{source} has token_sr modules for layers {sorted(available)}, but layers {missing} are scanned too; "
            "train those with `python -m blink.train` or scan fewer layers"
        )


def _weights_name(layer: int) -> str:
    return f"layer_{layer:02d}.safetensors"
