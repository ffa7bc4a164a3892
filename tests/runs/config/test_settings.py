"""A composed config as a whole: groups, keys, and values that belong to another option."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, open_dict

from blink.runs.config.groups import CONF_DIR
from blink.runs.config.settings import Keys, check_settings
from blink.runs.values import UserError


def composed(command: str, **changes: Any) -> Any:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = compose(command)
    with open_dict(config):
        for key, value in changes.items():
            OmegaConf.update(config, key.replace("__", "."), value, merge=False)
    return config


@pytest.mark.parametrize("command", ["train", "eval", "analyze", "explain", "score"])
def test_defaults_pass(command: str) -> None:
    """Would catch a command that refuses its own defaults."""
    check_settings(command, composed(command), [])


@pytest.mark.parametrize(
    ("command", "changes", "message"),
    [
        ("eval", {"model": 5}, "model=5: expected keys below it"),
        ("eval", {"engine": None}, "engine=None: expected keys below it"),
        ("train", {"optimizer": []}, r"optimizer=\[\]: expected keys below it"),
        ("eval", {"bench": {"name": "pope"}}, "bench.splits is missing"),
        (
            "analyze",
            {"figure__name": "other"},
            "figure.name='other': no option of figure has that; choose figure=",
        ),
        ("eval", {"method__trained": False}, "method.name='blink', .*no option of method has that"),
        (
            "eval",
            {"method": {"name": "zoom", "scans": True, "trained": False, "source": "encode", "passes": 1}},
            "method.passes=1: no option",
        ),
        (
            "eval",
            {"method": {"name": "encode", "scans": True, "trained": False, "source": "coarse"}},
            "method.source='coarse': no",
        ),
        ("eval", {"bench__name": "gqa"}, "unknown key 'bench.splits': bench=gqa has no such key"),
        ("eval", {"logger": {"_target_": 1}}, "logger._target_=1: expected a text"),
        ("score", {"outputs": ""}, "outputs='': expected a path"),
        ("eval", {"outputs": "a\0b"}, "outputs=.*: expected a path"),
        ("eval", {"fresh": "maybe"}, "fresh='maybe': expected true or false"),
    ],
)
def test_what_does_not_fit_is_named(command: str, changes: dict[str, Any], message: str) -> None:
    """Would catch a value in place of a group, a key that is gone, and one option's name over another one's keys."""
    with pytest.raises(UserError, match=message):
        check_settings(command, composed(command, **changes), [])


def test_keys_that_a_user_took_away_are_named() -> None:
    """Would catch a KeyError for `~optimizer.warmup`, and a TypeError for `optimizer=5`."""
    keys = Keys({"optimizer": {"rate": 1.0}, "objective": 5})
    assert keys.below("optimizer")["rate"] == 1.0
    with pytest.raises(UserError, match=r"^optimizer\.warmup is missing"):
        keys.below("optimizer")["warmup"]
    with pytest.raises(UserError, match=r"^objective=5: expected keys below it, as in objective\.KEY=VALUE"):
        keys.below("objective")
    with pytest.raises(UserError, match=r"^nothing is missing"):
        keys.below("nothing")


def test_a_key_that_was_removed_is_named() -> None:
    """Would catch a KeyError for a key that a user took out with ~."""
    config = composed("eval")
    with open_dict(config):
        del config["scenes"]["split"]
    with pytest.raises(UserError, match=r"scenes.split is missing"):
        check_settings("eval", config, [])


def test_added_keys_are_refused() -> None:
    """Catches +key=value overrides that Hydra accepts and nothing reads."""
    config = composed("train")
    check_settings("train", config, ["layer=12", "+trainer.limit_val_batches=2"])
    with pytest.raises(ValueError, match="unknown key 'lr'"):
        check_settings("train", config, ["layer=12", "+lr=1"])
    with pytest.raises(ValueError, match=r"unknown key 'logger\.name'"):
        check_settings("train", config, ["+logger.name=x"])


@pytest.mark.parametrize(
    ("command", "overrides", "message"),
    [
        (
            "train",
            "layer=1,2 optimizer.learning_rate=1e-4,abc",
            "optimizer.learning_rate='abc': expected a number",
        ),
        ("train", "layer=1,99", "layer=99: .* has layers 0 to 3"),
        ("train", "layer=1 data.root=pictures,nowhere", "data.root: nowhere does not exist"),
        ("train", "layer=1 seed=1,2 +trainer.colour=red", "trainer: .*colour"),
        (
            "train",
            "layer=1 token_sr.kernels=[3,3,3],[4,4,4] hydra/launcher=joblib",
            "only odd sizes keep the grid",
        ),
        ("train", "layer=1 seed=1,x hydra/launcher=submitit_slurm", "seed='x': expected a whole number"),
        ("tune", "scenes.images=2 trials=1,0", "trials=0: expected a whole number"),
        ("tune", "scenes.images=2 trials=1 space.patches=[2],[9]", "space.patches=9 does not fit"),
        ("analyze", "scenes.images=1 samples=1,0", "samples=0: expected a whole number"),
        ("analyze", "scenes.images=1 figure=attention_ratio,layer_range", "figure.runs must be given"),
        (
            "explain",
            "question=Red? layer=1 method=encode image=pictures/00.png,nowhere.png",
            "image=nowhere.png is not a file",
        ),
    ],
)
def test_no_job_begins_before_all_are_checked(
    command: str,
    overrides: str,
    message: str,
    llava_folder: Path,
    pictures: Path,
    in_empty_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Would catch a mistake in the last job that shows only once those before it are done, hours later."""
    Path("pictures").symlink_to(pictures)
    more = ["logger=none", "images=4"] if command == "train" else []
    given = [f"model.path={llava_folder}", *more, *overrides.split(), "--multirun"]
    monkeypatch.setattr(sys, "argv", [f"blink.{command}", *given])
    with pytest.raises(SystemExit, match=f"^error: .*{message}") as ended:
        importlib.import_module(f"blink.{command}").main()
    assert ended.value.code == 2
    assert not Path("outputs").exists()
