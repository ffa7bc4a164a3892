"""One line for a misspelt key, with the keys that were perhaps meant, before Hydra answers in three.

Looks at the keys and groups of a command's overrides, not at their values, and composes the config for it. What is
not a matter of names is left to Hydra and to the checks that follow. Knows nothing of models or training.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf

from blink.outputs import CONF_DIR, one_line_errors

_OTHER_CONFIGS = ("--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd")
"""Options of Hydra with which the command's own config is not the one that counts."""


def check_command_line(command: str) -> None:
    """Stop with one line and exit code 1 if an override of this process's command line names no key.

    Args:
        command: name of its config, "train" for instance.
    """
    arguments = sys.argv[1:]
    if any(argument.partition("=")[0] in _OTHER_CONFIGS for argument in arguments):
        return
    with one_line_errors():
        check_keys(command, [argument for argument in arguments if not argument.startswith("-")])


def check_keys(command: str, overrides: Sequence[str]) -> None:
    """Check that overrides name keys of a command's config, and options of its groups.

    Keys that are added (`+key`) or removed (`~key`), and Hydra's own, are not looked at.

    Raises:
        ValueError: an override names none; says which are close.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException:
        return  # not an override at all; Hydra says where it stops making sense
    named = [
        each for each in parsed if each.type.name == "CHANGE" and not each.key_or_group.startswith("hydra.")
    ]
    groups = {group: _options(group) for group in _groups()}
    chosen = []
    for override in named:
        if override.key_or_group in groups:
            chosen += _check_choices(override, groups[override.key_or_group])
    keys = set(_keys(_composed(command, chosen)))
    for override in named:
        key = override.key_or_group
        if key not in keys and key not in groups and not any(key == known.partition("@")[0] for known in groups):
            raise ValueError(f"unknown key {key!r}{_meant(key, [*keys, *groups])}; --help lists the keys")


def _check_choices(override: Override, options: Sequence[str]) -> list[str]:
    """The override of a group with the first option it names, so that it can be composed; none if it names none.

    Raises:
        ValueError: one of the named options does not exist.
    """
    values = override.sweep_iterator() if override.is_sweep_override() else [override.value()]
    names = [value for value in values if isinstance(value, str)]
    for name in names:
        if name not in options:
            raise ValueError(
                f"{override.key_or_group}={name}: there is no such option{_meant(name, options)}; "
                f"choose one of {', '.join(options)}"
            )
    return [f"{override.key_or_group}={name}" for name in names[:1]]


def _meant(given: str, known: Sequence[str]) -> str:
    """Words that name the closest of the known names, the last parts of dotted ones included; nothing if none is."""
    by_ending: dict[str, str] = {name.rpartition(".")[2]: name for name in sorted(known, reverse=True)}
    close = get_close_matches(given, known, n=3, cutoff=0.6)
    close += [by_ending[name] for name in get_close_matches(given.rpartition(".")[2], by_ending, n=3, cutoff=0.75)]
    close = list(dict.fromkeys(close))[:3]
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def _composed(command: str, overrides: Sequence[str]) -> Mapping[str, Any]:
    """A command's config as plain containers, with some groups chosen; values that it interpolates stay as written."""
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            composed: Any = OmegaConf.to_container(compose(command, list(overrides)), resolve=False)
    finally:
        GlobalHydra.instance().hydra = before
    return composed


def _keys(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Every key of nested mappings, dotted."""
    for key, value in config.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{key}.")


def _groups() -> list[str]:
    return sorted(entry.name for entry in os.scandir(CONF_DIR) if entry.is_dir() and entry.name != "hydra")


def _options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml"))
