"""Preset files: where to scan and when to act, as `blink.tune` chose it for a backbone, for `preset=FILE` of every command.

A preset file is YAML. Its values take the place of a config's defaults, and what the user gives wins over them. Layers
and thresholds are checked again where a policy is made of them.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from filecmp import cmpfiles
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf
from yaml import MappingNode, SafeLoader, YAMLError, load, safe_dump  # type: ignore[import-untyped]

from blink.runs.config.groups import CONF_DIR
from blink.runs.config.settings import plain
from blink.runs.files import read_text, short_digest, write_text
from blink.runs.values import UserError, choice, flag, number, path, text, whole_number, whole_numbers

log = logging.getLogger(__name__)

VERSION = 1
_MARK = "blink_preset"


def _layers(name: str, value: Any) -> list[int]:
    """Layers, one at least; figures that take one take the first."""
    found = whole_numbers(name, value, example="[12,14]")
    if not found:
        raise UserError(f"{name}=[]: expected a list of whole numbers, as [12,14]")
    return found


_SETTINGS: Mapping[str, Callable[[str, Any], Any]] = {
    "layer": _layers,
    "tau_exp": partial(number, least=0, most=1),
    "tau_drop": partial(number, least=0, most=1),
    "patches": partial(whole_number, least=2),
    "positions": text,
    "scale_tau": flag,
    "selector": text,
    "token_sr": text,
}
"""Key of the config -> check of its value."""

RECOMMENDED = "recommended"
"""Value of `preset` for the file that ships with a backbone."""

_ASSETS = Path(__file__).parents[2] / "assets"
"""Folder of the backbones that ship with the project."""

_REQUIRED = ("method", "layer", "tau_exp", "tau_drop")

_RECORD: Mapping[str, Callable[[str, Any], Any]] = {
    _MARK: partial(choice, choices=(VERSION,)),
    "method": text,
    "backbone": text,
    "beats_vanilla": flag,
    "note": text,
}


class _Loader(SafeLoader):
    """YAML's safe loader, which refuses a key that stands twice: PyYAML takes the last one in silence."""

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        if twice := [str(name) for number, name in enumerate(names) if name in names[:number]]:
            raise YAMLError(f"the key {twice[0]} stands in it twice")
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


class PresetFile(NamedTuple):
    """What a preset file holds.

    Attributes:
        path: of the file.
        settings: key of the config -> value.
        method: option of the group `method`.
        backbone: path or hub id of the one that it was chosen for; None if it does not say.
        beats_vanilla: whether it was better than the backbone as it is by more than noise; None if it does not say.
        note: why it was chosen, in words; empty if it does not say.
        digest: hash of the file.
    """

    path: Path
    settings: dict[str, Any]
    method: str
    backbone: str | None
    beats_vanilla: bool | None
    note: str
    digest: str

    def warnings(self, backbone: str) -> list[str]:
        """What a reader of results under this preset on a backbone should know."""
        found = []
        if self.beats_vanilla is False:
            found.append(
                f"preset={self.path}: nothing that blink.tune tried beat the backbone as it is by more than noise; this is "
                "the least harmful setting, and method=vanilla is recommended"
            )
        if self.backbone is not None and not _same_backbone(self.backbone, backbone):
            found.append(
                f"preset={self.path} was chosen for the backbone {self.backbone}, and this one is {backbone}: layers and "
                "thresholds do not carry over"
            )
        return found


def write_preset(file: Path, settings: Mapping[str, Any], *, method: str, note: str, **record: Any) -> None:
    """Write a preset file that `read_preset` reads.

    Args:
        settings: keys of the config; those that are None are left out.
        record: `backbone` and `beats_vanilla`.
    """
    given = {key: value for key, value in settings.items() if value is not None}
    values = {_MARK: VERSION, "method": method, **given, **record, "note": note}
    write_text(file, safe_dump(values, sort_keys=False, allow_unicode=True, width=110))
    read_preset(file)


def read_preset(file: Path) -> PresetFile:
    """Read a preset file.

    Raises:
        UserError: it cannot be read, is no preset file, or a value does not fit; names the file.
    """
    if not file.is_file():
        raise UserError(f"preset={file} is not a file; `python -m blink.tune` writes one")
    content = read_text(file)
    try:
        found = load(content, _Loader)
    except (YAMLError, ValueError, RecursionError) as cause:  # such as of a date that no month has
        raise UserError(
            f"preset={file} is damaged: it is not YAML as expected ({' '.join(str(cause).split())})"
        ) from cause
    if not isinstance(found, dict) or _MARK not in found:
        raise UserError(
            f"preset={file} is not a preset file: it lacks the key {_MARK}; `python -m blink.tune` writes one"
        )
    known = {**_SETTINGS, **_RECORD}
    if unknown := [str(key) for key in found if key not in known]:
        raise UserError(
            f"preset={file} has the unknown key {', '.join(unknown)}; expected {', '.join(known)}"
        )
    if lacking := [key for key in _REQUIRED if key not in found]:
        raise UserError(f"preset={file} is damaged: it lacks {', '.join(lacking)}")
    try:
        values = {key: known[key](key, value) for key, value in found.items()}
    except UserError as cause:
        raise UserError(f"preset={file}: {cause}") from cause
    return PresetFile(
        file,
        {key: values[key] for key in _SETTINGS if key in values},
        values["method"],
        values.get("backbone"),
        values.get("beats_vanilla"),
        values.get("note", ""),
        short_digest(content),
    )


def with_preset(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Return a config in which the values of its preset file, if it names one, stand where the user gave none.

    Keys that the config does not have are left out, and of a training that scans under no policy those of the policy; of
    figures that take one layer, `figure.layer` is the first one.

    Args:
        overrides: of the command, which win.

    Raises:
        UserError: as `read_preset` does, or it is of a method that does not exist.
    """
    if config.get("preset") is None:
        return config
    found = read_preset(file_of(config))
    given = {override.partition("=")[0].lstrip("+~") for override in overrides}
    config = config.copy()
    OmegaConf.set_readonly(config, False)
    taken: Any = OmegaConf.to_container(config, resolve=False)
    objective = taken.get("objective")
    unread = ("patches", "positions") if isinstance(objective, dict) and objective.get("answer") == 0 else ()
    for key, value in found.settings.items():
        if key in unread:
            continue
        # in training `token_sr` is a group of settings, and `layer` has to be given: `in` would not find it
        if key in taken and key not in given and not isinstance(taken[key], dict):
            config[key] = value
    if "method" in config and "method" not in given:
        config.method = _method(found)
    figure = config.get("figure")
    if figure is not None and "layer" in figure and "figure.layer" not in given:
        figure.layer = found.settings["layer"][0]
    log.info("preset=%s: method %s, %s", found.path, found.method, found.note or "no note")
    return config


def file_of(config: DictConfig) -> Path:
    """The preset file that a config names: a path, or "recommended" for the one that ships with its backbone.

    Raises:
        UserError: none ships with it, or it is no path.
    """
    if config.preset != RECOMMENDED:
        return path("preset", config.preset, "a file, or recommended")
    backbone = str(config.model.path)
    for shipped in _shipped():
        if _same_backbone(shipped, backbone):
            return _ASSETS / shipped / "preset.yaml"
    raise UserError(
        f"preset={RECOMMENDED}: none ships for the backbone {backbone}; `python -m blink.tune` chooses one, and "
        "preset=FILE takes it"
    )


def preset_of(config: DictConfig) -> PresetFile | None:
    """The preset file that a config names; None if it names none, or one that is gone since its values were taken."""
    file = None if config.get("preset") is None else file_of(config)
    return read_preset(file) if file is not None and file.is_file() else None


def preset_sources(found: PresetFile | None, config: DictConfig, overrides: Sequence[str]) -> dict[str, str]:
    """Setting of the policy -> "preset FILE", for those whose value a preset file gave."""
    if found is None:
        return {}
    given = {override.partition("=")[0].lstrip("+~") for override in overrides}
    here = plain(config)
    taken = [
        key
        for key, value in found.settings.items()
        if key not in given and key in here and here[key] == value
    ]
    return {{"layer": "layers"}.get(key, key): f"preset {found.path}" for key in taken if key != "token_sr"}


def _shipped() -> list[str]:
    """Names of the backbones that ship with the project."""
    return sorted(file.parent.name for file in _ASSETS.glob("*/preset.yaml"))


def _same_backbone(first: str, second: str) -> bool:
    """Whether two backbones, as `model.path` names them, are one: the same folder, or a copy of one that ships."""
    if first == second:
        return True
    shipped = _shipped()
    folders = [_ASSETS / name if name in shipped else Path(name).expanduser() for name in (first, second)]
    if not all(folder.is_dir() for folder in folders):
        return False
    if folders[0].resolve() == folders[1].resolve():
        return True
    # those that ship are small; larger ones would take minutes to read
    return any(folder.resolve().parent == _ASSETS for folder in folders) and _weights_agree(*folders)


def _weights_agree(first: Path, second: Path) -> bool:
    """Whether two folders hold the same config and weights; whatever else they hold may differ."""
    names = [
        {
            file.name
            for file in folder.iterdir()
            if file.suffix == ".safetensors" or file.name == "config.json"
        }
        for folder in (first, second)
    ]
    return names[0] == names[1] and not any(cmpfiles(first, second, names[0], shallow=False)[1:])


def _method(found: PresetFile) -> Any:
    options = sorted(each.stem for each in (CONF_DIR / "method").glob("*.yaml"))
    if found.method not in options:
        raise UserError(f"preset={found.path}: method={found.method!r}: expected one of {', '.join(options)}")
    return OmegaConf.load(CONF_DIR / "method" / f"{found.method}.yaml")
