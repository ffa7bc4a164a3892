"""The folder format of TokenSR modules, and its checks."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from blink.model.token_sr import TokenSR
from blink.model.token_sr.files import check_token_sr, load_token_sr, save_token_sr, token_sr_config

CONFIG_JSON = """{
  "format": 1,
  "backbone": "some/backbone",
  "revision": "abc",
  "backbone_weights": null,
  "kind": "conv",
  "layers": [
    2,
    11
  ],
  "channels": 8,
  "hidden": [
    4,
    2
  ],
  "kernels": [
    5,
    3,
    1
  ],
  "objective": "kl",
  "steps": 7,
  "prompt_prefix": "USER: ",
  "settings": {
    "lr": 0.1
  }
}
"""


def saved(folder: Path, layers: tuple[int, ...] = (2, 11), channels: int = 8) -> dict[int, TokenSR]:
    """Random modules for `layers`, written into `folder`."""
    torch.manual_seed(0)
    modules = {layer: TokenSR(channels) for layer in layers}
    save_token_sr(
        modules,
        folder,
        backbone="some/backbone",
        revision="abc",
        objective="kl",
        steps=7,
        prompt_prefix="USER: ",
        settings={"lr": 0.1},
    )
    return modules


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_save_and_load(tmp_path: Path, dtype: torch.dtype) -> None:
    """Catches weights that lose their dtype or layer, and metadata that is not written."""
    modules = {layer: module.to(dtype) for layer, module in saved(tmp_path).items()}
    save_token_sr(modules, tmp_path, backbone="some/backbone")
    loaded = load_token_sr(tmp_path, channels=8)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "layer_02.safetensors",
        "layer_11.safetensors",
    ]
    assert list(loaded) == [2, 11]
    for layer, module in loaded.items():
        state, want = module.state_dict(), modules[layer].state_dict()
        assert all(state[name].dtype == dtype and torch.equal(state[name], want[name]) for name in want)
        assert not any(weight.requires_grad for weight in module.parameters())


def test_config_holds_what_was_said(tmp_path: Path) -> None:
    """Catches a folder that does not say which backbone, prefix and steps it belongs to."""
    saved(tmp_path)
    config = token_sr_config(tmp_path)
    assert config.backbone == "some/backbone"
    assert config.revision == "abc"
    assert config.layers == (2, 11)
    assert config.channels == 8
    assert (config.kind, config.sizes) == ("conv", {"hidden": (4, 2), "kernels": (5, 3, 1)})
    assert (config.objective, config.steps, config.prompt_prefix) == ("kl", 7, "USER: ")
    assert config.settings == {"lr": 0.1}
    assert (tmp_path / "config.json").read_text() == CONFIG_JSON


@pytest.mark.parametrize("read", [load_token_sr, check_token_sr])
def test_load_and_check_refuse(tmp_path: Path, read: Callable[..., object]) -> None:
    """Catches modules of another width, broken folders, and typing errors that would go to the network."""
    folder = tmp_path / "modules"
    saved(folder)
    with pytest.raises(ValueError, match=r"hidden width 8.*has 16"):
        read(folder, channels=16)
    with pytest.raises(ValueError, match="neither a folder nor a hub id"):
        read(tmp_path / "absent" / "modules")
    with pytest.raises(ValueError, match=r"config\.json"):
        read(tmp_path)
    (folder / "layer_02.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="layer_02"):
        read(folder)
    (folder / "layer_02.safetensors").unlink()
    with pytest.raises(ValueError, match="layer_02"):
        read(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "format": 99}))
    with pytest.raises(ValueError, match="format"):
        read(folder)


@pytest.mark.parametrize("read", [load_token_sr, check_token_sr])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kernels", "5,3,1"),
        ("hidden", 4),
        ("hidden", None),
        ("channels", "8"),
        ("layers", ["2"]),
        ("kernels", [4]),
        ("layers", [-2]),
        ("channels", 10**9),
        ("channels", 10**30),
        ("channels", True),
        ("hidden", [10**12, 2]),
        ("kernels", [10**9 + 1, 3, 1]),
        ("backbone", 3),
        ("steps", "many"),
        ("settings", [1]),
    ],
)
def test_mistyped_config_is_named(
    tmp_path: Path, key: str, value: object, read: Callable[..., object]
) -> None:
    """Catches a TypeError, or a message that does not say which file to mend."""
    saved(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(ValueError, match=rf"{tmp_path}/config.json: .*{key}=|layer_02.*config.json"):
        read(tmp_path)


@pytest.mark.parametrize("read", [load_token_sr, check_token_sr])
def test_a_config_that_is_not_text_is_named(tmp_path: Path, read: Callable[..., object]) -> None:
    """Catches a stack of decoding errors for a file of another encoding."""
    saved(tmp_path)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_bytes(text.replace("some", "söme").encode("latin-1"))
    with pytest.raises(ValueError, match=rf"{tmp_path} is not a token_sr folder: config.json cannot be read"):
        read(tmp_path)


def test_load_reads_the_wanted_layers_only(tmp_path: Path) -> None:
    """Catches gigabytes read for layers that are not scanned; their files may even be absent."""
    saved(tmp_path)
    (tmp_path / "layer_02.safetensors").unlink()
    assert list(load_token_sr(tmp_path, layers=(11,))) == [11]
    check_token_sr(tmp_path, layers=(11,))
    for read in (load_token_sr, check_token_sr):
        with pytest.raises(ValueError, match=r"layers \[2, 11\], but layers \[5\] are scanned too"):
            read(tmp_path, layers=(5, 11))


@pytest.mark.parametrize(
    "tensors",
    [
        TokenSR(4).state_dict(),
        TokenSR(8, kernels=(3, 3, 1)).state_dict(),
        {"convolutions.0.weight": torch.zeros(4, 8, 5, 5)},
        {**TokenSR(8).state_dict(), "another": torch.zeros(2)},
    ],
    ids=["another width", "another kernel", "tensors missing", "one too many"],
)
def test_check_finds_in_the_headers_what_loading_would(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    """Catches modules that are refused only once the backbone is in memory, or for another reason then."""
    saved(tmp_path)
    save_file(tensors, tmp_path / "layer_11.safetensors")
    messages = []
    for read in (load_token_sr, check_token_sr):
        with pytest.raises(
            ValueError, match=r"layer_11\.safetensors does not hold the module that config\.json"
        ) as got:
            read(tmp_path)
        messages.append(str(got.value))
    assert messages[0] == messages[1]


def test_check_notices_a_file_that_was_cut_short(tmp_path: Path) -> None:
    """Catches a broken download whose header is whole."""
    saved(tmp_path)
    whole = (tmp_path / "layer_11.safetensors").read_bytes()
    (tmp_path / "layer_11.safetensors").write_bytes(whole[:-8])
    with pytest.raises(ValueError, match=r"layer_11\.safetensors does not hold"):
        check_token_sr(tmp_path)


def test_a_hub_id_that_cannot_be_had_is_a_value_error() -> None:
    """Catches a stack of network errors for a misspelt folder; tests run offline."""
    with pytest.raises(ValueError, match="not found on the hub"):
        load_token_sr("nobody/no-such-modules")


def test_save_refuses_mixed_shapes(tmp_path: Path) -> None:
    """Catches a config that is true of some modules only."""
    with pytest.raises(ValueError, match="one kind and shape"):
        save_token_sr({1: TokenSR(8), 2: TokenSR(8, kernels=(3, 3, 1))}, tmp_path, backbone="b")
    with pytest.raises(ValueError, match="no modules"):
        save_token_sr({}, tmp_path, backbone="b")


@pytest.mark.parametrize(
    ("modules", "settings", "message"),
    [
        ({-1: TokenSR(8)}, {}, r"layers \[-1\]"),
        ({True: TokenSR(8)}, {}, r"layers \[True\]"),
        ({"x": TokenSR(8)}, {}, r"layers \['x'\]"),
        ({1.0: TokenSR(8)}, {}, r"layers \[1\.0\]"),
        ({1: TokenSR(8), 2: None}, {}, "NoneType"),
        ({1: torch.nn.Identity()}, {}, "Identity"),
        ([TokenSR(8)], {}, "list; expected a mapping"),
        (torch.nn.ModuleDict({"1": TokenSR(8)}), {}, "ModuleDict; expected a mapping"),
        ({1: TokenSR(8)}, {"settings": {"a": Path("b")}}, "not JSON"),
        ({1: TokenSR(8)}, {"settings": ["a"]}, r"settings=\['a'\]: expected a mapping"),
        ({1: TokenSR(8)}, {"prompt_prefix": "\ud800"}, "not JSON.*surrogates"),
        ({1: TokenSR(8)}, {"steps": 0.5}, "steps=0.5"),
        ({1: TokenSR(8)}, {"steps": True}, "steps=True"),
        ({1: TokenSR(8), 2: TokenSR(8).to("meta")}, {}, "module of layer 2 are on the meta device"),
        ({1: TokenSR(8)}, {"backbone": None}, "backbone=None"),
    ],
)
def test_save_refuses_before_it_writes(
    tmp_path: Path, modules: Any, settings: dict[str, Any], message: str
) -> None:
    """Catches weights written under a name that nothing reads, or half a folder before an error."""
    folder = tmp_path / "modules"
    with pytest.raises(ValueError, match=message):
        save_token_sr(modules, folder, **{"backbone": "b", **settings})
    assert not folder.exists()


@pytest.mark.parametrize("path", ["", "a\0b", 3, None, b"modules"])
def test_what_is_no_folder(path: Any, in_empty_folder: Path) -> None:
    """Catches modules written into the working folder, and errors of pathlib."""
    with pytest.raises(ValueError, match=r"path=.*expected a folder"):
        save_token_sr({1: TokenSR(8)}, path, backbone="b")
    assert not list(in_empty_folder.iterdir())


def test_modules_are_read_from_where_they_were_saved(
    tmp_path: Path, in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a folder that is called ~, which loading looks for elsewhere."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    save_token_sr({1: TokenSR(8)}, "~/modules", backbone="b")
    assert list(load_token_sr("~/modules")) == [1]
    assert (tmp_path / "home" / "modules").is_dir()


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    """Catches layers or steps out of an array that JSON cannot write."""
    modules: Any = {np.int64(3): TokenSR(8)}
    save_token_sr(modules, tmp_path, backbone="b", steps=np.array([7])[0])
    assert list(load_token_sr(tmp_path, layers=np.array([3]))) == [3]
    assert token_sr_config(tmp_path).steps == 7


def test_weights_have_the_mode_of_their_neighbours(tmp_path: Path) -> None:
    """Would catch modules that colleagues on a shared disk may list and not read."""
    before = os.umask(0o027)
    try:
        save_token_sr({3: TokenSR(8)}, tmp_path / "m", backbone="x")
        (tmp_path / "m" / "neighbour").touch()
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "m").iterdir()} == {0o640}


def test_a_full_disk_leaves_the_modules_that_were_there(
    tmp_path: Path, file_size_limit: Callable[[int], None]
) -> None:
    """Would catch the half of a file in place of trained weights."""
    modules = {3: TokenSR(8)}
    save_token_sr(modules, tmp_path, backbone="x")
    file_size_limit(1024)
    with pytest.raises(OSError, match=r"layer_03\.safetensors"):
        save_token_sr({3: TokenSR(8)}, tmp_path, backbone="x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "layer_03.safetensors"]
    for name, weight in load_token_sr(tmp_path)[3].state_dict().items():
        torch.testing.assert_close(weight, modules[3].state_dict()[name], rtol=0, atol=0)
