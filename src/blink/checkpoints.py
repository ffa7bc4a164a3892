"""Load a backbone, by folder or hub id, whole or only its lower decoder layers."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import nn
from transformers import (
    AutoConfig,
    AutoProcessor,
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
)
from transformers.utils import cached_file, logging

from blink.backbone import Backbone

TINY = Path(__file__).parent / "assets" / "tiny"
"""Folder of the backbone that ships with the project."""

CLASSES: dict[str, Any] = {
    "llava": LlavaForConditionalGeneration,
    "llava_next": LlavaNextForConditionalGeneration,
}


class LoadedBackbone(NamedTuple):
    """A frozen model in evaluation mode and its processor, which pads on the left.

    `name` is the folder or hub id as given; `revision` the commit on the hub, None for a folder.
    """

    model: LlavaForConditionalGeneration | LlavaNextForConditionalGeneration
    processor: Any
    name: str
    revision: str | None


def load_backbone(
    path: str | Path,
    *,
    revision: str | None = None,
    dtype: str = "float32",
    device: str | torch.device = "cpu",
    attn_implementation: str = "sdpa",
    num_layers: int | None = None,
) -> LoadedBackbone:
    """Load a LLaVA or LLaVA-NeXT checkpoint, frozen.

    Args:
        path: folder or hub id, or "tiny" for the backbone that ships with the project.
        revision: branch, tag or commit on the hub.
        dtype: name of a torch dtype, or "auto" for the checkpoint's.
        num_layers: load decoder layers 0 .. num_layers - 1 only; weights above them are never read. Training a
            module of layer L needs L of them. None loads all. Such a model answers nothing sensible.

    Raises:
        ValueError: for another architecture, an unknown dtype, more layers than the checkpoint has, or a
            checkpoint that lacks weights.
    """
    name = str(path)
    if dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ValueError(f"dtype={dtype!r} is not a torch dtype; use float32, bfloat16, float16 or auto")
    config = _read_config(name, revision)
    if num_layers is not None:
        _keep_lower_layers(config.text_config, num_layers, name)
    model = _load_model(_source(name), config, revision, dtype, attn_implementation)
    return LoadedBackbone(
        model=model.to(device).requires_grad_(False).eval(),
        processor=load_processor(name, revision=revision),
        name=name,
        revision=getattr(config, "_commit_hash", None),
    )


def load_processor(path: str | Path, *, revision: str | None = None) -> Any:
    """Load the processor of a checkpoint, padding on the left."""
    processor = AutoProcessor.from_pretrained(_source(str(path)), revision=revision)
    processor.tokenizer.padding_side = "left"
    return processor


def outline(path: str | Path, *, revision: str | None = None) -> Backbone:
    """Return a view on a checkpoint's model without weights, from its config alone, to check settings against.

    Raises:
        ValueError: for no checkpoint at `path`, or one that Blink cannot work with.
    """
    config = _read_config(str(path), revision)
    with torch.device("meta"):
        return Backbone(CLASSES[config.model_type]._from_config(config))


def load_input_norms(
    path: str | Path, layers: Iterable[int], *, revision: str | None = None
) -> dict[int, nn.Module]:
    """Load the norms with which some decoder layers begin, in float32 and frozen, and nothing else of them.

    Args:
        path: as for `load_backbone`.
        layers: layers to load the norm of.

    Raises:
        ValueError: for a layer that the backbone does not have, or a checkpoint without safetensors.
    """
    name = str(path)
    backbone = outline(name, revision=revision)
    index = _weights_file(name, "model.safetensors.index.json", revision)
    files: dict[str, str] = json.loads(index.read_text())["weight_map"] if index else {}
    norms = {}
    for layer in layers:
        norm = backbone.input_norm(layer).to_empty(device="cpu").float()
        ending = f".layers.{layer}.input_layernorm.weight"
        shard = next((file for key, file in files.items() if key.endswith(ending)), "model.safetensors")
        weights = _weights_file(name, shard, revision)
        if weights is None:
            raise ValueError(f"{name!r} has no {shard}: its norms cannot be read without loading all of it")
        with safe_open(weights, framework="pt") as tensors:
            key = next(key for key in tensors.keys() if key.endswith(ending))  # noqa: SIM118 (not a mapping)
            norm.load_state_dict({"weight": tensors.get_tensor(key)})
        norms[layer] = norm.requires_grad_(False).eval()
    return norms


def _weights_file(name: str, file: str, revision: str | None) -> Path | None:
    """Where a file of a checkpoint lies on this machine, fetched if need be; None if there is no such file."""
    found = cached_file(_source(name), file, revision=revision, _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(found)


def _source(name: str) -> str:
    """What transformers loads `name` from."""
    return str(TINY) if name == "tiny" else name


def _read_config(name: str, revision: str | None) -> Any:
    """Read the config of a folder or hub id, of one of the known architectures."""
    try:
        config: Any = AutoConfig.from_pretrained(_source(name), revision=revision)
    except (OSError, ValueError) as error:
        raise ValueError(f"no backbone at {name!r}: {error}") from error
    if config.model_type not in CLASSES:
        raise ValueError(
            f"{name!r} is of architecture {config.model_type!r}; expected one of {', '.join(CLASSES)}"
        )
    return config


def _keep_lower_layers(text_config: Any, num_layers: int, name: str) -> None:
    """Cut the text config to its first `num_layers` layers."""
    available = text_config.num_hidden_layers
    if not 0 <= num_layers <= available:
        raise ValueError(f"num_layers={num_layers}: {name!r} has {available} decoder layers, numbered from 0")
    text_config.num_hidden_layers = num_layers
    if getattr(text_config, "layer_types", None):
        text_config.layer_types = text_config.layer_types[:num_layers]


def _load_model(name: str, config: Any, revision: str | None, dtype: str, attn_implementation: str) -> Any:
    """Load the weights that `config` has a place for; unused ones are not an error, missing ones are."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # weights above the last kept layer would be reported as unexpected
    try:
        model, report = CLASSES[config.model_type].from_pretrained(
            name,
            config=config,
            revision=revision,
            dtype=dtype,
            attn_implementation=attn_implementation,
            output_loading_info=True,
        )
    finally:
        logging.set_verbosity(verbosity)
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ValueError(f"the checkpoint {name!r} lacks {len(missing)} weights, {missing[0]} among them")
    return model
