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
    """Inside, texts of configs are parsed once, and lists of them merged once."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from omegaconf import OmegaConf

    parse, merge = OmegaConf.load, ConfigLoaderImpl._compose_config_from_defaults_list
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

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(OmegaConf, "load", staticmethod(load))
        patched.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", compose)
        yield
