"""Load a backbone by folder or hub id: whole, only its lower decoder layers, or an outline without weights."""

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig
from transformers.utils import cached_file, is_flash_attn_2_available, logging

from blink.model.backbone import Backbone
from blink.model.families import ARCHITECTURES
from blink.model.fingerprint import check_place, checkpoint_source
from blink.model.processors import check_picture_options, load_processor
from blink.runs.values import UserError

_INDEX = "model.safetensors.index.json"
_SOON_LOADED = 500_000_000
"""Bytes of weights up to which loading needs no progress bar."""

_LAYER = re.compile(r"(?:^model|(?:^|\.)(?:language_model|text_model)(?:\.model)?)\.layers\.(\d+)\.")
"""A decoder layer's weights, as they are named now and as older checkpoints name them (Qwen's `model.layers.0.`)."""


_CONVERTED = {
    "llava": "llava-hf/llava-1.5-7b-hf for liuhaotian/llava-v1.5-7b, and others at llava-hf/",
    "internvl": "OpenGVLab/InternVL3-1B-hf for OpenGVLab/InternVL3-1B, and other names that end in -hf",
}
"""How the model types of authors' own formats begin -> where their conversions are."""


def load_backbone(
    path: str | Path | Backbone,
    *,
    revision: str | None = None,
    dtype: str = "float32",
    device: str | torch.device = "cpu",
    device_map: str | None = None,
    attn_implementation: str = "sdpa",
    num_layers: int | None = None,
    pad: bool | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> Backbone:
    """Load a checkpoint of one of the `families`: a frozen model in evaluation mode, and a processor that pads on the left.

    Weights are read one by one: the model is never held twice.

    Args:
        path: folder or hub id, or "tiny" for the backbone that ships with the project; or the `outline` of one, which
            otherwise is made first, to refuse what cannot work before any weight is read. An outline's processor, if it
            has one, becomes the model's.
        revision: branch, tag or commit on the hub; of an outline the one that it was made from.
        dtype: name of a torch dtype, or "auto" for the checkpoint's.
        device: where the model goes, unless `device_map` says so.
        device_map: as in transformers, "auto" for instance, which spreads the layers over the GPUs; needs the package
            accelerate. Each decoder layer has to lie on one device, and none may be offloaded.
        num_layers: load decoder layers 0 .. num_layers - 1 only; weights above them are never read, and shards that
            hold nothing else are neither fetched nor opened. Training a module of layer L needs L of them. None
            loads all. Such a model answers nothing sensible.
        pad, min_pixels, max_pixels: as for `blink.model.processors.load_processor`.

    Raises:
        ValueError: for another architecture, an unknown dtype, more layers than the checkpoint has, a checkpoint that
            lacks weights, a `device_map` without accelerate or that offloads weights, or pictures as the model's processor
            cannot make them.
    """
    if dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise UserError(f"dtype={dtype!r} is not a torch dtype; use float32, bfloat16, float16 or auto")
    check_device_map(device_map)
    outlined = _outline_of(path, revision)
    name, revision = outlined.name, outlined.revision or revision
    config = _read_config(name, revision)
    pictures: dict[str, Any] = {"pad": pad, "min_pixels": min_pixels, "max_pixels": max_pixels}
    check_picture_options(config, **pictures)
    if num_layers is not None:
        _keep_lower_layers(config.text_config, num_layers, name)
    with _needed_files(name, revision, num_layers) as source:
        model = _load_model(source, name, config, revision, dtype, attn_implementation, device_map)
    if device_map is None:
        model = model.to(device)
    backbone = Backbone(
        model.requires_grad_(False).eval(),
        outlined.processor or load_processor(name, revision=revision, **pictures),
        name=name,
        revision=outlined.revision,
    )
    backbone.check_weights()
    return backbone


def check_attention(name: str) -> None:
    """Raise UserError if an implementation of attention is not available on this machine."""
    if name == "flash_attention_2" and not is_flash_attn_2_available():
        raise UserError(
            "model.attn_implementation=flash_attention_2 needs a GPU and the package flash-attn; "
            "sdpa works everywhere"
        )


def check_device_map(device_map: str | None) -> None:
    """Raise ValueError where a device_map is given and accelerate, which carries it out, is not installed."""
    if device_map is not None and find_spec("accelerate") is None:
        raise UserError(
            f"model.device_map={device_map} needs the package accelerate (pip install 'blink-mllm[device-map]'); "
            "model.device=cuda:0 does without"
        )


def outline(path: str | Path, *, revision: str | None = None) -> Backbone:
    """Build a checkpoint's model on the meta device from its config alone, to check settings against.

    Raises:
        ValueError: for no checkpoint at `path`, or one that Blink cannot work with.
    """
    config = _read_config(str(path), revision)
    with torch.device("meta"):
        model = ARCHITECTURES[config.model_type]._from_config(config)
    return Backbone(model, name=str(path), revision=getattr(config, "_commit_hash", None))


def load_input_norms(
    path: str | Path | Backbone, layers: Iterable[int], *, revision: str | None = None
) -> dict[int, nn.Module]:
    """Load the input norms of some decoder layers, in float32 and frozen, and no other weights.

    Args:
        path, revision: as for `load_backbone`.
        layers: layers to load the norm of.

    Raises:
        ValueError: for a layer that the backbone does not have, or a checkpoint without safetensors.
    """
    backbone = _outline_of(path, revision)
    name, revision = backbone.name, backbone.revision or revision
    files = _weight_map(name, revision)
    norms = {}
    for layer in layers:
        norm = backbone.input_norm(layer).to_empty(device="cpu").float()
        state = {}
        for part in norm.state_dict():
            key = _norm_key(files, layer, part)
            shard = files[key] if key else "model.safetensors"
            weights = _found_file(name, shard, revision)
            if weights is None:
                raise UserError(
                    f"{name!r} has no {shard}: its norms cannot be read without loading all of it"
                )
            with safe_open(weights, framework="pt") as tensors:
                key = _norm_key(tensors.keys(), layer, part)
                assert key is not None, f"{weights} has no input norm of layer {layer}"
                state[part] = tensors.get_tensor(key)
        norm.load_state_dict(state)
        norms[layer] = norm.requires_grad_(False).eval()
    return norms


def _norm_key(keys: Iterable[str], layer: int, part: str) -> str | None:
    """Name of a tensor of a decoder layer's input norm among those of a checkpoint; None if it is not there."""
    ending = f".layers.{layer}.input_layernorm.{part}"
    return next((key for key in keys if key.endswith(ending) and _LAYER.search(key)), None)


def _outline_of(path: str | Path | Backbone, revision: str | None) -> Backbone:
    """The outline that `path` names or is."""
    return path if isinstance(path, Backbone) else outline(path, revision=revision)


def _found_file(name: str, file: str, revision: str | None) -> Path | None:
    """Path of a checkpoint's file on this machine, downloaded if need be; None if there is no such file."""
    found = cached_file(
        checkpoint_source(name), file, revision=revision, _raise_exceptions_for_missing_entries=False
    )
    return None if found is None else Path(found)


def _read_config(name: str, revision: str | None) -> Any:
    """Read the config of a folder or hub id, of one of the known architectures."""
    if revision is not None and Path(checkpoint_source(name)).is_dir():
        raise UserError(
            f"model.revision={revision!r}: {name} is a folder, which holds one revision; leave it null, or give a hub id"
        )
    check_place(name)
    try:
        written, _ = PreTrainedConfig.get_config_dict(checkpoint_source(name), revision=revision)
        _check_format(name, written)
        config: Any = AutoConfig.from_pretrained(checkpoint_source(name), revision=revision)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"no backbone at {name!r}: {error}") from error
    if config.model_type not in ARCHITECTURES:
        raise UserError(
            f"{name!r} is of architecture {config.model_type!r}; expected one of {', '.join(ARCHITECTURES)}"
        )
    return config


def _check_format(name: str, written: Mapping[str, Any]) -> None:
    """Raise UserError for a checkpoint as its authors keep it, which transformers does not load or, worse, takes for its own.

    LLaVA-1.5's authors call theirs "llava" as transformers does, with other weights' names; their configs have keys that
    begin with mm_.

    Args:
        written: the config as it is written.
    """
    kind = written.get("model_type")
    if kind is None or (kind in CONFIG_MAPPING and "mm_vision_tower" not in written):
        return
    classes = written.get("architectures")
    made = f"{kind}, {classes[0]}" if isinstance(classes, list) and classes else kind
    for begins, converted in _CONVERTED.items():
        if str(kind).startswith(begins):
            raise UserError(
                f"{name!r} is a checkpoint in its authors' own format ({made}); take its conversion for transformers: {converted}"
            )
    raise UserError(
        f"{name!r} is of architecture {kind!r}, which transformers {transformers.__version__} does not know; expected one of "
        f"{', '.join(ARCHITECTURES)}"
    )


def _keep_lower_layers(text_config: Any, num_layers: int, name: str) -> None:
    """Cut the text config to its first `num_layers` layers."""
    available = text_config.num_hidden_layers
    if not 0 <= num_layers <= available:
        raise UserError(f"num_layers={num_layers}: {name!r} has {available} decoder layers, numbered from 0")
    text_config.num_hidden_layers = num_layers
    if getattr(text_config, "layer_types", None):
        text_config.layer_types = text_config.layer_types[:num_layers]


@contextmanager
def _needed_files(name: str, revision: str | None, num_layers: int | None) -> Iterator[str]:
    """Context that gives the source for `from_pretrained`: the checkpoint, or a temporary folder of links to the needed shards.

    transformers opens, and fetches, every shard that an index names. Layers above the first `num_layers` are taken out
    of the index, and with them the shards that hold nothing else.
    """
    weights = _weight_map(name, revision)
    needed = {key: file for key, file in weights.items() if not _above(key, num_layers)}
    if set(needed.values()) == set(weights.values()):
        yield checkpoint_source(name)
        return
    with TemporaryDirectory(prefix="blink-") as made:
        folder = Path(made)
        shards = set(needed.values())
        for file in (*sorted(shards), "config.json", "generation_config.json"):
            found = _found_file(name, file, revision)
            if found is not None:
                (folder / file).symlink_to(found.resolve())
            elif file in shards:
                raise UserError(f"{name!r} has no {file}, which its {_INDEX} names")
        (folder / _INDEX).write_text(json.dumps({"metadata": {}, "weight_map": needed}))
        yield made


def _above(key: str, num_layers: int | None) -> bool:
    """Whether a weight belongs to a decoder layer that is not wanted."""
    layer = _LAYER.search(key)
    return num_layers is not None and layer is not None and int(layer[1]) >= num_layers


def _weight_map(name: str, revision: str | None) -> dict[str, str]:
    """Weight -> file of a sharded checkpoint; empty for one of a single file."""
    index = _found_file(name, _INDEX, revision)
    files: dict[str, str] = json.loads(index.read_text())["weight_map"] if index else {}
    return files


def _bytes_here(source: str) -> int:
    """Size of the weights in a folder; 0 where it is none of this machine."""
    return sum(file.stat().st_size for file in Path(source).glob("*.safetensors"))


def _load_model(
    source: str,
    name: str,
    config: Any,
    revision: str | None,
    dtype: str,
    attn_implementation: str,
    device_map: str | None,
) -> Any:
    """Load the weights that `config` has a place for; unused ones are not an error, missing ones are."""
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # weights above the last kept layer would be reported as unexpected
    if not sys.stderr.isatty() or 0 < _bytes_here(source) < _SOON_LOADED:
        logging.disable_progress_bar()
    try:
        model, report = ARCHITECTURES[config.model_type].from_pretrained(
            source,
            config=config,
            revision=revision,
            dtype=dtype,
            attn_implementation=attn_implementation,
            device_map=device_map,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, SafetensorError) as error:
        raise UserError(f"the weights of {name!r} cannot be read: {error}") from error
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise UserError(f"the checkpoint {name!r} lacks {len(missing)} weights, {missing[0]} among them")
    return model
