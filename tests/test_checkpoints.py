"""Loading backbones: whole, their lower layers only, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from blink.backbone import Backbone
from blink.checkpoints import load_backbone, load_input_norms, outline


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
    pixels = torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    prefix = torch.tensor([[1, 7]])
    state = Backbone(lower.model).visual_states(prefix, pixels, [kept])[kept]
    torch.testing.assert_close(state, Backbone(whole.model).visual_states(prefix, pixels, [kept])[kept])


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


@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_outline_and_norms(request: pytest.FixtureRequest, family: str) -> None:
    """Catches an outline that reads weights, and a norm that is another layer's."""
    folder = request.getfixturevalue(f"{family}_folder")
    view = outline(folder)
    assert (view.family, view.grid, view.num_layers) == (family, (6, 6), 4)
    assert view.device.type == "meta"
    layers: Any = load_backbone(folder).model.model.language_model.layers
    norms = load_input_norms(folder, [1, 3])
    for layer, norm in norms.items():
        x = torch.randn(2, 32)
        assert torch.equal(norm(x), layers[layer].input_layernorm(x))
