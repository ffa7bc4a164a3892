"""Names of run folders, made of the overrides of a command: the same for the same, others for others.

Readable as far as that goes, short enough for every file system, and typed in shells and overrides without quotes.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep

HOW_NOT_WHAT = (
    "device_pairs",
    "devices",
    "engine.workers",
    "export",
    "export_name",
    "fresh",
    "logger",
    "outputs",
    "rerun",
    "wait",
)
"""Keys that change how a run is stored or reported, not what it computes: runs that differ in these alone are the same."""

OWN_CHECKPOINT = ("last", "null", None)
"""Values of `ckpt` that resume a run from its own checkpoints; with a checkpoint of another run it is a different run."""

_LONGEST_NAME = 90
"""Bytes of a folder's name, so that with what is put behind it (`.old1`, `.rerun1`) it stays under 100."""

_LONGEST_VALUE = 32
"""Bytes of a value in a name that does not say all."""

_IN_SHORT = (
    "experiment",
    "figure",
    "bench",
    "method",
    "model",
    "model.path",
    "preset",
    "layer",
    "tau_exp",
    "tau_drop",
)
"""Keys that a name keeps first where it has no room for all."""

_LITERALS = ("true", "false", "null", "nan", "inf", "-inf")
_WORD = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_LIKE_OURS = re.compile(r"(-[0-9a-f]{8}|\.(old|rerun)\d+|\.)$")
"""Endings that this project or a file system gives names a meaning by."""


def run_name(overrides: Sequence[str]) -> str:
    """Return the folder name that belongs to the overrides of a command, whatever their order.

    `layer=[12,14] epochs=2` gives "epochs-2+layer-12_14", no overrides give "default". A name from which the overrides
    cannot be read back ends in a hash of them: paths of which the last part is shown, texts, sweeps, capital letters
    (which some file systems do not tell from small ones), and more than fit, of which some are left out. So different
    overrides have different names, which have less than 100 characters and bytes.

    Args:
        overrides: as Hydra lists them in `hydra.overrides.task`; the last one for a key counts. Overrides of
            `HOW_NOT_WHAT` and of `ckpt=last` are left out.
    """
    items = _items(overrides)
    if not items:
        return "default"
    name = "+".join(f"{key}-{_readable(value)}" for key, value in items.items())
    whole = all(_reads_back(key, value) for key, value in items.items())
    if whole and len(name) <= _LONGEST_NAME and not _LIKE_OURS.search(name):
        return name
    mark = hashlib.sha256(_as_text(items).encode()).hexdigest()[:8]
    shown: list[str] = []
    order = sorted(items, key=lambda key: _IN_SHORT.index(key) if key in _IN_SHORT else len(_IN_SHORT))
    for key in order:
        value = re.sub(r"[^\w.-]+", "_", _readable(items[key])).strip("_.-")
        value = value.encode()[:_LONGEST_VALUE].decode(errors="ignore").rstrip("_.-") or "_"
        more = len(items) - len(shown) - 1
        parts = sorted([*shown, f"{key.lstrip('~')}-{value}"])
        if len(_joined(parts, more, mark).encode()) <= _LONGEST_NAME:
            shown = parts
    return _joined(shown, len(items) - len(shown), mark)


def _joined(parts: Sequence[str], left_out: int, mark: str) -> str:
    more = [f"{left_out}_more"] if left_out else []
    return f"{'+'.join([*parts, *more])}-{mark}"


def _items(overrides: Sequence[str]) -> dict[str, Any]:
    """What overrides set, sorted: key -> JSON value, or the texts of the values that it is swept over as a `_Swept`."""
    items: dict[str, Any] = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key, value = override.get_key_element().lstrip("+"), override.value()
        if is_how(key.lstrip("~")):
            continue
        if isinstance(value, ChoiceSweep) and value.simple_form:
            value = _Swept(override.sweep_string_iterator())
        elif override.is_sweep_override():
            value = _Swept([(override.input_line or "").partition("=")[2]])
        if not (key == "ckpt" and value in OWN_CHECKPOINT):
            items[key] = value
    return dict(sorted(items.items()))


class _Swept(tuple[str, ...]):
    """Values that a key is swept over."""


def _as_text(items: Mapping[str, Any]) -> str:
    """What overrides set as one text that is another for others; sweeps are not lists."""
    marked = {key: {"swept": value} if isinstance(value, _Swept) else [value] for key, value in items.items()}
    return json.dumps(marked, default=str)


def _readable(value: Any) -> str:
    """A value as a name shows it; of a path its last part, or that before it where the last one is no name of its own."""
    if isinstance(value, list | tuple):
        return "_".join(_readable(each) for each in value)
    if isinstance(value, Mapping):
        return "_".join(f"{key}-{_readable(each)}" for key, each in value.items())
    if isinstance(value, str):
        parts = [
            part for part in unicodedata.normalize("NFC", value).split("/") if part not in ("", ".", "..")
        ]
        named = [part for part in parts if part != "token_sr"] or parts
        return named[-1] if "/" in value and named else value
    return "null" if value is None else str(value).lower()


def _reads_back(key: str, value: Any) -> bool:
    """Whether a value stands in a name such that it can be read from there."""
    if not _WORD.fullmatch(key):
        return False
    if isinstance(value, list):
        return len(value) > 1 and all(type(each) in (int, float) for each in value)
    if isinstance(value, str):
        of_numbers = all(_is_number(part) for part in value.split("_"))
        return bool(_WORD.fullmatch(value)) and not of_numbers and value not in _LITERALS
    return value is None or isinstance(value, bool | int | float)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


_READABLE = str.maketrans({"=": "-", ",": "_", "[": None, "]": None})
"""Characters that names of versions before 0.2 replace."""


def earlier_name(overrides: Sequence[str]) -> str:
    """The name that versions before 0.2 gave a run."""
    by_key = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key, value = override.get_key_element().lstrip("+"), override.get_value_element_as_str()
        if not is_how(key.lstrip("~")) and not (key == "ckpt" and value in OWN_CHECKPOINT):
            by_key[key] = value
    items = [f"{key}={value}" for key, value in sorted(by_key.items())] or ["default"]
    readable = "+".join(item.translate(_READABLE) for item in items)
    name = re.sub(r"[^\w.+~-]", "_", readable)[:120]
    return name if name == readable else f"{name}-{hashlib.sha256(','.join(items).encode()).hexdigest()[:8]}"


def same_run(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two sets of overrides are of one run."""
    return _as_text(_items(one)) == _as_text(_items(other))


def is_how(key: str) -> bool:
    """Whether a dotted key is one of those that change nothing of what a run computes, or lies below one."""
    return any(key == known or key.startswith(f"{known}.") for known in HOW_NOT_WHAT)
