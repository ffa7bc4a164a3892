"""Mistakes that are found before any weight is read."""

from pathlib import Path

import pytest
import torch

from blink import Policy, TokenSR, save_token_sr
from blink.evaluation.planning.method import check_fit, modules_folder, training_differs
from blink.model.checkpoints import outline
from tests import models


@pytest.mark.parametrize(
    ("layers", "patches", "message"),
    [
        ((2, 4), 2, r"layers \[4\]; this model has decoder layers 0 to 3"),
        ((2,), 7, "patches=7 does not fit the 6 x 6 grid"),
    ],
)
def test_policy_that_does_not_fit_the_backbone(
    llava_folder: Path, layers: tuple[int, ...], patches: int, message: str
) -> None:
    """Catches a layer or a split that would only fail once the weights are in memory."""
    with pytest.raises(ValueError, match=message):
        check_fit(outline(llava_folder), Policy(layers, patches=patches), None)


def test_saliency_that_does_not_fit_the_backbone(tmp_path: Path) -> None:
    """Catches projections that are found missing only once the weights are in memory."""
    view = outline(models.save(models.llava(grid=6, layers=2, text="phi3"), tmp_path))
    check_fit(view, Policy([1]), None)
    with pytest.raises(ValueError, match=r"saliency='similarity' needs.*no q_proj"):
        check_fit(view, Policy([1], saliency="similarity"), None)


def test_modules_that_do_not_fit_the_backbone(llava_folder: Path, tmp_path: Path) -> None:
    """Catches modules of another width, and a scanned layer without one, before the weights are read."""
    torch.manual_seed(0)
    save_token_sr({1: TokenSR(32), 2: TokenSR(32)}, tmp_path / "fits", backbone="b")
    save_token_sr({1: TokenSR(16)}, tmp_path / "narrow", backbone="b")
    check_fit(outline(llava_folder), Policy((1, 2)), str(tmp_path / "fits"))
    with pytest.raises(ValueError, match=r"layers \[3\] are scanned too"):
        check_fit(outline(llava_folder), Policy((1, 3)), str(tmp_path / "fits"))
    with pytest.raises(ValueError, match="16"):
        check_fit(outline(llava_folder), Policy((1,)), str(tmp_path / "narrow"))
    with pytest.raises(ValueError, match="neither a folder nor a hub id"):
        check_fit(outline(llava_folder), Policy((1,)), str(tmp_path / "missing"))


def test_the_fit_is_checked_without_reading_weights(
    llava_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches 6.5 GB of modules read only to see whether they fit."""
    save_token_sr({1: TokenSR(32)}, tmp_path, backbone="b")
    read: list[object] = []
    monkeypatch.setattr("blink.model.token_sr.files.load_file", read.append)
    check_fit(outline(llava_folder), Policy((1,)), str(tmp_path))
    (tmp_path / "layer_01.safetensors").write_bytes(b"another file")
    with pytest.raises(ValueError, match="layer_01"):
        check_fit(outline(llava_folder), Policy((1,), patches=3), str(tmp_path))
    assert not read


def test_no_backbone_at_the_path(tmp_path: Path) -> None:
    """Catches an OSError of a page for a mistyped folder."""
    with pytest.raises(ValueError, match="no backbone at"):
        outline(tmp_path)


def test_other_backbones_are_told_how_to_train() -> None:
    """Catches the tiny backbone's modules handed to another one."""
    with pytest.raises(ValueError, match=r"python -m blink.train model.path=my/llava layer=\[2,3\]"):
        modules_folder(None, "my/llava", (2, 3))
    assert modules_folder("mine", "my/llava", (2, 3)) == "mine"


def test_modules_of_another_training_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches scores of modules for another backbone or prompt without a word, and a false alarm for the right ones."""
    monkeypatch.chdir(tmp_path)
    save_token_sr({1: TokenSR(8)}, tmp_path / "own", backbone="models/a", prompt_prefix="USER: ")
    save_token_sr({1: TokenSR(8)}, tmp_path / "silent", backbone="models/a")
    assert training_differs("own", "models/a/", "USER: ") == []
    assert training_differs("silent", str(tmp_path / "models" / "a"), "[INST] ") == []
    backbone, prefix = training_differs("own", "models/b", "[INST] ")
    assert "trained on the backbone models/a, and this one is models/b" in backbone
    assert "prompt prefix 'USER: ', and this run's is '[INST] '" in prefix
