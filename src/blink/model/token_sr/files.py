"""The folder that trained TokenSR modules are kept in: one `layer_NN.safetensors` per layer, and a `config.json`.

The config says which backbone they belong to and how they were trained.
"""

import json
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from blink.model.token_sr.base import Design, check_not_absurd
from blink.model.token_sr.conv import TokenSR
from blink.model.token_sr.expansion import check_has_layers, check_in_memory, check_layer_keys
from blink.model.token_sr.kinds import design_of, make_token_sr
from blink.model.token_sr.source import CONFIG, find_token_sr
from blink.runs.files import as_json, make_folder, read_json, whole_file, write_json
from blink.runs.values import NotFiniteError, UserError, is_whole, optional, whole_number
from blink.runs.values import path as checked_path

FORMAT = 1

_LISTS = ("hidden", "kernels")
"""Sizes that are lists of whole numbers; others are one."""


@dataclass(frozen=True, kw_only=True)
class TokenSRConfig:
    """The config.json of a token_sr folder.

    Attributes:
        backbone: folder name or hub id of the backbone whose hidden states the modules were trained on.
        revision: its revision.
        backbone_weights: hash of its files, as `Fingerprint.weights` makes it, by which a copy of it is known; None if
            that was not kept.
        kind: design of every module, one of `KINDS`; folders of earlier versions, which name none, hold the paper's.
        layers: that have a module, ascending.
        channels: of every module.
        sizes: its other sizes, by the names that its design has for them; each is a key of its own in the file.
        objective: what was minimised, e.g. "kl".
        steps: optimizer steps per module.
        prompt_prefix: text before the image in training.
        settings: anything else that was kept, as JSON.
    """

    backbone: str
    revision: str | None = None
    backbone_weights: str | None = None
    kind: str = TokenSR.kind
    layers: tuple[int, ...]
    channels: int
    sizes: Mapping[str, Any] = field(default_factory=dict)
    objective: str | None = None
    steps: int | None = None
    prompt_prefix: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def save_token_sr(
    modules: Mapping[int, Design],
    path: str | os.PathLike[str],
    *,
    backbone: str,
    revision: str | None = None,
    backbone_weights: str | None = None,
    objective: str | None = None,
    steps: int | None = None,
    prompt_prefix: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write trained modules into a folder; weights keep their dtype.

    Args:
        modules: layer -> module, all of one kind and of the same sizes.
        path: folder, made if missing, ~ expanded as `load_token_sr` does. Files of other layers in it are left alone and no
            longer listed.
        backbone, revision, backbone_weights, objective, steps, prompt_prefix, settings: for the config, see `TokenSRConfig`.

    Raises:
        ValueError: without modules, if they differ in kind or sizes, or if a layer, a module or a setting is not what it should
            be; nothing is written then.
    """
    if not isinstance(modules, Mapping):
        raise UserError(f"modules is a {type(modules).__name__}; expected a mapping, as in {{12: module}}")
    check_layer_keys(modules)
    other = {
        layer: type(module).__name__ for layer, module in modules.items() if not isinstance(module, Design)
    }
    if other:
        raise UserError(f"a token_sr folder holds blink.TokenSR modules, or others of its kinds; got {other}")
    for layer, module in modules.items():
        check_in_memory(layer, module)
    shapes = {(module.kind, module.channels, tuple(module.sizes.items())) for module in modules.values()}
    if len(shapes) != 1:
        raise UserError(
            f"a token_sr folder holds modules of one kind and shape; got {sorted(shapes, key=str) or 'no modules'}"
        )
    if settings is not None and not isinstance(settings, Mapping):
        raise UserError(f"settings={settings!r}: expected a mapping, which is kept as JSON")
    folder = checked_path("path", Path(path) if isinstance(path, os.PathLike) else path, "a folder", hint="")
    kind, channels, sizes = shapes.pop()
    config = TokenSRConfig(
        backbone=backbone,
        revision=revision,
        backbone_weights=backbone_weights,
        kind=kind,
        layers=tuple(sorted(int(layer) for layer in modules)),
        channels=channels,
        sizes=dict(sizes),
        objective=objective,
        steps=optional(whole_number, "steps", steps, least=0),
        prompt_prefix=prompt_prefix,
        settings=dict(settings or {}),
    )
    record: dict[str, Any] = {"format": FORMAT}
    for key, value in asdict(config).items():
        record |= value if key == "sizes" else {key: value}
    try:
        _check_config(as_json(record), CONFIG)
        json.dumps(record, ensure_ascii=False).encode()
    except (TypeError, UnicodeEncodeError) as error:
        raise UserError(f"what {CONFIG} is to hold is not JSON: {error}") from error
    make_folder(folder)
    for layer, module in modules.items():
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
        with whole_file(folder / weights_name(layer)) as partial:
            # `save_file` would make a file that only its owner may read
            partial.write_bytes(save(state))
    write_json(folder / CONFIG, record)


def load_token_sr(
    path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    channels: int | None = None,
    layers: Collection[int] | None = None,
) -> dict[int, Design]:
    """Read the modules that `save_token_sr` wrote: layer -> module, on the CPU, in the dtype of the files.

    Args:
        path: a folder; a hub id such as "name/blink-token-sr" or "name/blink-token-sr@revision"; or "tiny" for the modules that
            ship with the project.
        revision: branch, tag or commit on the hub.
        channels: hidden width of the backbone that they are meant for; None skips the check.
        layers: read, and download, only the modules of these; None reads all.

    Raises:
        ValueError: if there is no such folder, it lacks a layer, a file is missing or does not fit, or the width is
            another.
    """
    return _fill(path, revision, channels, layers, load_file)


def check_token_sr(
    path: str | os.PathLike[str], *, channels: int | None = None, layers: Collection[int] | None = None
) -> None:
    """Raise what `load_token_sr` would raise, from the config and the headers of the files; no weight is read."""
    _fill(path, None, channels, layers, _read_header)


def check_finite(modules: Mapping[int, torch.nn.Module], name: str) -> None:
    """Raise NotFiniteError where modules, layer -> module, hold nan or infinity; `name` is what they were given by."""
    for layer, module in modules.items():
        if not all(weight.isfinite().all() for weight in module.state_dict().values()):
            raise NotFiniteError(f"weights of {name}", layer=layer)


def token_sr_config(path: str | os.PathLike[str], *, revision: str | None = None) -> TokenSRConfig:
    """Read the config.json of a token_sr folder or hub id, as `load_token_sr` takes it.

    Raises:
        ValueError: if it is missing or is not of this format.
    """
    file = find_token_sr(path, revision).fetch(CONFIG) / CONFIG
    try:
        config = read_json(file)
    except (OSError, ValueError) as error:  # a ValueError: not JSON, or not UTF-8
        raise UserError(f"{path} is not a token_sr folder: {CONFIG} cannot be read ({error})") from error
    needed = {"format", "backbone", "layers", "channels"}
    if not isinstance(config, dict) or needed - config.keys() or config["format"] != FORMAT:
        raise UserError(
            f"{file} is not a token_sr config of format {FORMAT} with {', '.join(sorted(needed))}; "
            "write it with save_token_sr"
        )
    sizes = _check_config(config, str(file))
    return TokenSRConfig(
        backbone=config["backbone"],
        revision=config.get("revision"),
        backbone_weights=config.get("backbone_weights"),
        kind=config.get("kind", TokenSR.kind),
        layers=tuple(config["layers"]),
        channels=config["channels"],
        sizes=sizes,
        objective=config.get("objective"),
        steps=config.get("steps"),
        prompt_prefix=config.get("prompt_prefix"),
        settings=config.get("settings") or {},
    )


def _check_config(config: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Return the sizes of the modules that a config lists, beyond their width.

    Raises:
        UserError: a value is not of its type, or a number not in its range.
    """
    try:
        names = design_of(config.get("kind", TokenSR.kind)).size_names
    except ValueError as error:
        raise UserError(f"{file}: {error}") from error
    missing = [name for name in names if name not in config]
    if missing:
        raise UserError(
            f"{file}: {', '.join(missing)} of the modules is missing; write it with save_token_sr"
        )
    for key in ("layers", *(name for name in names if name in _LISTS)):
        value = config[key]
        if not isinstance(value, list) or not all(is_whole(number) for number in value):
            raise UserError(f"{file}: {key}={value!r} is not a list of whole numbers")
    if any(layer < 0 for layer in config["layers"]):
        raise UserError(f"{file}: layers={config['layers']!r} count from 0")
    for key in ("channels", *(name for name in names if name not in _LISTS)):
        if not is_whole(config[key]):
            raise UserError(f"{file}: {key}={config[key]!r} is not a whole number")
    sizes = {name: tuple(config[name]) if name in _LISTS else config[name] for name in names}
    try:
        check_not_absurd(config["channels"], sizes)
    except ValueError as error:
        raise UserError(f"{file}: {error}") from error
    texts = ("revision", "backbone_weights", "objective", "prompt_prefix")
    kinds: dict[str, Any] = {"backbone": str, **dict.fromkeys(texts, str | None), "steps": int | None}
    for key, kind in {**kinds, "settings": dict | None}.items():
        if not isinstance(config.get(key), kind):
            raise UserError(
                f"{file}: {key}={config.get(key)!r} is not of type {getattr(kind, '__name__', kind)}"
            )
    return sizes


def _fill(
    path: str | os.PathLike[str],
    revision: str | None,
    channels: int | None,
    layers: Collection[int] | None,
    read: Callable[[Path], dict[str, Tensor]],
) -> dict[int, Design]:
    """Build the modules that a folder's config lists, with the tensors that `read` returns for their files."""
    source = find_token_sr(path, revision).pinned()
    config = token_sr_config(source.fetch(CONFIG))
    wanted = config.layers if layers is None else sorted(layers)
    check_has_layers(config.layers, wanted, str(path))
    if channels is not None and config.channels != channels:
        raise UserError(
            f"the token_sr modules in {path} are for hidden width {config.channels} "
            f"(backbone {config.backbone}), this backbone has {channels}; "
            "train modules for it with `python -m blink.train`"
        )
    folder = source.fetch(CONFIG, *map(weights_name, wanted))
    modules = {}
    for layer in wanted:
        try:
            with torch.device("meta"):  # the file's tensors take the place of all weights
                module = make_token_sr(config.kind, config.channels, config.sizes)
        except ValueError as error:
            raise UserError(f"{folder / CONFIG}: {error}") from error
        try:
            module.load_state_dict(read(folder / weights_name(layer)), assign=True)
        except (OSError, SafetensorError, RuntimeError) as error:
            raise UserError(
                f"{folder / weights_name(layer)} does not hold the module that {CONFIG} lists: {error}"
            ) from error
        modules[layer] = module.requires_grad_(False).eval()
    return modules


def _read_header(file: Path) -> dict[str, Tensor]:
    """Name -> tensor of the right shape and without data, for every tensor of a safetensors file."""
    with safe_open(file, framework="pt") as tensors:
        shapes = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118 (not a mapping)
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def weights_name(layer: int) -> str:
    """File of a layer's module."""
    return f"layer_{layer:02d}.safetensors"
