"""Commands of Hydra, with one line for a misspelt key that names those that were perhaps meant.

Hydra itself answers in three lines, after composing. Looked at are the keys and groups of overrides, not their values;
what is not a matter of names is left to Hydra and to the checks that follow. Knows nothing of models or training.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import wraps
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from blink.runs.folder import CONF_DIR, one_line_errors


def hydra_command(name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Make a function of a composed config a command, as `hydra.main` does, that checks its keys first.

    Args:
        name: of the config in `conf/`, "train" for instance.
    """

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], None]:
        run = hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=name)(task)

        @wraps(task)
        def command() -> None:
            sys.argv[1:] = _multirun_last(sys.argv[1:])
            given = get_args(sys.argv[1:])
            if given.shell_completion:
                _name_console_script(name)
            elif not (given.config_path or given.config_name or given.config_dir):
                with one_line_errors():
                    check_keys(name, given.overrides)
            run()

        return command

    return decorate


def _name_console_script(command: str) -> None:
    """Complete for `blink-eval`, however this process was started: Hydra's script for shells knows no `python -m`."""
    script = f"blink-{command}"
    if sys.argv[0].endswith(".py"):
        sys.argv[0] = script
    line = os.environ.get("COMP_LINE")
    if line is not None:
        os.environ["COMP_LINE"] = re.sub(r"^\s*\S+\s+-m\s+\S+", script, line)


def _multirun_last(arguments: Sequence[str]) -> list[str]:
    """The arguments with the flag of a multirun behind all overrides: Hydra refuses overrides on both sides of it."""
    flags = ("-m", "--multirun")
    return sorted(arguments, key=lambda argument: argument in flags)


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
    named = [each for each in parsed if each.type is OverrideType.CHANGE and not _of_hydra(each)]
    groups = {group: _options(group) for group in _groups(command)}
    chosen = []
    for override in named:
        if override.key_or_group in groups:
            chosen += _check_choices(override, groups[override.key_or_group])
    try:
        keys = {*_keys(_composed(command, chosen)), *groups}
    except HydraException:
        return  # options that do not go together; Hydra says which
    for override in named:
        if override.key_or_group not in keys:
            close = _meant(override.key_or_group, sorted(keys))
            raise ValueError(f"unknown key {override.key_or_group!r}{close}; --help lists the keys")


def _check_choices(override: Override, options: Sequence[str]) -> list[str]:
    """The override of a group with the first option it names, so that it can be composed; none if it names none.

    Raises:
        ValueError: one of the named options does not exist.
    """
    value = override.value()
    values = value.list if isinstance(value, ChoiceSweep) else [value]
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
    close += [
        by_ending[name] for name in get_close_matches(given.rpartition(".")[2], by_ending, n=3, cutoff=0.75)
    ]
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


def _of_hydra(override: Override) -> bool:
    return override.key_or_group.startswith(("hydra.", "hydra/"))


def group_list(command: str) -> str:
    """Return the config groups that a command takes with their options, one group a line, for its `--help`."""
    return "".join(f"{group}: {', '.join(_options(group))}\n" for group in sorted(_groups(command)))


OmegaConf.register_new_resolver("blink_groups", group_list, replace=True)
"""`${blink_groups:eval}` in a help text. Hydra's own `$APP_CONFIG_GROUPS` names the groups of all commands."""


def _groups(command: str) -> list[str]:
    """The groups in a config's defaults list."""
    defaults: Any = OmegaConf.to_container(OmegaConf.load(CONF_DIR / f"{command}.yaml").defaults)
    entries = (key for entry in defaults if isinstance(entry, dict) for key in entry)
    return [key.removeprefix("optional ") for key in entries if not key.startswith("override ")]


def _options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml"))
