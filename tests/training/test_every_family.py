"""`blink.train` on a small checkpoint of every family, from its folder to modules that `blink.attach` runs."""

import logging
from pathlib import Path

import pytest
import torch

import blink
from blink.model.checkpoints import load_backbone
from blink.model.prompts import template_of
from blink.model.token_sr.files import token_sr_config
from tests import models
from tests.training_runs import common, folder_of, run

pytestmark = [
    pytest.mark.usefixtures("in_empty_folder"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),  # Lightning's use of torch
]

SIZES = [(60, 60), (120, 44), (50, 150), (56, 88), (60, 60)]
"""One is held out, which leaves two steps."""


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures of several shapes, one of them a strip."""
    folder = tmp_path_factory.mktemp("mixed")
    for seed, size in enumerate([*SIZES, (8, 160)]):
        models.picture(seed, size).save(folder / f"{seed}.png")
    return folder


def saved(name: str, folder: Path) -> Path:
    return models.save(models.family(name, layers=3, hidden=32, grid=5 if "siglip" in name else 6), folder)


@pytest.mark.parametrize("name", models.SMALL)
def test_modules_are_trained_and_attached(
    name: str, mixed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Would catch a family that `blink.train` cannot read, prompt, cut into quadrants, or load the lower layers of."""
    backbone = saved(name, tmp_path / "backbone")
    overrides = [*common(backbone, mixed), "layer=[0,2]", "held_out=1", "objective.space=input_norm"]
    with caplog.at_level(logging.WARNING, logger="blink"):
        summary = run(*overrides)
    qwen = name.startswith("qwen")
    assert (summary.steps, summary.held_out_images) == (2, 1)
    assert (summary.train_images, summary.narrow_images) == ((4, 1) if qwen else (5, 0))
    assert ("1 of 6 images are too narrow" in caplog.text) == qwen
    for entry in summary.layers.values():
        assert 0 < entry["kl_token_sr"] < 100
        assert 0 < entry["kl_interpolation"] < 100
    folder = folder_of(*overrides) / "token_sr"
    whole = load_backbone(backbone)
    assert token_sr_config(folder).prompt_prefix == template_of(whole.processor).prefix
    modules = blink.load_token_sr(folder)
    assert [(module.channels, module.training) for module in modules.values()] == [(32, False)] * 2
    policy = blink.Policy([0, 2], tau_exp=0.0, tau_drop=0.0)
    handle = blink.attach(whole.model, policy, token_sr=folder)
    inputs = models.batch(whole.model, [0, 1], [(60, 60), (120, 44)])
    with torch.inference_mode():
        refined = whole.model(**inputs).logits[:, -1]
    assert [[event.action for event in events] for events in handle.trace] == [["expand"] * 2] * 2
    handle.detach()
    plain = blink.attach(whole.model, policy)
    with torch.inference_mode():
        assert not torch.allclose(whole.model(**inputs).logits[:, -1], refined)
    plain.detach()


@pytest.mark.parametrize("name", ["qwen3_vl", "internvl"])
def test_features_on_disk_train_the_same(name: str, mixed: Path, tmp_path: Path) -> None:
    """Would catch rows without a place for their grids, tiles that are not in them, and a second run that computes anew."""
    backbone = saved(name, tmp_path / "backbone")
    overrides = [*common(backbone, mixed), "layer=1", "held_out=1", "optimizer.learning_rate=1e-2"]
    computed = run(*overrides)
    cached = [*overrides, "data.cache_features=features"]
    stored = run(*cached)
    assert stored.mean_kl_token_sr == pytest.approx(computed.mean_kl_token_sr, rel=0.02)
    before = (Path("features") / "layer_01.features").stat()
    assert run(*cached, "fresh=true").layers == stored.layers
    after = (Path("features") / "layer_01.features").stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_strips_alone_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Would catch a run over pictures without quadrants that fails in its first step."""
    folder = tmp_path / "strips"
    folder.mkdir()
    for seed in range(3):
        models.picture(seed, (8, 160)).save(folder / f"{seed}.png")
    backbone = saved("qwen2_vl", tmp_path / "backbone")
    with pytest.raises(SystemExit):
        run(*common(backbone, folder), "layer=1")
    assert "3 of 3 images are too narrow" in capsys.readouterr().err
