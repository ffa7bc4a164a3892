"""Preset files: written, read, refused, and put under what the user gives."""

import shutil
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra import initialize_config_dir
from omegaconf import DictConfig

from blink.model.fingerprint import TINY
from blink.runs.config.groups import CONF_DIR
from blink.runs.config.settings import plain
from blink.runs.inputs.preset_file import preset_of, preset_sources, read_preset, with_preset, write_preset
from blink.runs.values import UserError

SETTINGS: dict[str, Any] = {
    "layer": [3, 4],
    "tau_exp": 0.31,
    "tau_drop": 0.2,
    "patches": 3,
    "positions": "region",
    "selector": "saliency",
    "token_sr": None,
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "preset.yaml"
    write_preset(path, SETTINGS, method="interp", note="best by far", backbone="tiny", beats_vanilla=True)
    return path


def composed(command: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return hydra.compose(command, list(overrides))


def test_what_is_written_is_read(file: Path) -> None:
    """Would catch a setting that is lost on the way, and a null that takes the place of a default."""
    found = read_preset(file)
    assert found.settings == {key: value for key, value in SETTINGS.items() if value is not None}
    assert (found.method, found.backbone, found.beats_vanilla, found.note) == (
        "interp",
        "tiny",
        True,
        "best by far",
    )
    assert found.warnings("tiny") == []
    assert "chosen for the backbone tiny, and this one is other" in found.warnings("other")[0]


def test_a_preset_that_beats_nothing_says_so(tmp_path: Path) -> None:
    """Would catch a setting that does harm and is taken for a recommendation."""
    path = tmp_path / "preset.yaml"
    write_preset(path, SETTINGS, method="interp", note="n", backbone="tiny", beats_vanilla=False)
    assert "method=vanilla is recommended" in read_preset(path).warnings("tiny")[0]


GOOD = "blink_preset: 1\nmethod: interp\nlayer: [3]\ntau_exp: 0.4\ntau_drop: 0\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD[:30] + "{", "is damaged"),
        (": [", "is damaged: it is not YAML"),
        (GOOD + "note: 2026-13-40\n", "is damaged: it is not YAML"),
        (GOOD + "note: 0x_\n", "is damaged: it is not YAML"),
        (GOOD + "note: " + "[" * 9999, "is damaged: it is not YAML"),
        (GOOD + "tau_exp: 0.6\n", "is damaged: .*the key tau_exp stands in it twice"),
        (GOOD + "note: {a: 1, a: 2}\n", "is damaged: .*the key a stands in it twice"),
        (GOOD.replace("[3]", "[]"), r"layer=\[\]: expected"),
        ("layer: 3\n", "is not a preset file: it lacks the key blink_preset"),
        ("", "is not a preset file"),
        ("- 1\n", "is not a preset file"),
        (GOOD.replace("blink_preset: 1", "blink_preset: 2"), "blink_preset=2: expected one of 1"),
        (GOOD.replace("tau_exp: 0.4\n", ""), "is damaged: it lacks tau_exp"),
        (GOOD.replace("0.4", "1.4"), r"tau_exp=1.4: expected a number in \[0, 1\]"),
        (GOOD.replace("[3]", "x"), "layer='x': expected a list of whole numbers"),
        (GOOD + "layers: [3]\n", "has the unknown key layers; expected .*layer"),
    ],
)
def test_damaged_and_foreign_files(content: str, message: str, tmp_path: Path) -> None:
    """Would catch a traceback, or half a preset that is taken for a whole one."""
    path = tmp_path / "preset.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        read_preset(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_that_is_missing_or_no_text(tmp_path: Path) -> None:
    """Would catch a wrong name, or a picture, that shows a traceback."""
    with pytest.raises(UserError, match="is not a file"):
        read_preset(tmp_path / "no.yaml")
    (tmp_path / "picture.yaml").write_bytes(b"\x89PNG\xff\xfe\x00")
    with pytest.raises(UserError, match=r"picture\.yaml is not"):
        read_preset(tmp_path / "picture.yaml")


def test_what_the_user_gives_wins(file: Path) -> None:
    """Would catch a preset that overrides an override, or a default that overrides the preset."""
    overrides = [f"preset={file}", "tau_exp=0.6", "patches=2"]
    config = with_preset(composed("eval", *overrides), overrides)
    assert (config.tau_exp, config.patches) == (0.6, 2)
    assert (list(config.layer), config.tau_drop, config.positions) == ([3, 4], 0.2, "region")
    assert config.method.name == "interp"
    sources = preset_sources(preset_of(config), config, overrides)
    assert sources == dict.fromkeys(("layers", "tau_drop", "positions", "selector"), f"preset {file}")
    overrides.append("method=vanilla")
    assert with_preset(composed("eval", *overrides), overrides).method.name == "vanilla"


def test_each_command_takes_what_it_has(file: Path) -> None:
    """Would catch a preset that a command refuses, or that overwrites a group of settings with a text."""
    write_preset(
        file, SETTINGS | {"token_sr": "m"}, method="blink", note="n", backbone="b", beats_vanilla=True
    )
    training = with_preset(composed("train", f"preset={file}"), [f"preset={file}"])
    assert list(training.layer) == [3, 4]
    assert plain(training)["token_sr"]["kind"] == "conv"
    given = [f"preset={file}", "figure=redistribution"]
    drawing = with_preset(composed("analyze", *given), given)
    assert (drawing.figure.layer, drawing.patches, drawing.positions) == (3, 3, "region")
    assert drawing.token_sr == "m"
    explaining = with_preset(composed("explain", f"preset={file}"), [f"preset={file}"])
    assert (explaining.method.name, list(explaining.layer)) == ("blink", [3, 4])


def test_a_method_that_does_not_exist(file: Path) -> None:
    """Would catch a preset of a newer version that runs as another method."""
    write_preset(file, SETTINGS, method="wink", note="n")
    with pytest.raises(UserError, match=r"method='wink': expected one of blink, .*vanilla"):
        with_preset(composed("eval", f"preset={file}"), [f"preset={file}"])


def test_the_recommended_preset_ships_with_its_backbone() -> None:
    """Would catch a preset that was chosen for another backbone, and one that nobody would recommend."""
    config = composed("eval", "preset=recommended")
    found = preset_of(config)
    assert found is not None
    assert (found.backbone, found.beats_vanilla, found.warnings("tiny")) == ("tiny", True, [])
    taken = plain(with_preset(config, ["preset=recommended"]))
    assert (taken["layer"], taken["positions"]) == (found.settings["layer"], found.settings["positions"])
    assert taken["method"]["name"] == found.method
    with pytest.raises(
        UserError, match=r"preset=recommended: none ships for the backbone llava-hf/.*blink\.tune"
    ):
        preset_of(composed("eval", "preset=recommended", "model=llava15_7b"))


def test_a_backbone_that_ships_is_known_by_its_folder_and_its_weights(tmp_path: Path) -> None:
    """Would catch the shipped backbone taken for a foreign one where it is named by its path, and a changed one for it."""
    for named in (TINY, f"{TINY}/../tiny/", shutil.copytree(TINY, tmp_path / "copy")):
        given = ["preset=recommended", f"model.path={named}"]
        found = preset_of(with_preset(composed("eval", *given), given))
        assert found is not None
        assert found.warnings(str(named)) == []
    own = tmp_path / "own.yaml"
    write_preset(own, SETTINGS, method="interp", note="n", backbone=str(TINY))
    assert read_preset(own).warnings("tiny") == read_preset(own).warnings(str(tmp_path / "copy")) == []
    weights = tmp_path / "copy" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match="none ships for the backbone"):
        preset_of(composed("eval", "preset=recommended", f"model.path={tmp_path / 'copy'}"))
    assert "was chosen for the backbone" in read_preset(own).warnings(str(tmp_path / "copy"))[0]
