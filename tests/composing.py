"""Hydra composes what it has composed before by copying it: most tests of commands compose the same few files, three times
a command, and each time takes longer than what they test.

What is copied is what the same texts gave before, so a test that writes a config of its own gets that one. Commands in
processes of their own (`processes.py`) compose as users' do.
"""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def composed_once() -> Iterator[None]:
    """Inside, texts of configs are parsed once, lists of them merged once, and maps made that are read."""
    from hydra._internal import defaults_list
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    parse, merge = OmegaConf.load, ConfigLoaderImpl._compose_config_from_defaults_list
    choices = defaults_list._create_interpolation_map
    parsed: dict[str, bytes] = {}
    merged: dict[str, bytes] = {}

    def load(file: Any) -> Any:
        text = file.read() if hasattr(file, "read") else Path(file).read_text(encoding="utf-8")
        if text not in parsed:
            if hasattr(file, "seek"):
                file.seek(0)
            parsed[text] = pickle.dumps(parse(file))  # the file itself: errors name it
        return pickle.loads(parsed[text])

    def compose(self: Any, defaults: Any, repo: Any) -> Any:
        parts = [repo.load_config(default.config_path) for default in defaults]
        key = repr([*defaults, *((part.provider, part.path, part.header, part.config) for part in parts)])
        if key not in merged:
            merged[key] = pickle.dumps(merge(self, defaults, repo))
        return pickle.loads(merged[key])

    def map_for_interpolations(overrides: Any, defaults: Any, self_added: bool) -> Any:
        needed = any(default.is_interpolation() for default in defaults)
        return choices(overrides, defaults, self_added) if needed else None

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ConfigStore, "__deepcopy__", lambda self, _: self, raising=False)  # it is read alone
        patched.setattr(OmegaConf, "load", staticmethod(load))
        patched.setattr(defaults_list, "_create_interpolation_map", map_for_interpolations)
        patched.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", compose)
        yield
