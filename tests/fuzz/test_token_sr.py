"""Whatever a folder of TokenSR modules holds: modules that run, or one line that names the folder or the file."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from blink import TokenSR, load_token_sr, save_token_sr
from blink.model.token_sr.files import CONFIG, check_token_sr, token_sr_config
from blink.model.token_sr.source import find_token_sr
from blink.runs.values import UserError
from tests.fuzz.strategies import MISSING, damaged, mutated

LAYERS = (2, 13)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two modules."""
    folder = tmp_path_factory.mktemp("whole")
    save_token_sr(
        {layer: TokenSR(8, (4, 2), (3, 1, 1)) for layer in LAYERS}, folder, backbone="some/backbone"
    )
    return folder


@pytest.fixture
def copied(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copied") / "token_sr"
    shutil.copytree(whole, folder)
    return folder


def again(whole: Path, folder: Path) -> None:
    """Hypothesis calls a test's body many times with one fixture: each begins with the whole folder."""
    shutil.rmtree(folder)
    shutil.copytree(whole, folder)


def check(folder: Path) -> bool:
    """Whether the modules load; what is checked before weights are read never refuses more than reading them."""
    try:
        assert find_token_sr(folder).digest
        config = token_sr_config(folder)
        modules = load_token_sr(folder)
    except UserError as error:
        refused = str(error)
    else:
        refused = ""
    if refused:
        assert str(folder) in refused
        return False
    check_token_sr(folder)
    assert sorted(modules) == sorted(set(config.layers))
    for module in modules.values():
        assert all(parameter.is_floating_point() for parameter in module.parameters())
        refined = module.float()(torch.zeros(1, config.channels, 6, 6))
        assert refined.shape == (1, config.channels, 6, 6)
    return True


def test_a_whole_folder_loads(copied: Path) -> None:
    """Would catch a folder that none of the tests below gets past the first check."""
    assert check(copied)


@given(data=st.data())
def test_any_config(data: st.DataObject, whole: Path, copied: Path) -> None:
    """Would catch a traceback for values of another type, widths that do not fit, and layers without files."""
    again(whole, copied)
    config = json.loads((whole / CONFIG).read_text())
    (copied / CONFIG).write_text(json.dumps(data.draw(mutated(config))))
    check(copied)


@given(data=st.data())
def test_damaged_files(data: st.DataObject, whole: Path, copied: Path) -> None:
    """Would catch a traceback for a file that was cut off, overwritten or is gone."""
    again(whole, copied)
    path = copied / data.draw(st.sampled_from(sorted(file.name for file in whole.iterdir())))
    if data.draw(st.booleans()):
        path.write_bytes(data.draw(damaged(path.read_bytes())))
    else:
        path.unlink()
        assert not check(copied)
        return
    check(copied)


SHAPES = st.lists(st.integers(0, 9), max_size=4).map(tuple)
DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool])


@given(data=st.data())
def test_other_tensors(data: st.DataObject, whole: Path, copied: Path) -> None:
    """Would catch modules with tensors that are missing, of another shape, or whole numbers."""
    again(whole, copied)
    path = copied / "layer_02.safetensors"
    tensors: dict[str, Any] = load_file(path)
    name = data.draw(st.sampled_from(sorted(tensors)))
    change = data.draw(st.one_of(st.just(MISSING), SHAPES, DTYPES, st.text(max_size=9)))
    tensor = tensors.pop(name)
    if isinstance(change, tuple):
        tensors[name] = torch.zeros(change)
    elif isinstance(change, torch.dtype):
        tensors[name] = tensor.to(change)
    elif isinstance(change, str):
        tensors[change] = tensor
    save_file(tensors, path)
    loads = check(copied)
    same = isinstance(change, str) and change == name
    kept = isinstance(change, tuple) and change == tuple(tensor.shape)
    floats = isinstance(change, torch.dtype) and change.is_floating_point
    assert loads == (same or kept or floats)
