"""What a method may do at the scanned layers (Policy), and what it did there (Event). Algorithm 1, Tables 2, 6 and 7.

Plain numbers in, plain numbers out: this file knows no tensors and no models.
"""

import random
from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, TypeVar

from blink.runs.values import UserError, choice, flag, is_whole, number, whole_number

Old = TypeVar("Old")
New = TypeVar("New")

SALIENCIES = ("attention", "similarity")
SELECTORS = ("saliency", "random", "box")
SCHEDULES = ("threshold", "cycle", "random")
POSITIONS = ("append", "region")
SOURCES = ("coarse", "encode")
ACTIONS = ("expand", "keep", "drop")


@dataclass(frozen=True)
class Event:
    """The measurement and the decision of one sample at one scanned layer.

    Attributes:
        layer: decoder layer, counted from 0.
        ratio: the measured saliency ratio (Eq. 3), in [0, 1].
        region: row-major index of the region acted on, 0 at the top left; for "drop" and "keep" the one of highest saliency.
        action: "expand", "keep" or "drop": the decision, also where there was nothing to drop.
    """

    layer: int
    ratio: float
    region: int
    action: str

    def apply_to(self, living: Old, new: New) -> Old | New | None:
        """The extension that is alive after this event, if `living` (or None) was before and `new` is what it could insert."""
        if self.action == "expand":
            return new
        return None if self.action == "drop" else living


@dataclass(frozen=True)
class Policy:
    """Which layers are scanned, and what is done at each, given its saliency.

    Numbers may be NumPy's; they are kept as Python's.

    Attributes:
        layers: layers to scan, any iterable of int; kept sorted and unique.
        tau_exp: expand above this ratio, in [0, 1], in units of a 2 x 2 split.
        tau_drop: drop below this ratio, in [0, 1], same units; may exceed `tau_exp`. 0 never drops.
        patches: p of the p x p regions, at least 2 and at most the grid's shorter side; where it does not divide a side
            of n cells, that is cut at floor(i n / p).
        saliency: "attention" (row of the layer's attention) or "similarity" (Eq. 1-2 without rotary embedding).
        interpolate: resize the region to the full grid before TokenSR (False: Table 7).
        selector: region to expand: "saliency" (the highest), "random" (uniform) or "box" (the one that holds most of
            the box of what the question is about, which comes with the prompt; where it is about no single place,
            nothing is expanded).
        schedule: action: "threshold" (by ratio), "cycle" (expand, drop, expand, ... over the scanned layers)
            or "random" (expand or drop, uniform).
        positions: "append" (the paper): an extension stands behind the picture, and text moves on; "region": its tokens
            take the positions of the cells that they refine, and text stays where the stock model has it.
        source: what an extension is made of: "coarse" (the paper: the region's visual tokens, resized, and TokenSR) or
            "encode" (ours: the region of the original picture, encoded anew and taken up to the layer that expands it).
        scale_tau: scale both thresholds by (1 / p^2) / (1 / 4) (App. E).
        seed: seeds the draws of a random selector or schedule.

    Raises:
        ValueError: for a value of another type or outside its range.
    """

    layers: Collection[int]
    tau_exp: float = 0.5
    tau_drop: float = 0.4
    patches: int = 2
    saliency: str = "attention"
    interpolate: bool = True
    selector: str = "saliency"
    schedule: str = "threshold"
    positions: str = "append"
    source: str = "coarse"
    scale_tau: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", _checked_layers(self.layers))
        checked: dict[str, Any] = {
            name: number(name, getattr(self, name), least=0, most=1) for name in ("tau_exp", "tau_drop")
        }
        # 0 and 1 stay as they were written: they are part of names and files of runs.
        checked |= {name: int(tau) for name, tau in checked.items() if is_whole(getattr(self, name))}
        checked["patches"] = whole_number("patches", self.patches, least=2, hint="p of p x p regions")
        checked["seed"] = whole_number("seed", self.seed, least=None)
        for name in ("interpolate", "scale_tau"):
            checked[name] = flag(name, getattr(self, name))
        choices_of = {
            "saliency": SALIENCIES,
            "selector": SELECTORS,
            "schedule": SCHEDULES,
            "positions": POSITIONS,
            "source": SOURCES,
        }
        for name, choices in choices_of.items():
            checked[name] = choice(name, getattr(self, name), choices)
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if self.source == "encode" and not self.interpolate:
            raise UserError(
                "source='encode' with interpolate=False: an encoded region has as many tokens as the whole picture, and is "
                "not resized; leave interpolate out, or use source='coarse'"
            )

    @classmethod
    def never(cls, layers: Collection[int] = (0,), **options: Any) -> "Policy":
        """A policy that scans `layers` and never acts, for no ratio lies outside [0, 1]; `options` are other fields."""
        return cls(layers, tau_exp=1.0, tau_drop=0.0, scale_tau=False, **options)

    @property
    def brief(self) -> str:
        """As Python writes it, with layers, thresholds, and only those other fields that are not the default."""
        shown = ("layers", "tau_exp", "tau_drop")
        told = [f for f in fields(self) if f.name in shown or getattr(self, f.name) != f.default]
        values = {f.name: getattr(self, f.name) for f in told} | {"layers": list(self.layers)}
        return f"Policy({', '.join(f'{name}={value!r}' for name, value in values.items())})"

    @property
    def draws(self) -> bool:
        """Whether any decision is random, so that samples need keys."""
        return self.selector == "random" or self.schedule == "random"

    @property
    def never_expands(self) -> bool:
        """Whether nothing can be inserted, whatever is measured: no ratio lies above 1."""
        return self.schedule == "threshold" and self.thresholds[0] >= 1

    @cached_property
    def thresholds(self) -> tuple[float, float]:
        """(expand above, drop below) in the units of this policy's own p x p split."""
        scale = 4 / self.patches**2 if self.scale_tau else 1.0
        return self.tau_exp * scale, self.tau_drop * scale


def check_policy(policy: object) -> None:
    """Raise ValueError, with an example, for anything but a `Policy`: a text of layers, or None."""
    if not isinstance(policy, Policy):
        raise UserError(
            f"policy={policy!r} is of type {type(policy).__name__}; expected a blink.Policy, such as "
            "blink.Policy(layers=range(12, 19))"
        )


def decide(
    policy: Policy, layer: int, ratio: float, hottest: int, key: str, boxed: int | None = None
) -> Event:
    """Decide what one sample does at one scanned layer (Sec. 3.2, Table 2).

    Args:
        layer: the layer about to run, one of `policy.layers`.
        ratio: saliency ratio (Eq. 3).
        hottest: region of highest saliency.
        key: names the sample; with `policy.seed` and `layer` it seeds the random draws, so that they do not
            depend on batch or order. Unused where nothing is drawn.
        boxed: region that holds the question's box, for a policy that selects by it; None: the question is about no single
            place, and nothing is expanded.
    """
    region, action = hottest, _by_threshold(policy, ratio)
    if policy.schedule == "cycle":
        action = "expand" if sorted(policy.layers).index(layer) % 2 == 0 else "drop"
    if policy.draws:
        generator = random.Random(f"{policy.seed}/{key}/{layer}")
        drawn_region = generator.randrange(policy.patches**2)
        drawn_action = generator.choice(("expand", "drop"))
        if policy.schedule == "random":
            action = drawn_action
        if policy.selector == "random" and action == "expand":
            region = drawn_region
    if policy.selector == "box" and action == "expand":
        region, action = (hottest, "keep") if boxed is None else (boxed, action)
    return Event(layer=layer, ratio=ratio, region=region, action=action)


def living(events: Iterable[Event], num_layers: int) -> list[tuple[int, int] | None]:
    """The extension that each of `num_layers` layers runs with: (layer that made it, region), or None."""
    by_layer = {event.layer: event for event in events}
    extension: tuple[int, int] | None = None
    extensions = []
    for layer in range(num_layers):
        if layer in by_layer:
            extension = by_layer[layer].apply_to(extension, (layer, by_layer[layer].region))
        extensions.append(extension)
    return extensions


_DIGITS = 5
"""Of the number of a layer at most."""


def parse_layers(layers: int | str | Iterable[int]) -> tuple[int, ...]:
    """Read layers as users write them: 12, "12", "12-18" (both ends included), "12,14" or [12, 14].

    Returns:
        The layers, sorted and unique.

    Raises:
        ValueError: for anything else, an empty list or a negative layer.
    """
    if is_whole(layers):
        return _checked_layers((layers,))
    if not isinstance(layers, str):
        return _checked_layers(layers)  # type: ignore[arg-type]  # which says what is wrong with it
    found: list[int] = []
    for part in layers.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UserError(f"layers {layers!r} cannot be read; write 12, 12-18 or [12,14]")
        if max(len(first), len(last)) > _DIGITS:  # a range of them might fill the memory
            raise UserError(f"layers {layers!r}: no model has so many; write 12, 12-18 or [12,14]")
        if dash and int(last) < int(first):
            raise UserError(f"layers {layers!r} run backwards; write {last}-{first}")
        found += range(int(first), int(last) + 1) if dash else [int(first)]
    return _checked_layers(found)


def check_layers(layers: Collection[int], num_layers: int) -> None:
    """Raise ValueError unless a backbone of `num_layers` decoder layers has all of `layers`."""
    beyond = [layer for layer in layers if layer >= num_layers]
    if beyond:
        raise UserError(
            f"the policy scans layers {beyond}; this model has decoder layers 0 to {num_layers - 1}"
        )


def _by_threshold(policy: Policy, ratio: float) -> str:
    """The action of Algorithm 1: strict on both sides, expansion first."""
    expand_above, drop_below = policy.thresholds
    if ratio > expand_above:
        return "expand"
    return "drop" if ratio < drop_below else "keep"


def _checked_layers(layers: Iterable[int]) -> tuple[int, ...]:
    """Sort and deduplicate `layers`, or say what is wrong with them."""
    if isinstance(layers, str | bytes | bytearray) or not isinstance(layers, Iterable):
        raise UserError(
            f"layers={layers!r}: expected whole numbers, such as 12, [12, 14], '12-18' or range(12, 19)"
        )
    listed = list(layers)
    if not listed:
        raise UserError("layers is empty; name at least one layer to scan")
    if not all(is_whole(layer) and layer >= 0 for layer in listed):
        raise UserError(f"layers={listed!r} must be integers of at least 0")
    return tuple(sorted({int(layer) for layer in listed}))
