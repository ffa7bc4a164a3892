"""The Hydra commands: where their configs are, what they do beside `hydra.main`, and mistakes in one line.

Hydra refuses a misspelt key by itself, but in five lines, without the key that was meant, and in a multirun only once
the job begins that has it. So names are checked before it; values are left to Hydra and to the checks that follow.
Knows nothing of models or training, and imports neither torch nor Lightning.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import hydra
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, OverrideType
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from blink.runs.files import place_error
from blink.runs.folder import given_folder, run_name
from blink.runs.lock import lock_scope
from blink.runs.machine import default_dtype
from blink.runs.signals import Stopped, ending_on_signals
from blink.runs.values import UserError, is_whole, text

T = TypeVar("T")

_PACKAGE = Path(__file__).resolve().parents[1]
CONF_DIR = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parents[1] / "conf"
"""The Hydra configs: inside the package in a wheel, beside `src/` in a source checkout."""


FAILURE, MISTAKE = 1, 2
"""Exit codes of commands that end with one line: because of something outside, or of what the user gave."""


_SEARCH_PATH = "hydra.searchpath"
"""Hydra's key for folders of configs beside `CONF_DIR`."""

OmegaConf.register_new_resolver("blink_run_name", run_name, use_cache=True, replace=True)
"""`${blink_run_name:${hydra.overrides.task}}` in a config: the name of a run or of a whole sweep.

Cached, so that the jobs of a multirun see the name of the whole sweep, as Hydra does for `${now:}`.
"""


OmegaConf.register_new_resolver("blink_dtype", default_dtype, use_cache=True, replace=True)
"""`${blink_dtype:}` in a config: the floating-point type that this machine computes in hardware."""


def hydra_command(name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Make a function of a composed config a command: `hydra.main`, with names of keys checked before, and `one_line_errors`.

    Heavy imports belong inside that function: `--help`, `--cfg` and tab completion do not call it.

    Args:
        name: of the config in `conf/`, "train" for instance.
    """

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], None]:
        @wraps(task)
        def job(config: DictConfig) -> Any:
            given = given_folder(HydraConfig.get())
            try:
                with one_line_errors(), lock_scope():
                    return task(config)
            except Stopped as stopped:
                if HydraConfig.get().mode == RunMode.MULTIRUN:
                    before = f"{stopped.reached}, " if stopped.reached else ""
                    stopped.reached = f"{before}in job {HydraConfig.get().job.num + 1} of the multirun"
                raise
            finally:
                if given is not None:
                    with suppress(
                        OSError
                    ):  # Hydra made it before anything was checked: nothing stays there empty
                        given.rmdir()

        run = hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=name)(job)

        @wraps(task)
        def command() -> None:
            sys.argv[1:] = _multirun_last(sys.argv[1:])
            given = get_args(sys.argv[1:])  # parsed as Hydra will parse them
            if given.shell_completion:
                _name_console_script(name)
            elif not (given.config_path or given.config_name or given.config_dir):  # of our config only
                with one_line_errors():
                    check_hydra_folders(given.overrides)
                    check_keys(name, given.overrides)
                    if not given.multirun:
                        check_composition(name, given.overrides)
            with ending_on_signals(), lock_scope():
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
    """The arguments with the flag of a multirun behind all overrides: Hydra's parser takes no overrides on both sides."""
    flags = ("-m", "--multirun")
    return sorted(arguments, key=lambda argument: argument in flags)


class Ended(SystemExit):
    """Ends the process with an exit code; its one line is on stderr already, and its text here."""

    def __init__(self, line: str, code: int) -> None:
        super().__init__(line)
        self.code = code


def end(line: str, code: int = MISTAKE) -> NoReturn:
    """Say one line on stderr and end the process.

    Raises:
        Ended: always; it is a SystemExit.
    """
    line = " ".join(line.split())
    with suppress(OSError, ValueError):  # stderr in a file on the full disk, or closed
        print(line, file=sys.stderr, flush=True)
    raise Ended(line, code)


@contextmanager
def one_line_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turn a user's mistake (UserError, or a config that does not resolve) into one line and exit code 2.

    A place that cannot be written or read (`place_error`: a full disk, no permission) is one line and exit code 1.
    Whatever else is raised, a ValueError included, is a bug or a failing machine and keeps its traceback. With Hydra's
    own switch HYDRA_FULL_ERROR=1 the traceback is shown in any case.

    Args:
        kinds: exception types that are reported in one line, too, with exit code 1.
    """
    caught: tuple[type[Exception], ...] = (UserError, OmegaConfBaseException, *kinds)
    try:
        yield
    except caught as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        end(f"error: {error}", FAILURE if isinstance(error, kinds) else MISTAKE)
    except OSError as error:
        place = place_error(error)
        if place is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        end(f"error: {place}", FAILURE)


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


def reject_added_keys(overrides: Sequence[str], *, open_groups: Sequence[str] = ()) -> None:
    """Refuse `+key=value` overrides, which Hydra lets in and nothing would read.

    Args:
        open_groups: first parts of keys whose additions are passed on and checked elsewhere.

    Raises:
        ValueError: an override adds a key outside `open_groups`.
    """
    for override in overrides:
        key = override.partition("=")[0].lstrip("+").partition("@")[0]
        if override.startswith("+") and key.partition(".")[0] not in open_groups:
            raise UserError(f"unknown key {key!r} in override {override!r}; --help lists the keys")


def check_hydra_folders(overrides: Sequence[str]) -> None:
    """Check Hydra's own keys that name folders, which Hydra takes as they come: null would make a folder "None".

    Raises:
        UserError: the value of one is no text; a subdir may be a number.
    """
    for override in _parsed(overrides):
        key, value = override.key_or_group, override.value()
        number = key == "hydra.sweep.subdir" and is_whole(value)
        if key in ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir") and not number:
            text(key, getattr(value, "text", value))


def check_keys(command: str, overrides: Sequence[str]) -> None:
    """Check that overrides name keys of a command's config, and options of its groups.

    Keys that are added (`+key`) or removed (`~key`), and Hydra's own, are skipped.

    Raises:
        ValueError: an override names an unknown key or option; the message suggests close ones.
    """
    parsed = _parsed(overrides)
    named = [
        override
        for override in parsed
        if override.type is OverrideType.CHANGE and not override.key_or_group.startswith(("hydra.", "hydra/"))
    ]
    if not named:
        return  # composing takes longer than the rest of a start
    searched = [override for override in parsed if override.key_or_group == _SEARCH_PATH]
    groups = {group: _options(group, searched) for group in _groups(command)}
    chosen = [str(override.input_line) for override in searched]
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
            raise UserError(f"unknown key {override.key_or_group!r}{close}; --help lists the keys")


def check_composition(command: str, overrides: Sequence[str]) -> None:
    """Compose a command's config as Hydra will, whose own words for what it refuses take several lines.

    Raises:
        UserError: it refuses; in its words.
    """
    ours = [
        str(override.input_line)
        for override in _parsed(overrides)
        if not override.key_or_group.startswith(("hydra.", "hydra/")) or override.key_or_group == _SEARCH_PATH
    ]
    if ours:
        try:
            _composed(command, ours)
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(str(error)) from error


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


def _check_choices(override: Override, options: Sequence[str]) -> list[str]:
    """Check the options that a group's override names; return one that chooses the first of them.

    Raises:
        ValueError: one of the named options does not exist.
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
    return [f"{group}={name}" for name in names[:1]]


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


def _options(group: str, searched: Sequence[Override] = ()) -> list[str]:
    """The options of a group: ours, and those in the folders that overrides of `hydra.searchpath` name."""
    places = [place for override in searched for place in _listed(override.value())]
    folders = [CONF_DIR, *(Path(place.removeprefix("file://")) for place in places)]
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})


def _listed(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [str(getattr(each, "text", each)) for each in values]
