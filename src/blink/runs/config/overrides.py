"""Overrides of a command's config, checked before Hydra reads them: names of keys, options of groups.

Hydra refuses a misspelt key by itself, but in five lines, without the key that was meant, and in a multirun only once
the job begins that has it. So names are checked before it; values are left to Hydra and to the checks that follow.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, OverrideType
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from blink.runs.config.groups import CONF_DIR, SEVERAL, config_folders, groups_of, listed, options_of
from blink.runs.files import read_text
from blink.runs.values import UserError, is_whole, text, whole_number

_PACKAGE_LINE = re.compile(r"^#\s*@package\s+(\S+)", re.MULTILINE)

_SEARCH_PATH = "hydra.searchpath"
"""Hydra's key for folders of configs beside `CONF_DIR`."""


def check_overrides(command: str, overrides: Sequence[str], *, multirun: bool) -> None:
    """Check that overrides name keys of a command's config and options of its groups, and that Hydra can compose them.

    Keys that are added (`+key`) are left to the command.

    Args:
        multirun: whether they may sweep. Then values are not looked at: they go together in each job or they do not.

    Raises:
        UserError: an override names an unknown key or option (the message suggests close ones), or several options of a
            group that takes one, or sweeps outside a multirun, or removes a key that is not there, a value of Hydra's own
            is of a wrong kind, or Hydra refuses the whole (in its words).
    """
    parsed = _parsed(overrides)
    _check_hydra_values(parsed)
    if not parsed:
        return  # composing takes longer than the rest of a start
    ours = [override for override in parsed if not override.key_or_group.startswith(("hydra.", "hydra/"))]
    searched = [override for override in parsed if override.key_or_group == _SEARCH_PATH]
    chosen = [str(override.input_line) for override in searched]
    groups = {group: options_of(group, searched) for group in groups_of(command)}
    changed = [override for override in ours if override.type is OverrideType.CHANGE]
    removed = [override for override in ours if override.type is OverrideType.DEL]
    _check_form(ours, groups)
    for override in changed:
        if override.key_or_group in groups:
            several = (command, override.key_or_group) in SEVERAL
            named = _check_choices(override, groups[override.key_or_group], several=several)
            _check_package(override.key_or_group, named, searched)
            chosen += named
    refused = None
    whole = [str(override.input_line) for override in parsed]
    hydras = [str(each.input_line) for each in parsed if each not in ours and not each.is_sweep_override()]
    try:
        _composed(command, [*chosen, *hydras] if multirun else whole)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        refused = error
    if multirun or refused is not None:
        _check_keys(command, changed, removed, chosen, groups)
    if refused is not None:
        if not multirun:
            _check_no_sweep(parsed, groups)
        raise UserError(_in_words(refused, parsed)) from refused


def _check_no_sweep(overrides: Sequence[Override], groups: Collection[str]) -> None:
    """Raise UserError where an override sweeps, outside a multirun."""
    for override in overrides:
        if override.is_sweep_override():
            line, value = str(override.input_line), override.value()
            key, _, text_given = line.partition("=")
            plainly = isinstance(value, ChoiceSweep) and value.simple_form and "(" not in text_given
            instead = f"; one list is {key}=[{text_given}], one text \"{key}='{text_given}'\""
            raise UserError(
                f"{line}: several values are for several runs: add --multirun"
                f"{instead if plainly and override.key_or_group not in groups else ''}"
            )


def _check_form(overrides: Sequence[Override], groups: Collection[str]) -> None:
    """Check that overrides neither add an option of a group nor put one elsewhere.

    Raises:
        UserError: one does.
    """
    for override in overrides:
        group, line = override.key_or_group, override.input_line
        if group in groups and override.package is not None:
            raise UserError(
                f"{line}: options of {group} go into {group} alone; leave @{override.package} out"
            )
        if group in groups and override.type is OverrideType.ADD:
            raise UserError(f"{line}: {group} has one option; {line.lstrip('+')} chooses another")
        if group in groups and override.type is OverrideType.DEL and override.value() is not None:
            raise UserError(f"{line}: an option is not removed; {group}=OPTION chooses another")


def _check_hydra_values(overrides: Sequence[Override]) -> None:
    """Check Hydra's own keys that it takes as they come: folders, of which null would be called "None", and the sweeper's.

    Raises:
        UserError: a folder is no text (a subdir may be a number), or it, or a folder that is to hold it, is a file; a folder
            to search is none; or a value of the sweeper is of a wrong kind.
    """
    for override in overrides:
        key, value = override.key_or_group, override.value()
        if key == "hydra.sweeper.max_batch_size" and value is not None:
            whole_number(key, value)
        if key == "hydra.sweeper.params" and not isinstance(value, dict | None):
            raise UserError(f"{override.input_line}: expected keys of the command and their values")
        if key == _SEARCH_PATH:
            for place in listed(value):
                if (
                    "://" not in place.removeprefix("file://")
                    and not Path(place.removeprefix("file://")).is_dir()
                ):
                    raise UserError(
                        f"{key}={place}: expected folders of configs, as [FOLDER], and this is none"
                    )
        number = key == "hydra.sweep.subdir" and is_whole(value)
        if key in ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir") and not number:
            given = text(key, getattr(value, "text", value))
            lies = next((path for path in (Path(given), *Path(given).parents) if path.exists()), None)
            if lies is not None and not lies.is_dir() and not key.endswith("subdir"):
                raise UserError(f"{key}={given}: {lies} is a file; expected a folder")


def _check_keys(
    command: str,
    changed: Sequence[Override],
    removed: Sequence[Override],
    chosen: Sequence[str],
    groups: Collection[str],
) -> None:
    """Check the names of keys against the config that the chosen options of groups make.

    Raises:
        UserError: one is unknown; the message suggests close ones. Or one that is removed is null already.
    """
    try:
        composed = _composed(command, chosen)
    except HydraException:
        return  # options that do not go together; Hydra says which
    keys = {*_keys(composed), *groups}
    for override in (*changed, *removed):
        if override.key_or_group not in keys:
            close = _meant(override.key_or_group, sorted(keys))
            raise UserError(f"unknown key {override.key_or_group!r}{close}; --help lists the keys")
    for override in removed:
        key = override.key_or_group
        if key not in groups and OmegaConf.select(OmegaConf.create(dict(composed)), key) is None:
            raise UserError(
                f"{override.input_line}: {key} has no value, and a key is not removed; leave this out"
            )
        if key not in groups and override.value() is not None:
            raise UserError(f"{override.input_line}: a key is not removed; {key}=VALUE changes it")


def _parsed(overrides: Sequence[str]) -> list[Override]:
    """Read overrides as Hydra will.

    Raises:
        UserError: one is none; says how to write it.
    """
    parser = OverridesParser.create()
    parsed: list[Override] = []
    for override in overrides:
        try:
            parsed += parser.parse_overrides([override])
        except HydraException as error:
            key, equals, value = override.partition("=")
            if not equals:
                raise UserError(
                    f"{override!r} is no override: write KEY=VALUE; --help lists the keys"
                ) from error
            quoted = value.replace("\\", "\\\\").replace("'", "\\'")
            raise UserError(
                f"{override!r} cannot be read as KEY=VALUE; a value with =, brackets, quotes or letters beyond "
                f"ASCII goes into two pairs of quotes: \"{key}='{quoted}'\""
            ) from error
    return parsed


def _in_words(refused: Exception, overrides: Sequence[Override]) -> str:
    """What Hydra refuses in overrides, in its words but where these only say that it does."""
    said = " ".join(str(refused).partition("Config search path")[0].split())
    for override in overrides:
        line, key = str(override.input_line), override.key_or_group
        if isinstance(override.value(), list | dict) and line in said:
            return f"{line}: expected keys below it that there are, as in {key}.KEY=VALUE; --help lists them"
        if f"'{key}'" in said and key.startswith("hydra.") and said.startswith("Could not"):
            return f"{line}: Hydra has no such key; --cfg hydra lists those that it has"
        if said == f"Error merging override {line}":
            return f"{line}: {(str(refused.__cause__).splitlines() or [said])[0]}"
    return said


def _check_choices(override: Override, options: Sequence[str], *, several: bool) -> list[str]:
    """Check the options that a group's override names; return one that chooses the first of them.

    Args:
        several: whether it may name several at once, which Hydra puts on top of each other.

    Raises:
        ValueError: one of the named options does not exist, or there are several.
    """
    group, value = override.key_or_group, override.value()
    values = value.list if isinstance(value, ChoiceSweep) else value if isinstance(value, list) else [value]
    if override.is_sweep_override() and not isinstance(value, ChoiceSweep):
        return []  # such as glob(*), which names what exists
    names = ["null" if value is None else getattr(value, "text", str(value)) for value in values]
    for name in names:
        if name not in options:
            raise UserError(
                f"{group}={name}: there is no such option{_meant(name, options)}; choose one of {', '.join(options)}"
            )
    if isinstance(value, list) and len(set(names)) > 1 and not several:
        raise UserError(
            f"{group}=[{','.join(names)}]: expected one option, since their keys would be mixed; {group}={','.join(names)} "
            "--multirun runs one after the other"
        )
    return [f"{group}={name}" for name in names[:1]]


def _check_package(group: str, named: Sequence[str], searched: Sequence[Override]) -> None:
    """Check that the user's own file of an option sets keys of its group.

    Those that it would set at the top, by `# @package _global_`, are the command's own, and these come later: they would
    count for nothing, and a preset or a default in their place.

    Args:
        named: overrides that choose an option.

    Raises:
        UserError: it is no YAML, sets others, or an experiment chooses options of other groups, which its jobs would not see.
    """
    for override in named:
        option = override.partition("=")[2]
        for file in (folder / group / f"{option}.yaml" for folder in config_folders(searched)[1:]):
            if not file.is_file():
                continue
            content = read_text(file)
            try:
                OmegaConf.load(file)
            except (YAMLError, ValueError, OSError) as cause:  # a key that stands twice among them
                what = " ".join(str(cause).split())
                raise UserError(f"{group}={option}: {file} is not YAML as expected ({what})") from cause
            header = _PACKAGE_LINE.search(content)
            if header is not None and header[1] not in ("_group_", group):
                raise UserError(
                    f"{group}={option}: {file} has the line '# @package {header[1]}': keys outside {group} would count for "
                    "nothing there; leave the line out, and give such keys as overrides"
                    + (", or in the set: of a row" if group == "experiment" else "")
                )
            if group == "experiment" and "\ndefaults:" in f"\n{content}":
                raise UserError(
                    f"{group}={option}: {file} has defaults:, which its rows would not see; a row chooses options by set:, as in "
                    "set: [method=interp]"
                )


def _meant(given: str, known: Sequence[str]) -> str:
    """Name the known names that are close to the given one, whole or in their last dotted part; empty if none is."""
    by_ending: dict[str, str] = {name.rpartition(".")[2]: name for name in sorted(known, reverse=True)}
    close = get_close_matches(given, known, n=3, cutoff=0.6)
    close += [
        by_ending[name] for name in get_close_matches(given.rpartition(".")[2], by_ending, n=3, cutoff=0.75)
    ]
    close = list(dict.fromkeys(close))[:3]
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def _composed(command: str, overrides: Sequence[str]) -> Mapping[str, Any]:
    """Compose a command's config under some overrides, as plain containers; interpolations are not resolved."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        composed: Any = OmegaConf.to_container(compose(command, list(overrides)), resolve=False)
    return composed


def _keys(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Every key of nested mappings, dotted."""
    for key, value in config.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{key}.")
