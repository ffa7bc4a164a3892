"""Settings that may be tried, and one of them from the numbers that a search suggests.

Thresholds are searched as shares: which share of the ratios that the look has seen at the setting's own layers lies
above `tau_exp`, and which below `tau_drop`. Ratios differ from layer to layer and from backbone to backbone; shares mean
the same everywhere.

Axes: N questions, L layers.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
from omegaconf import OmegaConf

from blink.bench.statistics import Floats
from blink.inference.policy import Policy
from blink.runs.config.groups import CONF_DIR
from blink.runs.values import UserError

METHODS = ("interp", "blink", "encode")
"""Methods that scan and act in one pass, as far as this version has them."""

DROPS = (0.0, 0.25, 0.5, 0.75)
"""Shares of the ratios below `tau_drop` that are tried."""

_STEP = 0.1
"""Of the share of ratios above `tau_exp`."""


class Suggests(Protocol):
    """What a setting is made from: a trial of optuna, or a dictionary in a test."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...

    def suggest_int(self, name: str, low: int, high: int) -> int: ...

    def suggest_float(self, name: str, low: float, high: float, *, step: float) -> float: ...


class Setting(NamedTuple):
    """A method and the policy that it is used with.

    Attributes:
        method: of `METHODS`, or "vanilla", whose policy is None.
        policy: layers, thresholds, patches and positions.
    """

    method: str
    policy: Policy | None

    @property
    def name(self) -> str:
        """Names it in tables and folders: "interp+layers-3-5+exp-0.31+drop-0+p-2+region"."""
        policy = self.policy
        if policy is None:
            return self.method
        if self.method == LOOK:
            return f"{LOOK}+p-{policy.patches}"
        return (
            f"{self.method}+layers-{layers_text(policy.layers)}+exp-{policy.tau_exp:g}+drop-{policy.tau_drop:g}+p-{policy.patches}"
            f"+{policy.positions}"
        )


LOOK = "look"
"""Method of a setting that scans all layers and never acts."""

VANILLA = Setting("vanilla", None)


def layers_text(layers: Collection[int]) -> str:
    """Layers in words: "3-5" where they are neighbours, else "3_7"."""
    listed = sorted(layers)
    if len(listed) > 1 and listed == list(range(listed[0], listed[-1] + 1)):
        return f"{listed[0]}-{listed[-1]}"
    return "_".join(map(str, listed))


@dataclass(frozen=True)
class Space:
    """Settings that may be tried.

    Attributes:
        methods: of `METHODS`.
        layers: that may be scanned, ascending.
        modules: layers that have TokenSR modules; the others are left out of settings with method "blink".
        longest: how many neighbouring ones of `layers` a setting scans at most.
        patches, positions: as in `Policy`.
    """

    methods: tuple[str, ...]
    layers: tuple[int, ...]
    modules: tuple[int, ...]
    longest: int
    patches: tuple[int, ...]
    positions: tuple[str, ...]

    def setting(self, trial: Suggests, ratios: Mapping[int, Floats]) -> Setting:
        """Make a setting from what a trial suggests.

        Args:
            ratios: of the look, patches -> ratios [N, L] at `layers`, each in units of its own p x p split.
        """
        method = trial.suggest_categorical("method", self.methods)
        first = trial.suggest_int("first", 0, len(self.layers) - 1)
        count = trial.suggest_int("count", 1, min(self.longest, len(self.layers)))
        above = trial.suggest_float("above", _STEP, 1.0, step=_STEP)
        below = trial.suggest_categorical("below", DROPS)
        patches = trial.suggest_categorical("patches", self.patches)
        positions = trial.suggest_categorical("positions", self.positions)
        layers = self._layers(method, first, count)
        seen = ratios[patches][:, [self.layers.index(layer) for layer in layers]]
        single = len(layers) == 1  # there is nothing to drop where one layer is scanned
        policy = Policy(
            layers,
            tau_exp=_threshold(seen, 1 - above),
            tau_drop=0.0 if single else _threshold(seen, below),
            patches=patches,
            positions=positions,
            scale_tau=patches == 2,  # ratios of finer splits may lie above what 1 is scaled to
            **extra(method),
        )
        return Setting(method, policy)

    def starts(self, order: Sequence[int], count: int) -> list[dict[str, Any]]:
        """What to suggest first: single layers that look promising, always expanding.

        Args:
            order: layers, the most promising first.
            count: how many suggestions at most.
        """
        found: list[dict[str, Any]] = []
        for layer in order:
            for method in self.methods:
                if method == "blink" and layer not in self.modules:
                    continue
                found.append(
                    {
                        "method": method,
                        "first": self.layers.index(layer),
                        "count": 1,
                        "above": 1.0,
                        "below": DROPS[0],
                        "patches": self.patches[0],
                        "positions": self.positions[-1],
                    }
                )
        return found[:count]

    def _layers(self, method: str, first: int, count: int) -> list[int]:
        """`count` neighbouring layers from number `first` on, or as many as there are; one that has modules at least."""
        chosen = self.layers[first : first + count]
        if method != "blink":
            return list(chosen)
        usable = [layer for layer in self.layers if layer in self.modules]
        within = [layer for layer in chosen if layer in usable]
        return within or [min(usable, key=lambda layer: abs(layer - self.layers[first]))]


@lru_cache(maxsize=8)
def extra(method: str) -> dict[str, Any]:
    """What a method says of the policy beside layers and thresholds, such as `source`; from its file in conf/method/."""
    found: Any = OmegaConf.to_container(OmegaConf.load(CONF_DIR / "method" / f"{method}.yaml"))
    return {key: found[key] for key in ("source",) if key in found}


def known_methods() -> tuple[str, ...]:
    """Those of `METHODS` that this version has."""
    return tuple(method for method in METHODS if (CONF_DIR / "method" / f"{method}.yaml").is_file())


def check_methods(methods: Sequence[str]) -> tuple[str, ...]:
    """Return methods in the order of `METHODS`, each once.

    Raises:
        ValueError: one of them is unknown.
    """
    known = known_methods()
    if unknown := [method for method in methods if method not in known]:
        raise UserError(f"space.method={unknown[0]!r}: expected one or more of {', '.join(known)}")
    return tuple(method for method in known if method in methods)


def _threshold(ratios: Floats, share: float) -> float:
    """The threshold that this share of the ratios lies below; rounded down to 3 digits."""
    if share < _STEP / 2:
        return 0.0
    return math.floor(float(np.quantile(ratios, share)) * 1000) / 1000
