"""Which layers are scanned, and with which thresholds, on each backbone and benchmark unless the user says so.

The values of the paper are appendices B (LLaVA-1.5-7B) and C (LLaVA-NeXT-7B). Layer numbers do not carry over
from one backbone to another: a small model decides early, so the tiny backbone has values of its own, chosen on
the validation split of the scenes. A value that the user gives wins over these. Knows nothing of models.
"""

from collections.abc import Iterable
from typing import NamedTuple

from blink.policy import Policy, parse_layers


class Preset(NamedTuple):
    """Default settings of one backbone family on one benchmark.

    Attributes:
        layers: as `blink.policy.parse_layers` reads it, "18" or "12-18".
        tau_exp: expansion threshold, in 2 x 2 units.
        tau_drop: drop threshold, in 2 x 2 units.
        source: where the values come from.
    """

    layers: str
    tau_exp: float
    tau_drop: float
    source: str


BENCHMARKS = ("mme", "gqa", "mmbench", "mmbench_cn", "pope", "scienceqa", "mmvet")

_SINGLE = "paper, App. B; no drop threshold is given, and with one layer none has an effect: Policy's default"

PRESETS: dict[tuple[str, str], Preset] = {
    ("llava15_7b", "mme"): Preset("12-18", 0.5, 0.4, "paper, App. B"),
    ("llava15_7b", "mmvet"): Preset("12-18", 0.5, 0.4, "paper, App. B"),
    ("llava15_7b", "gqa"): Preset("12-18", 0.6, 0.4, "paper, App. B"),
    ("llava15_7b", "pope"): Preset("18", 0.5, 0.4, "paper, App. B"),
    ("llava15_7b", "mmbench"): Preset("18", 0.25, 0.4, _SINGLE),
    ("llava15_7b", "mmbench_cn"): Preset("18", 0.25, 0.4, _SINGLE),
    ("llava15_7b", "scienceqa"): Preset("18", 0.25, 0.4, _SINGLE),
    ("llava_next_7b", "mme"): Preset("12-20", 0.4, 0.3, "paper, App. C"),
    **{
        ("llava_next_7b", benchmark): Preset("14-20", 0.5, 0.4, "paper, App. C")
        for benchmark in BENCHMARKS
        if benchmark != "mme"
    },
    ("tiny", "pope"): Preset("7", 0.7, 0.4, "validation split of the scenes, docs/log.md"),
}


def preset(family: str, benchmark: str) -> Preset | None:
    """Return the default settings of a backbone family on a benchmark, or None where there are none."""
    return PRESETS.get((family, benchmark))


class Scan(NamedTuple):
    """Where to scan and when to act, and the source of each of the three ("override", or where a default is from)."""

    layers: tuple[int, ...]
    tau_exp: float
    tau_drop: float
    sources: dict[str, str]


def resolve(
    family: str,
    benchmark: str,
    *,
    layer: int | str | Iterable[int] | None = None,
    tau_exp: float | None = None,
    tau_drop: float | None = None,
) -> Scan:
    """Fill in what the user left open (None) from the presets; thresholds without a preset are Policy's defaults.

    Args:
        layer: as `parse_layers` reads it.

    Raises:
        ValueError: the layers are neither given nor preset, or cannot be read.
    """
    found = preset(family, benchmark)
    default_exp, default_drop, source = Policy.tau_exp, Policy.tau_drop, "Policy's default"
    if found is not None:
        default_exp, default_drop, source = found.tau_exp, found.tau_drop, found.source
    sources = {
        name: source if given is None else "override"
        for name, given in (("layers", layer), ("tau_exp", tau_exp), ("tau_drop", tau_drop))
    }
    if layer is None:
        if found is None:
            raise ValueError(
                f"no layers are preset for {benchmark} on this backbone; say which to scan, such as layer=18 or "
                "layer=12-18"
            )
        layer = found.layers
    return Scan(
        parse_layers(layer),
        default_exp if tau_exp is None else tau_exp,
        default_drop if tau_drop is None else tau_drop,
        sources,
    )
