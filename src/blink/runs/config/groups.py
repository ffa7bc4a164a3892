"""Where the configs lie, their groups and options, and what stands for `${blink_...:}` in them."""

import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from blink.runs.machine import default_dtype
from blink.runs.names import run_name

_PACKAGE = Path(__file__).resolve().parents[2]
CONF_DIR = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parents[1] / "conf"
"""The Hydra configs: inside the package in a wheel, beside `src/` in a source checkout."""

SEVERAL = {("train", "callbacks"), ("tune", "bench")}
"""Commands and those of their groups of which several options may be chosen; Hydra puts these on top of each other."""


@cache
def groups_of(command: str) -> Mapping[str, str | None]:
    """The groups in a config's defaults list, each with the option that is chosen; None: none is. Read once."""
    defaults: Any = OmegaConf.to_container(OmegaConf.load(CONF_DIR / f"{command}.yaml").defaults)
    entries = {key: option for entry in defaults if isinstance(entry, dict) for key, option in entry.items()}
    return {
        key.removeprefix("optional "): option
        for key, option in entries.items()
        if not key.startswith("override ")
    }


def options_of(group: str, searched: Sequence[Override] = ()) -> list[str]:
    """The options of a group: ours, and those in the folders that overrides of `hydra.searchpath` name."""
    return sorted(
        {path.stem for folder in config_folders(searched) for path in (folder / group).glob("*.yaml")}
    )


def config_folders(searched: Sequence[Override]) -> list[Path]:
    """Folders of configs: ours first, then those that overrides of `hydra.searchpath` name."""
    places = [place for override in searched for place in listed(override.value())]
    return [CONF_DIR, *(Path(place.removeprefix("file://")) for place in places)]


def keys_of_option(group: str, name: str) -> dict[str, Any]:
    """The keys of one option of a group, as plain containers, interpolations resolved."""
    keys: Any = OmegaConf.to_container(OmegaConf.load(CONF_DIR / group / f"{name}.yaml"), resolve=True)
    return dict(keys)


def listed(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [str(getattr(each, "text", each)) for each in values]


def group_list(command: str) -> str:
    """Return the config groups that a command takes with their options, one group a line, for its `--help`."""
    return "".join(f"{group}: {', '.join(options_of(group))}\n" for group in sorted(groups_of(command)))


OmegaConf.register_new_resolver("blink_groups", group_list, replace=True)
"""`${blink_groups:eval}` in a help text. Hydra's own `$APP_CONFIG_GROUPS` names the groups of all commands."""


OmegaConf.register_new_resolver("blink_dtype", default_dtype, use_cache=True, replace=True)
"""`${blink_dtype:}` in a config: the floating-point type that this machine computes in hardware."""


OmegaConf.register_new_resolver("blink_run_name", run_name, use_cache=True, replace=True)
"""`${blink_run_name:${hydra.overrides.task}}` in a config: the name of a run or of a whole sweep.

Cached, so that the jobs of a multirun see the name of the whole sweep, as Hydra does for `${now:}`.
"""


def as_typed(text: str) -> str:
    """A text whose commands read as the user has typed this one: `blink-eval`, or `python -m blink.eval`."""
    script = Path(sys.argv[0]).name.startswith("blink-")
    return re.sub(r"python -m blink\.(\w+)(?![\w.])", r"blink-\1", text) if script else text


OmegaConf.register_new_resolver("blink_typed", as_typed, replace=True)
"""`${blink_typed:...}` in a help text: its commands as the user has typed this one."""
