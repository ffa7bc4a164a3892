"""The train command with features on disk."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.training_runs import common, run

pytestmark = [
    pytest.mark.usefixtures("in_empty_folder"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),  # Lightning's use of torch
]


def test_features_on_disk_replace_the_backbone(
    llava_folder: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a cached run that loads the backbone or decodes pictures, that ends elsewhere, or that goes by stale features.

    Rounding the features to bfloat16 moves KL by well under a percent.
    """
    overrides = [*common(llava_folder, pictures), "layer=[1,2]"]
    plain = run(*overrides)
    cached = run(*overrides, "data.cache_features=f", "epochs=2")
    for layer in ("1", "2"):
        for name in ("kl_interpolation", "cosine_interpolation"):
            assert cached.layers[layer][name] == pytest.approx(plain.layers[layer][name], rel=5e-3)
        assert cached.layers[layer]["kl_token_sr"] < plain.layers[layer]["kl_token_sr"]

    def unwanted(*_: Any, **__: Any) -> None:
        raise AssertionError("not needed")

    monkeypatch.setattr("blink.training.parts.modules.load_backbone", unwanted)
    monkeypatch.setattr("blink.training.images.ImageFiles.read", unwanted)
    again = run(*overrides, "data.cache_features=f")
    assert again.steps == 11
    for name, value in plain.layers["2"].items():
        assert again.layers["2"][name] == pytest.approx(value, rel=2e-2, abs=1e-3)
    run(*overrides, "data.cache_features=f", "layer=2", "token_sr.kernels=[3,3,1]", "images=10")
    with pytest.raises(SystemExit, match=r"data\.cache_features=f holds features that are not this run"):
        run(*overrides, "data.cache_features=f", "model.template=mistral_instruct")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(SystemExit, match=r"needs 276.5 kB more for 24 pictures \(11.5 kB for each"):
        run(*overrides, "data.cache_features=f", "layer=3")
