"""A composed config as a whole: groups, keys, and values that belong to another option."""

from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, open_dict

from blink.runs.overrides import CONF_DIR
from blink.runs.settings import check_settings
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
    check_settings(command, composed(command))


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
        check_settings(command, composed(command, **changes))


def test_a_key_that_was_removed_is_named() -> None:
    """Would catch a KeyError for a key that a user took out with ~."""
    config = composed("eval")
    with open_dict(config):
        del config["scenes"]["split"]
    with pytest.raises(UserError, match=r"scenes.split is missing"):
        check_settings("eval", config)
