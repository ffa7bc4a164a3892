"""Fig. 2: the last prompt token's attention over the picture at some layers, the hottest region outlined."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from matplotlib.figure import Figure

from blink.analysis.cases import Shown, choose_cases
from blink.analysis.figures.base import BackboneFigure, Subject, ids_setting, layers_setting
from blink.analysis.figures.maps import MAP_NOTE, mark_region, show_map, show_picture
from blink.analysis.probe import Prober
from blink.inference.saliency import focus
from blink.model.token_sr.files import TokenSRConfig
from blink.runs.style import Drawn, plain
from blink.runs.values import whole_number

_SHOWN_LAYERS = 6


class LayerMap(NamedTuple):
    """Attention on the grid at one layer ([H, W], its sum is the attention on visual tokens), and its hottest region."""

    layer: int
    attention_HW: Any
    ratio: float
    region: int


def measure(
    prober: Prober, shown: Sequence[Shown], layers: Sequence[int], patches: int
) -> list[list[LayerMap]]:
    """Probe each sample at each layer."""
    cases = []
    for probed in prober([case.sample for case in shown], layers):
        maps = []
        for layer in layers:
            grid, attention_V, _ = probed.attention[layer]
            found = focus(attention_V[None], grid, patches)
            region = int(found.region_B[0])
            maps.append(LayerMap(layer, attention_V.view(grid).numpy(), float(found.ratio_B[0]), region))
        cases.append(maps)
    return cases


def table(shown: Sequence[Shown], cases: Sequence[Sequence[LayerMap]]) -> list[dict[str, Any]]:
    """One record per sample and layer."""
    return [
        {
            "id": case.sample.id,
            "layer": one.layer,
            "attention_on_picture": round(float(one.attention_HW.sum()), 6),
            "ratio": round(one.ratio, 6),
            "region": one.region,
            "right_region": case.right,
            "correct": None if case.right is None else one.region == case.right,
        }
        for case, maps in zip(shown, cases, strict=True)
        for one in maps
    ]


def draw(shown: Sequence[Shown], cases: Sequence[Sequence[LayerMap]], patches: int, title: str) -> Figure:
    """One row per sample: the picture, then one map per layer, each in its own scale."""
    columns = 1 + max(len(maps) for maps in cases)
    figure = Figure(figsize=(1.55 * columns, 2.0 * len(shown) + 0.9), layout="constrained")
    figure.suptitle(plain(title))
    grid = figure.subplots(len(shown), columns, squeeze=False)
    for row, (axes_row, case, maps) in enumerate(zip(grid, shown, cases, strict=True)):
        show_picture(axes_row[0], case.picture, case.box, case.sample.question)
        for axes, one in zip(axes_row[1:], maps, strict=True):
            show_map(axes, case.picture, one.attention_HW, float(one.attention_HW.max()))
            mark_region(axes, case, one.region, patches)
            axes.set_title(f"layer {one.layer}" if row == 0 else "")
            axes.set_xlabel(f"ratio {one.ratio:.2f}", fontsize="small")
    outlined = f"outlined: hottest of {patches} x {patches} regions"
    if any(case.right is not None for case in shown):
        outlined += " (dashed: not the one that holds most of the box)"
    figure.supxlabel(f"{MAP_NOTE}, each map in its own scale\n{outlined}", fontsize="small")
    return figure


@dataclass(frozen=True)
class AttentionMapsFigure(BackboneFigure):
    """Fig. 2, as conf/figure/attention_maps.yaml describes it."""

    layers: tuple[int, ...]
    cases: int
    ids: tuple[str, ...] | None

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any], family: str, num_layers: int, modules: TokenSRConfig | None
    ) -> Self:
        last = num_layers - 1
        evenly = sorted({round(last * i / (_SHOWN_LAYERS - 1)) for i in range(_SHOWN_LAYERS)})
        layers = layers_setting("figure.layers", settings["layers"], evenly, num_layers)
        return cls(layers, whole_number("figure.cases", settings["cases"]), ids_setting(settings["ids"]))

    def draw(self, subject: Subject) -> Drawn:
        chosen = choose_cases(subject.samples, self.cases, self.ids)
        shown = subject.seen(chosen)
        cases = measure(subject.prober(), shown, self.layers, subject.patches)
        figure = draw(shown, cases, subject.patches, f"Attention by layer: {subject.about}")
        numbers = [
            {
                "id": case.sample.id,
                "question": case.sample.question,
                "maps": {one.layer: one.attention_HW for one in maps},
            }
            for case, maps in zip(shown, cases, strict=True)
        ]
        return Drawn({"attention_maps": figure}, table(shown, cases), {"cases": numbers})
