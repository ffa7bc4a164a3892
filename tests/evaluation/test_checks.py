"""Mistakes that are found before any weight is read."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from blink import Policy, TokenSR, save_token_sr
from blink.bench import Sample
from blink.evaluation.checks import (
    check_boxes,
    check_data_keys,
    check_fit,
    modules_folder,
    process_count,
    training_differs,
)
from blink.model.checkpoints import outline
from blink.runs.values import UserError
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
    monkeypatch.setattr("blink.model.token_sr_files.load_file", read.append)
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


def test_keys_of_data_that_no_question_is_read_by() -> None:
    """Would catch a split, a column or a misspelt key given through a config that changes nothing, and defaults refused."""
    read = {"source": "local", "root": "a", "exif": "apply", "allow_outside": True}
    check_data_keys(read)
    check_data_keys(
        {"source": "hub", "root": None, "id": None, "name": None, "split": "train", "column": None}
    )
    with pytest.raises(
        UserError,
        match=r"data.split=test, data.colour=red: not read for a benchmark.* read are data.source, data.root, data.id, "
        "data.exif, data.allow_outside",
    ):
        check_data_keys(read | {"split": "test", "colour": "red", "column": None})


def test_boxes_that_the_backbone_does_not_see(llava_folder: Path, tmp_path: Path) -> None:
    """Would catch questions that a policy of boxes leaves alone in silence, and a run in which it leaves all of them."""
    copy = shutil.copytree(llava_folder, tmp_path / "cropping")
    settings = json.loads((copy / "processor_config.json").read_text())
    settings["image_processor"] |= {"do_center_crop": True, "size": {"shortest_edge": 24}}
    (copy / "processor_config.json").write_text(json.dumps(settings))
    model = {"path": str(copy), "revision": None, "pad": False, "min_pixels": None, "max_pixels": None}
    boxes = {"gone": (0, 0, 9, 9), "seen": (50, 0, 60, 9), "none": None}
    samples = [Sample(name, "wide", "?", "", "", Image.Image, {"box": box}) for name, box in boxes.items()]
    policy, sizes = Policy([1], selector="box"), {"wide": (120, 40)}
    assert check_boxes(policy, "questions", samples, sizes, model) == [
        "selector=box: 1 of 2 boxes lie outside what the backbone sees of their pictures, such as that of gone; nothing is "
        "expanded for these"
    ]
    assert check_boxes(policy, "questions", samples[1:], sizes, model) == []
    assert check_boxes(Policy([1]), "questions", samples, sizes, model) == []
    with pytest.raises(UserError, match="none of the 1 of questions has one"):
        check_boxes(policy, "questions", samples[2:], sizes, model)


def test_how_many_processes_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches several processes on one device, and a number that torchrun has not started."""
    on = {"device": "cpu", "device_map": None}
    assert [process_count(devices, on) for devices in (1, 3, "auto")] == [1, 3, 1]
    with pytest.raises(UserError, match=r"devices=2 and model.device_map=auto"):
        process_count(2, on | {"device_map": "auto"})
    with pytest.raises(UserError, match=r"devices=2 and model.device=cuda:1"):
        process_count(2, on | {"device": "cuda:1"})
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert [process_count(devices, on) for devices in (1, 4, "auto")] == [4, 4, 4]
    with pytest.raises(UserError, match="devices=3: 4 processes were started"):
        process_count(3, on)
