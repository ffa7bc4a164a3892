"""Commands run in this process on a config that was changed after it was composed, up to the first heavy work.

What Hydra does with an override of the command line is left out, so that a thousand configs take seconds.
"""

import copy
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from blink.evaluation.planning import checkpoint
from blink.runs.command import Ended
from blink.runs.config.groups import CONF_DIR
from blink.training.parts import modules

HEAVY = "heavy work"
"""Outcome of a config with which a backbone's weights would be read."""

FINISHED = "finished"
"""Outcome of a config with which nothing heavy was to do."""


class HeavyWork(BaseException):
    """Raised in place of reading weights, or of asking a server or the hub."""


def refuse_heavy_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no command read a backbone's weights, ask a server, or upload to the hub."""

    def heavy(*_: Any, **__: Any) -> None:
        raise HeavyWork

    for module in (checkpoint, modules):
        monkeypatch.setattr(module, "load_backbone", heavy)
    monkeypatch.setattr("blink.integrations.hub.upload.HfApi", heavy)
    monkeypatch.setattr("openai.OpenAI", heavy)


def composed(command: str, overrides: Sequence[str]) -> dict[str, Any]:
    """A command's config as plain containers, interpolations as they are written. Hydra's own part is set for `outcome`."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = compose(command, list(overrides), return_hydra_config=True)
    with open_dict(config):
        config.hydra.runtime.cwd = str(Path.cwd())
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    container: Any = OmegaConf.to_container(config, resolve=False)
    return container


def outcome(command: str, config: Mapping[str, Any]) -> str:
    """What a command makes of a config: `HEAVY`, `FINISHED`, or the one line that it ends with.

    Raises:
        AssertionError: it ends in another way: with an exception, more than one line, or an exit code that is not 2.
    """
    ours = OmegaConf.create(copy.deepcopy(dict(config)))
    OmegaConf.set_struct(ours, True)
    job: Callable[[DictConfig], Any] = importlib.import_module(f"blink.{command}").main.__wrapped__
    try:
        job(ours)
    except Ended as ended:
        code, line = ended.code, str(ended)
    except HeavyWork:
        return HEAVY
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error}") from error
    else:
        return FINISHED
    assert code == 2, line
    assert "\n" not in line
    assert len(line) > 10
    return line


def dotted(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Every key of a config, groups included."""
    for key, value in config.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from dotted(value, f"{prefix}{key}.")


def changed(config: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy of a config with another value of a key."""
    result = copy.deepcopy(dict(config))
    *groups, last = key.split(".")
    part = result
    for group in groups:
        part = part[group]
    part[last] = value
    return result
