"""Which layers are scanned, and with which thresholds, on each backbone and benchmark unless the user says so.

The values of the paper are appendices B (LLaVA-1.5-7B) and C (LLaVA-NeXT-7B); for backbones that it does not list
the source says what was chosen and why. Layer numbers do not carry over from one backbone to another: a small model
decides early, so the tiny backbone has values of its own, chosen on the validation split of the scenes. A backbone that
no table lists takes the middle third of its decoder layers, and the source says that this is not from the paper. A value
that the user gives wins over these. `LAYER_STUDIES` says which layers the experiments about layers go through. Knows
nothing of models.
"""

from collections.abc import Iterable
from typing import NamedTuple

from blink.inference.policy import Policy, parse_layers
from blink.runs.values import UserError


class Preset(NamedTuple):
    """Default settings of one backbone family on one benchmark.

    Attributes:
        layers: as `blink.inference.policy.parse_layers` reads it, "18" or "12-18".
        tau_exp: expansion threshold, in 2 x 2 units.
        tau_drop: drop threshold, in 2 x 2 units.
        source: where the values come from.
    """

    layers: str
    tau_exp: float
    tau_drop: float
    source: str


OTHER = "other"
"""Family of the backbones that no table lists."""

_APP_B = "paper, App. B"
_SINGLE = "paper, App. B; no drop threshold is given, and with one layer none has an effect: Policy's default"

_LLAVA15: dict[str, Preset] = {
    "mme": Preset("12-18", 0.5, 0.4, _APP_B),
    "mmvet": Preset("12-18", 0.5, 0.4, _APP_B),
    "gqa": Preset("12-18", 0.6, 0.4, _APP_B),
    "pope": Preset("18", 0.5, 0.4, _APP_B),
    "mmbench": Preset("18", 0.25, 0.4, _SINGLE),
    "mmbench_cn": Preset("18", 0.25, 0.4, _SINGLE),
    "scienceqa": Preset("18", 0.25, 0.4, _SINGLE),
    "questions": Preset("12-18", 0.5, 0.4, "chosen here: the paper's for MME, App. B"),
}

_LLAVA_NEXT = dict.fromkeys(_LLAVA15, Preset("14-20", 0.5, 0.4, "paper, App. C")) | {
    "mme": Preset("12-20", 0.4, 0.3, "paper, App. C"),
    "questions": Preset("14-20", 0.5, 0.4, "chosen here: the paper's for most benchmarks, App. C"),
}

_DEEPER = {"12-18": "15-22", "18": "22"}
"""Layers of a 32-layer decoder -> those at the same relative depth of a 40-layer one, rounded down."""

_CHOSEN_13B = (
    "chosen here, the paper has no 13B: App. B's for LLaVA-1.5-7B at the same relative depth of 40 layers "
    "(12-18 of 32 becomes 15-22, 18 becomes 22), thresholds unchanged"
)
_CHOSEN_MISTRAL = "chosen here, the paper has no Mistral: App. C's for LLaVA-NeXT-7B, which has as many layers and the same views"
_VALIDATION = "validation split of the scenes, docs/log.md"

_BY_FAMILY: dict[str, dict[str, Preset]] = {
    "llava15_7b": _LLAVA15,
    "llava15_13b": {
        benchmark: found._replace(layers=_DEEPER[found.layers], source=_CHOSEN_13B)
        for benchmark, found in _LLAVA15.items()
    },
    "llava_next_7b": _LLAVA_NEXT,
    "llava_next_mistral_7b": {
        benchmark: found._replace(source=_CHOSEN_MISTRAL) for benchmark, found in _LLAVA_NEXT.items()
    },
    "tiny": dict.fromkeys(_LLAVA15, Preset("10", 0.6, 0.4, _VALIDATION)),
}

PRESETS: dict[tuple[str, str], Preset] = {
    (family, benchmark): found for family, row in _BY_FAMILY.items() for benchmark, found in row.items()
}
"""(backbone family, benchmark) -> settings."""


class LayerStudy(NamedTuple):
    """The layers that experiments about layers sweep over on one backbone family.

    Layers are texts as `blink.inference.policy.parse_layers` reads them, and as `layer=` takes them: "12-18", or "7".

    Attributes:
        num_layers: decoder layers of the backbone.
        main: the range that the others vary ("Ours" in Table 3); also the range of the paper's MME settings.
        ranges: Table 3, shifts of the main range, which is among them.
        copies: Fig. 4, single layers at which salient tokens are copied.
        birth: Fig. 6 and 8, the single layer at which an extension is made and kept.
        shown: Fig. 6 and 8, the layers above it whose attention is drawn.
        source: where the values come from.
    """

    num_layers: int
    main: str
    ranges: tuple[str, ...]
    copies: tuple[str, ...]
    birth: str
    shown: tuple[int, ...]
    source: str

    @property
    def starts(self) -> tuple[str, ...]:
        """Fig. 7, top: ranges from each layer up to the end of the main range."""
        last = parse_layers(self.main)[-1]
        return tuple(f"{first}-{last}" for first in range(last + 1))

    @property
    def ends(self) -> tuple[str, ...]:
        """Fig. 7, bottom: ranges from the start of the main range to each layer above."""
        first = parse_layers(self.main)[0]
        return tuple(f"{first}-{last}" for last in range(first, self.num_layers))

    @property
    def singles(self) -> tuple[str, ...]:
        """Fig. 7, both panels: each layer alone."""
        return tuple(str(layer) for layer in range(self.num_layers))


_NEXT_STUDY = LayerStudy(
    num_layers=32,
    main="12-20",
    ranges=("11-19", "12-20", "13-21", "14-22"),
    copies=("14", "16", "18"),
    birth="12",
    shown=(13, 20),
    source="chosen here: Table 3's shifts applied to App. C's range for MME; the rest as LLaVA-1.5-7B",
)

LAYER_STUDIES: dict[str, LayerStudy] = {
    "llava15_7b": LayerStudy(
        num_layers=32,
        main="12-18",
        ranges=("11-17", "12-18", "13-19", "14-20"),
        copies=("14", "16", "18"),
        birth="12",
        shown=(13, 20),
        source="paper, Table 3 and Figs. 4, 6, 7 and 8; which layers Fig. 7 leaves out cannot be read off: all",
    ),
    "llava15_13b": LayerStudy(
        num_layers=40,
        main="15-22",
        ranges=("14-21", "15-22", "16-23", "17-24"),
        copies=("17", "20", "22"),
        birth="15",
        shown=(16, 25),
        source="chosen here: LLaVA-1.5-7B's at the same relative depth of 40 layers, Table 3's shifts by one layer",
    ),
    "llava_next_7b": _NEXT_STUDY,
    "llava_next_mistral_7b": _NEXT_STUDY._replace(
        source="chosen here: as LLaVA-NeXT-7B, which has as many layers"
    ),
    "tiny": LayerStudy(
        num_layers=16,
        main="6-9",
        ranges=("5-8", "6-9", "7-10", "8-11"),
        copies=("7", "8", "9"),
        birth="6",
        shown=(7, 10),
        source="chosen here: LLaVA-1.5-7B's at the same relative depth of 16 layers, Table 3's shifts by one layer",
    ),
}
"""Backbone family -> layers of its studies; `LAYER_STUDIES["tiny"].ranges` are what `layer=` sweeps for Table 3."""


def middle_third(num_layers: int) -> str:
    """The middle third of a decoder's layers, ends rounded down: "10-20" of 32."""
    first = num_layers // 3
    return f"{first}-{max(first, 2 * num_layers // 3 - 1)}"


def preset(family: str, benchmark: str, num_layers: int | None = None) -> Preset | None:
    """Return the default settings of a backbone family on a benchmark.

    Args:
        num_layers: decoder layers of the backbone, from which follow the settings of a family that no table lists. None:
            there are none for such a family, and None is returned.
    """
    found = PRESETS.get((family, benchmark))
    if found is not None or num_layers is None:
        return found
    source = f"not from the paper: the middle third of {num_layers} layers"
    return Preset(middle_third(num_layers), Policy.tau_exp, Policy.tau_drop, source)


def layer_study(family: str, num_layers: int) -> LayerStudy:
    """Return the layers of a family's studies; of one that no table lists those that follow from its number of layers."""
    if family in LAYER_STUDIES:
        return LAYER_STUDIES[family]
    main = parse_layers(middle_third(num_layers))
    shifts = [(main[0] + shift, main[-1] + shift) for shift in (-1, 0, 1, 2)]
    copies, shown = (
        sorted({num_layers * layer // 32 for layer in layers}) for layers in ((14, 16, 18), (13, 20))
    )
    birth = num_layers * 12 // 32
    return LayerStudy(
        num_layers=num_layers,
        main=middle_third(num_layers),
        ranges=tuple(f"{first}-{last}" for first, last in shifts if first >= 0 and last < num_layers),
        copies=tuple(map(str, copies)),
        birth=str(birth),
        shown=tuple(layer for layer in shown if layer > birth),
        source=f"not from the paper: the middle third of {num_layers} layers, and LLaVA-1.5-7B's at the same relative depth",
    )


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
    num_layers: int | None = None,
) -> Scan:
    """Fill in what the user left open (None) from the presets; thresholds without a preset are Policy's defaults.

    Args:
        layer: as `parse_layers` reads it.
        num_layers: as for `preset`.

    Raises:
        ValueError: the layers are neither given nor preset, or cannot be read.
    """
    listed, found = PRESETS.get((family, benchmark)), preset(family, benchmark, num_layers)
    exp, drop, source = listed[1:] if listed else (Policy.tau_exp, Policy.tau_drop, "Policy's default")
    layers_from = "override"
    if layer is None:
        if found is None:
            raise UserError(
                f"no layers are preset for {benchmark} on this backbone; say which to scan, such as layer=18 or "
                "layer=12-18"
            )
        layer, layers_from = found.layers, found.source
    return Scan(
        parse_layers(layer),
        exp if tau_exp is None else tau_exp,
        drop if tau_drop is None else tau_drop,
        {
            "layers": layers_from,
            "tau_exp": source if tau_exp is None else "override",
            "tau_drop": source if tau_drop is None else "override",
        },
    )
