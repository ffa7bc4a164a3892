"""The composed config of a command: checked before any value of it is used, as plain containers, and what its parts describe.

Checked is what all commands have in common: groups and parts have keys below them, none is missing, and no option's values
are mixed with another's. Single values are for the checks of each command. The same of the jobs of a multirun, before any
of them begins.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from blink.runs.config.groups import CONF_DIR, SEVERAL, groups_of, options_of
from blink.runs.files import place_error
from blink.runs.values import UserError, flag, path, text

T = TypeVar("T")

_FIXED = {
    "bench": ("name",),
    "figure": ("name",),
    "judge": ("kind",),
    "method": ("name", "scans", "trained", "source", "passes"),
}
"""Group -> keys that say which of its options is chosen: by another value a result would name what it is not of."""

_SWEEPERS = ("BasicSweeper", "RowSweeper")

_ADDED_TO = {"train": ("callbacks", "trainer")}
"""Command -> groups to which keys may be added by `+`: they are passed on, and checked there."""

_OPEN = ("callbacks", "logger", "trainer")
"""Groups whose keys are arguments of a class; one that is removed has that class's default."""


class Keys(dict[str, Any]):
    """A part of a composed config as plain containers, in which a missing key is a user's mistake.

    Args:
        values: key -> value.
        name: of the part, as the user writes it: "optimizer"; empty for the whole.

    Raises:
        UserError: `values` is something else, since a user gave the part a value.
    """

    def __init__(self, values: Any, name: str = "") -> None:
        if not isinstance(values, Mapping):
            raise UserError(
                f"{name}={values!r}: expected keys below it, as in {name}.KEY=VALUE; --help lists them"
            )
        super().__init__(values)
        self.name = name

    def __missing__(self, key: str) -> Any:
        raise UserError(f"{self.dotted(key)} is missing; --help lists the keys and their defaults")

    def below(self, key: str) -> "Keys":
        """Return the part below a key."""
        return Keys(self[key], self.dotted(key))

    def dotted(self, key: str) -> str:
        """Return the name of a key as the user writes it."""
        return f"{self.name}.{key}" if self.name else key


def check_settings(command: str, config: DictConfig, overrides: Sequence[str]) -> None:
    """Check of a composed config what all commands have in common, before any value of it is used.

    Args:
        overrides: that it was composed with.

    Raises:
        UserError: a key is missing or has a value in place of keys below it, a group holds a key that its option does not
            have, `outputs`, `fresh` or `wait` do not fit, or an override adds a key, which nothing would read.
    """
    settings: Any = OmegaConf.to_container(config, resolve=False)
    groups = groups_of(command)
    own = _file(CONF_DIR / f"{command}.yaml")
    _check_keys_of(Keys(settings), {key: own[key] for key in own if key not in ("defaults", "hydra")})
    for group in groups:
        if group in settings or groups[group] is not None:
            _check_group(group, Keys(settings).below(group), several=(command, group) in SEVERAL)
    if "logger" in groups:
        text("logger._target_", Keys(settings).below("logger")["_target_"], hint="")
    checks: Mapping[str, Callable[[str, Any], object]] = {"outputs": path, "fresh": flag, "wait": flag}
    for key in checks.keys() & settings.keys():
        checks[key](key, config[key])
    for override in overrides:
        key = override.partition("=")[0].lstrip("+").partition("@")[0]
        if override.startswith("+") and key.partition(".")[0] not in _ADDED_TO.get(command, ()):
            raise UserError(f"unknown key {key!r} in override {override!r}; --help lists the keys")


def plain(config: DictConfig, *, complete: bool = False) -> dict[str, Any]:
    """A composed config as plain containers, interpolations resolved.

    Args:
        complete: whether all keys marked ??? have to be given.

    Raises:
        UserError: one of them is not.
    """
    try:
        container: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=complete)
    except MissingMandatoryValue as error:
        raise UserError(
            f"{error.full_key} must be given: {error.full_key}=VALUE; --help says what it is"
        ) from error
    return container


def made(name: str, config: Mapping[str, Any], kind: type[T], /, **arguments: Any) -> T:
    """Make the object that a part of a config describes by `_target_`, as `hydra.utils.instantiate`.

    Args:
        name: of the part, as the user writes it.
        kind: what it has to be.
        arguments: that the config does not give.

    Raises:
        UserError: there is no such target, or it is of another kind, or refuses the arguments.
        OSError: it cannot write where it is to.
    """
    try:
        thing = instantiate(config, _convert_="all", **arguments)
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, OSError) and place_error(cause):
            raise cause from error
        raise UserError(f"{name}: {cause}") from error
    if not isinstance(thing, kind):
        raise UserError(
            f"{name}._target_={config.get('_target_')!r} makes a {type(thing).__name__}; expected a {kind.__name__}"
        )
    return thing


def searched_by(hydra_config: DictConfig) -> tuple[str, ...]:
    """The overrides that name folders of configs beside ours, which Hydra keeps apart from the others.

    Args:
        hydra_config: the part `hydra` of a composed config.
    """
    # not resolved: others may name a job's number
    written: Any = OmegaConf.to_container(hydra_config.overrides.hydra, resolve=False)
    return tuple(text for text in written if text.startswith("hydra.searchpath="))


def jobs_of(overrides: Sequence[str]) -> Iterator[list[str]]:
    """List the overrides of each job of a plain multirun: the product of the swept values; of one key the last counts."""
    choices = {
        override.get_key_element(): [
            f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()
        ]
        if override.is_sweep_override()
        else [override.input_line]
        for override in OverridesParser.create().parse_overrides(list(overrides))
    }
    return (list(job) for job in product(*choices.values()))


def jobs_are_known(config: DictConfig) -> bool:
    """Whether the overrides alone say which jobs there will be; sweepers that search choose them as they go."""
    target: str = config.hydra.sweeper._target_
    return target.endswith(_SWEEPERS)


def composed_job(command: str, config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Compose the config of a job of a multirun, without Hydra's own part, and check it as `check_settings` does.

    Args:
        config: of the multirun.
        overrides: of the job.
    """
    composed = hydra.compose(command, [*searched_by(config.hydra), *overrides])
    check_settings(command, composed, overrides)
    return composed


def _check_group(group: str, part: Keys, *, several: bool = False) -> None:
    """Check the keys of a group: those that all its options have are there, and no option's values are mixed with another's.

    Args:
        several: whether they may be, as several options are chosen.

    Raises:
        UserError: they do not fit; says which.
    """
    options = {option: _file(CONF_DIR / group / f"{option}.yaml") for option in options_of(group)}
    names = _FIXED.get(group, ())
    fitting = {
        option: keys
        for option, keys in options.items()
        if all(type(part[key]) is type(keys[key]) and part[key] == keys[key] for key in names if key in keys)
    }
    if not fitting:
        given = ", ".join(f"{group}.{key}={part[key]!r}" for key in names if key in part)
        raise UserError(
            f"{given}: no option of {group} has that; choose {group}={f', {group}='.join(options)}"
        )
    common = set.intersection(*(set(keys) for keys in fitting.values())) - {"defaults"}
    first = next(iter(fitting.values()))
    if group not in _OPEN:
        _check_keys_of(part, {key: first[key] for key in first if key in common})
    if names:
        known = {key for keys in (options if several else fitting).values() for key in keys}
        if unread := [f"{group}.{key}" for key in part if key not in known]:
            option = next(iter(fitting))
            raise UserError(
                f"unknown key {', '.join(map(repr, unread))}: {group}={option} has no such key; --help lists the keys"
            )


def _check_keys_of(settings: Keys, known: Mapping[str, Any]) -> None:
    """Raise UserError unless settings have all known keys, and keys below those that have keys below them."""
    for key, value in known.items():
        settings[key]  # raises where it is missing
        if isinstance(value, Mapping) and value:
            _check_keys_of(settings.below(key), value)


@lru_cache(maxsize=128)
def _file(path: Path) -> Mapping[str, Any]:
    """What a file of configs holds, as plain containers; interpolations are not resolved. Not to be changed."""
    content: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    return content
