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
from typing import Any, NoReturn

import hydra
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, OverrideType
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from blink.runs.files import place_error
from blink.runs.folder import given_folder, run_name
from blink.runs.lock import lock_scope
from blink.runs.machine import default_dtype
from blink.runs.signals import Stopped, ending_on_signals
from blink.runs.values import UserError, is_whole, text

_PACKAGE = Path(__file__).resolve().parents[1]
CONF_DIR = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parents[1] / "conf"
"""The Hydra configs: inside the package in a wheel, beside `src/` in a source checkout."""


FAILURE, MISTAKE = 1, 2
"""Exit codes of commands that end with one line: because of something outside, or of what the user gave."""


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
        MissingMandatoryValue: one of them is not.
    """
    container: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=complete)
    return container


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
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException:
        return  # not an override; Hydra reports where parsing fails
    for override in parsed:
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
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException:
        return  # not an override; Hydra reports where parsing fails
    named = [
        override
        for override in parsed
        if override.type is OverrideType.CHANGE and not override.key_or_group.startswith(("hydra.", "hydra/"))
    ]
    if not named:
        return  # composing takes longer than the rest of a start
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
            raise UserError(f"unknown key {override.key_or_group!r}{close}; --help lists the keys")


def _check_choices(override: Override, options: Sequence[str]) -> list[str]:
    """Check the options that a group's override names; return one that chooses the first of them, or nothing if it names none.

    Raises:
        ValueError: one of the named options does not exist.
    """
    value = override.value()
    values = value.list if isinstance(value, ChoiceSweep) else [value]
    names = [value for value in values if isinstance(value, str)]
    for name in names:
        if name not in options:
            raise UserError(
                f"{override.key_or_group}={name}: there is no such option{_meant(name, options)}; "
                f"choose one of {', '.join(options)}"
            )
    return [f"{override.key_or_group}={name}" for name in names[:1]]


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


def _options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml"))
