"""Numbers that are nan or infinite end a run, which says at which step, in which layer and of which images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from blink.model.token_sr import TokenSR
from blink.model.token_sr.files import save_token_sr
from blink.training import module
from blink.training.features import fill
from blink.training.features.states import Features
from blink.training.images import local_images
from blink.training.manifest import Portions, check_images, split
from blink.training.order import TrainingOrder
from tests.training_runs import common, folder_of, run

pytestmark = [
    pytest.mark.usefixtures("in_empty_folder"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),  # Lightning's use of torch
]


@pytest.fixture
def short(llava_folder: Path, pictures: Path) -> list[str]:
    return [*common(llava_folder, pictures), "layer=[1,2]", "trainer.val_check_interval=5"]


@pytest.fixture
def portions(pictures: Path, tmp_path: Path) -> Portions:
    """Images that such a run trains on and measures on."""
    images = local_images([pictures])
    return split(images, check_images(images, tmp_path / "m.json"), held_out=64, limit=None, seed=0)


@pytest.fixture
def damaged(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, int, int], None]:
    """`damaged(where, call, image)` makes one hidden state infinite: of an image in a pass of the backbone, at layer 2."""

    def set_up(where: Any, call: int, image: int) -> None:
        calls, stock = 0, where.trunk_features

        def trunk_features(*arguments: Any) -> list[Features]:
            nonlocal calls
            by_grid: list[Features] = stock(*arguments)
            calls += 1
            if calls == call:
                by_grid[0].states[2][image, 3, 0, 0, 0] = float("inf")
            return by_grid

        monkeypatch.setattr(where, "trunk_features", trunk_features)

    return set_up


def test_a_rate_that_is_too_large(short: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Would catch a run that ends with weights of nan and a summary, or that saves a checkpoint of them.

    Step 1 has rate 0, since the warm-up is one step; step 2 makes weights so large that step 3 overflows.
    """
    overrides = [*short, "optimizer.learning_rate=1e30", "checkpoint_every=1"]
    with pytest.raises(
        SystemExit, match=r"step 3, layer 1, images .*\.png, .*\.png: losses are nan"
    ) as ended:
        run(*overrides)
    assert ended.value.code == 2
    assert "smaller optimizer.learning_rate" in capsys.readouterr().err
    folder = folder_of(*overrides)
    assert not (folder / "summary.json").exists()
    for file in folder.glob("checkpoints/*.ckpt"):
        weights = torch.load(file, weights_only=True)["state_dict"].values()
        assert all(weight.isfinite().all() for weight in weights)


def test_an_image_that_the_backbone_cannot_take(
    short: list[str], portions: Portions, damaged: Callable[[Any, int, int], None]
) -> None:
    """Would catch the whole batch named for one picture, another step's picture, or the wrong layer."""
    damaged(module, 3, 1)
    name = portions.train.name(TrainingOrder(22, 8, seed=0).batch(2)[1])
    with pytest.raises(
        SystemExit, match=rf"step 3, layer 2, image {name}: hidden states of the backbone are"
    ):
        run(*short)


def test_a_held_out_image_that_the_backbone_cannot_take(
    short: list[str], portions: Portions, damaged: Callable[[Any, int, int], None]
) -> None:
    """Would catch a summary with a KL of nan, which no JSON reader takes."""
    damaged(module, 6, 1)
    name = portions.held_out.name(1)
    with pytest.raises(SystemExit, match=rf"measuring after step 5, layer 2, image {name}: hidden states"):
        run(*short)


def test_features_that_are_not_finite_are_not_stored(
    short: list[str], damaged: Callable[[Any, int, int], None]
) -> None:
    """Would catch nan on disk, which all later runs over these pictures would read."""
    damaged(fill, 2, 0)
    with pytest.raises(SystemExit, match=r"layer 2, image .*\.png: hidden states of the backbone are nan"):
        run(*short, "data.cache_features=features")
    assert run(*short, "data.cache_features=features").steps == 11


def test_weights_and_moments_are_looked_at_before_they_are_saved(short: list[str]) -> None:
    """Would catch a step whose loss is finite and whose gradient is not: the checkpoint would hold nan."""
    saved = module.TokenSRTraining.on_save_checkpoint

    def damage(self: module.TokenSRTraining, checkpoint: dict[str, Any]) -> None:
        with torch.no_grad():
            next(self.token_sr["2"].parameters()).view(-1)[0] = float("nan")
        saved(self, checkpoint)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.TokenSRTraining, "on_save_checkpoint", damage)
        with pytest.raises(SystemExit, match="step 4, layer 2: weights of TokenSR are nan"):
            run(*short)
    assert not list(folder_of(*short).glob("checkpoints/*"))


def test_a_reference_that_is_not_finite(short: list[str], tmp_path: Path) -> None:
    """Would catch a comparison with weights of nan, after hours of training."""
    reference = TokenSR(32)
    with torch.no_grad():
        next(reference.parameters()).view(-1)[0] = float("inf")
    save_token_sr({2: reference}, tmp_path / "reference", backbone="x")
    with pytest.raises(SystemExit, match=r"layer 2: weights of reference=\S+ are nan"):
        run(*short, f"reference={tmp_path / 'reference'}")
