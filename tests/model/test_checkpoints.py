"""Loading backbones: whole, their lower layers only, and what is refused."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from blink.model import checkpoints
from blink.model.backbone import Backbone
from blink.model.checkpoints import load_backbone, load_input_norms, outline
from blink.model.visual_states import visual_states
from blink.runs.values import UserError
from tests import models


@pytest.mark.parametrize("kept", [0, 2, 4])
def test_lower_layers_only(llava_folder: Path, kept: int) -> None:
    """Catches layers above the kept ones in memory, and lower ones with other weights."""
    whole = load_backbone(llava_folder)
    lower = load_backbone(llava_folder, num_layers=kept)
    assert len(whole.model.model.language_model.layers) == 4
    assert len(lower.model.model.language_model.layers) == kept
    weights = dict(whole.model.named_parameters())
    for name, weight in lower.model.named_parameters():
        assert torch.equal(weight, weights[name]), name
    inputs = models.batch(whole.model, [0])
    state = visual_states(lower, inputs, [kept])[kept]
    torch.testing.assert_close(state, visual_states(whole, inputs, [kept])[kept])


def test_loaded_is_frozen_and_pads_on_the_left(llava_folder: Path) -> None:
    """Catches gradients or dropout in the backbone, and right padding, which generate cannot use."""
    loaded = load_backbone(llava_folder, dtype="bfloat16")
    assert not loaded.model.training
    assert not any(weight.requires_grad for weight in loaded.model.parameters())
    assert loaded.model.dtype == torch.bfloat16
    assert loaded.processor.tokenizer.padding_side == "left"
    assert (loaded.name, loaded.revision) == (str(llava_folder), None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_layers": 5}, "num_layers=5.*4 decoder layers"),
        ({"num_layers": -1}, "num_layers=-1"),
        ({"dtype": "float23"}, "float23"),
        ({"path": "absent/folder/here"}, "absent/folder/here"),
    ],
)
def test_refuses(llava_folder: Path, settings: dict[str, Any], message: str) -> None:
    """Catches a wrong setting that surfaces as an error deep in transformers, or not at all."""
    with pytest.raises(ValueError, match=message):
        load_backbone(**{"path": llava_folder, **settings})


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    """Catches a text model that is loaded as a LLaVA with random vision weights."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ValueError, match=r"'llama'.*llava, llava_next"):
        load_backbone(tmp_path)


def test_norms_with_biases_and_none(tmp_path: Path) -> None:
    """Catches a norm of which only the weight is read, and a model that normalises behind its layers alone."""
    folder = models.save(models.llava(grid=6, layers=2, text="starcoder2"), tmp_path / "biased")
    layers: Any = load_backbone(folder).model.model.language_model.layers
    x = torch.randn(2, 48)
    assert torch.equal(load_input_norms(folder, [1])[1](x), layers[1].input_layernorm(x))
    with pytest.raises(ValueError, match=r"layer 1 .*'olmo2'.*no input_layernorm"):
        load_input_norms(models.save(models.llava(grid=6, layers=2, text="olmo2"), tmp_path / "behind"), [1])


@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_outline_and_norms(request: pytest.FixtureRequest, family: str) -> None:
    """Catches an outline that reads weights, and a norm that is another layer's."""
    folder = request.getfixturevalue(f"{family}_folder")
    view = outline(folder)
    assert (view.family.name, view.grid, view.num_layers) == (family, (6, 6), 4)
    assert view.device.type == "meta"
    layers: Any = load_backbone(folder).model.model.language_model.layers
    norms = load_input_norms(folder, [1, 3])
    for layer, norm in norms.items():
        x = torch.randn(2, 32)
        assert torch.equal(norm(x), layers[layer].input_layernorm(x))


def test_an_outline_is_made_once_and_handed_on(llava_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a model built a second time only to check a config that was checked, and a name that is lost on the way."""
    view = outline(llava_folder)
    monkeypatch.setattr("blink.model.checkpoints.outline", None)  # would be called
    loaded = load_backbone(view, dtype="bfloat16", num_layers=2)
    assert (loaded.name, loaded.revision, loaded.num_layers) == (str(llava_folder), None, 2)
    assert (loaded.dtype, view.num_layers) == (torch.bfloat16, 4)
    assert loaded.fingerprint == view.fingerprint
    assert list(load_input_norms(view, [3])) == [3]


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of `llava_folder` in shards of about 20 KB, its layers' weights spread over several."""
    folder = tmp_path_factory.mktemp("sharded")
    model = models.llava(grid=6, layers=4, hidden=32)
    model.save_pretrained(folder, max_shard_size="20KB")
    models.processor(model).save_pretrained(folder)
    return folder


def test_shards_of_upper_layers_alone_are_never_opened(sharded: Path, tmp_path: Path) -> None:
    """Would catch training that reads, or fetches, shards of layers it does not run: here they hold rubbish."""
    weights: dict[str, str] = json.loads((sharded / "model.safetensors.index.json").read_text())["weight_map"]
    keys_of: dict[str, list[str]] = {}
    for key, file in weights.items():
        keys_of.setdefault(file, []).append(key)
    upper = [file for file, keys in keys_of.items() if all("layers.3." in key for key in keys)]
    assert upper
    for path in sharded.iterdir():
        if path.name in upper:
            (tmp_path / path.name).write_bytes(b"rubbish")
        else:
            (tmp_path / path.name).symlink_to(path)
    lower = load_backbone(tmp_path, num_layers=3)
    whole = dict(load_backbone(sharded).model.named_parameters())
    found = dict(lower.model.named_parameters())
    assert not any("layers.3." in name and "language" in name for name in found)
    assert all(torch.equal(weight, whole[name]) for name, weight in found.items())
    norm = load_input_norms(tmp_path, [2])[2]
    assert torch.equal(
        dict(norm.named_parameters())["weight"], whole["model.language_model.layers.2.input_layernorm.weight"]
    )
    with pytest.raises(Exception, match="header"):
        load_backbone(tmp_path)


def in_shards(folder: Path, tensors: dict[str, torch.Tensor], kept: int) -> None:
    """Write weights into `folder`: one file for each decoder layer, rubbish for those from `kept` on, one for the rest."""
    (folder / "model.safetensors").unlink()
    files: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        found = re.search(r"(?<!encoder)\.layers\.(\d+)\.", key)
        files.setdefault(f"layer_{found[1]}" if found else "rest", {})[key] = tensor.contiguous().clone()
    for name, weights in files.items():
        if name.startswith("layer") and int(name[-1]) >= kept:
            (folder / f"{name}.safetensors").write_bytes(b"rubbish")
        else:
            save_file(weights, folder / f"{name}.safetensors", metadata={"format": "pt"})
    index = {key: f"{name}.safetensors" for name, weights in files.items() for key in weights}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


@pytest.mark.parametrize("layout", ["before", "now"])
@pytest.mark.parametrize("name", models.SMALL)
def test_lower_layers_and_norms_of_every_family(name: str, layout: str, tmp_path: Path) -> None:
    """Would catch upper layers that are read because a family, or an older checkpoint, names its layers otherwise.

    transformers writes the names that the hub's older checkpoints have; "now" are those of the modules themselves.
    """
    model = models.family(name, layers=4)
    folder = models.save(model, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors") if layout == "before" else dict(model.state_dict())
    in_shards(folder, tensors, kept=2)
    if name.startswith("qwen2") and layout == "before":  # with the text model's settings beside the others
        config = json.loads((folder / "config.json").read_text())
        config |= {key: value for key, value in config.pop("text_config").items() if key != "model_type"}
        (folder / "config.json").write_text(json.dumps(config))
    view = outline(folder)
    assert (view.family.name, view.num_layers) == (model.config.model_type, 4)
    lower = load_backbone(view, num_layers=2)
    assert (lower.num_layers, lower.grid) == (2, Backbone(model).grid)
    weights = dict(model.named_parameters())
    for key, weight in lower.model.named_parameters():
        assert torch.equal(weight, weights[key]), key
    inputs = models.batch(model, [0])
    found = visual_states(lower, inputs, [0, 2])
    for layer, want in visual_states(Backbone(model), inputs, [0, 2]).items():
        torch.testing.assert_close(found[layer], want)
    bare = load_backbone(view, num_layers=0)
    torch.testing.assert_close(visual_states(bare, inputs, [0])[0], found[0])
    norm = load_input_norms(view, [1])[1]
    assert torch.equal(norm(found[0].movedim(1, -1)), lower.input_norm(1)(found[0].movedim(1, -1)))
    with pytest.raises(Exception, match="header"):
        load_backbone(view)


def test_pickled_weights_are_refused(llava_folder: Path, tmp_path: Path) -> None:
    """Would catch weights that are unpickled, and a traceback of transformers where there are none."""
    for name in ("config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).symlink_to(llava_folder / name)
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"the weights of .* cannot be read"):
        load_backbone(tmp_path)


@pytest.mark.parametrize("size", [0, 4, 20_000])
def test_weights_that_were_cut_off_are_named(size: int, llava_folder: Path, tmp_path: Path) -> None:
    """Would catch a traceback of safetensors for a download or a copy that broke off."""
    folder = tmp_path / "cut"
    shutil.copytree(llava_folder, folder)
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(size)
    with pytest.raises(UserError, match=rf"the weights of '{folder}' cannot be read"):
        load_backbone(folder, num_layers=1)


def test_device_map_needs_accelerate(llava_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch an ImportError of transformers for an option of ours."""
    monkeypatch.setattr(checkpoints, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"model.device_map=auto needs the package accelerate"):
        load_backbone(llava_folder, device_map="auto")


def test_a_device_map_places_the_model(llava_folder: Path) -> None:
    """Would catch a device_map that goes nowhere; a machine without GPUs has one place for all of the model."""
    backbone = load_backbone(llava_folder, device_map="auto")
    assert not backbone.is_spread
    assert backbone.device == torch.device("cpu")
    assert backbone.model.device == torch.device("cpu")


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (
            {"model_type": "llava_llama", "architectures": ["LlavaLlamaForCausalLM"]},
            "llava-hf/llava-1.5-7b-hf",
        ),
        ({"model_type": "llava", "mm_vision_tower": "openai/clip-vit-large-patch14-336"}, "llava-hf/"),
        ({"model_type": "llava_qwen", "mm_vision_tower": "siglip"}, "llava-hf/"),
        (
            {"model_type": "internvl_chat", "architectures": ["InternVLChatModel"]},
            "OpenGVLab/InternVL3-1B-hf",
        ),
        ({"model_type": "unheard_of"}, "expected one of llava"),
        ({}, "no backbone at"),
    ],
)
def test_authors_own_formats_are_told_their_conversions(
    config: dict[str, Any], named: str, tmp_path: Path
) -> None:
    """Would catch transformers' paragraph about a newer release, and authors' weights that are said to be missing."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as raised:
        outline(tmp_path)
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_folder_has_no_revisions(llava_folder: Path) -> None:
    """Would catch a revision beside a folder that is ignored in silence."""
    with pytest.raises(ValueError, match=r"model.revision='main': .* is a folder, which holds one revision"):
        outline(llava_folder, revision="main")
