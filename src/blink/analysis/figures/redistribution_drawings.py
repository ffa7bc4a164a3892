"""Fig. 6 and 8 drawn: attention on original and extended tokens, over many samples and for single ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from matplotlib.figure import Figure

from blink.analysis.cases import Shown, choose_cases
from blink.analysis.figures.base import (
    BackboneFigure,
    Subject,
    expansion_layer,
    ids_setting,
    layers_setting,
)
from blink.analysis.figures.maps import MAP_NOTE, mark_region, show_map, show_picture
from blink.analysis.figures.redistribution import (
    METHODS,
    Redistribution,
    case_table,
    measure,
    normalised_entropy,
    table,
)
from blink.bench.statistics import Floats
from blink.evaluation.planning.presets import layer_study
from blink.model.token_sr import region_box
from blink.model.token_sr.files import TokenSRConfig
from blink.model.views import cut_picture
from blink.runs.style import BLACK, GREY, Drawn, Line, plain
from blink.runs.values import UserError, flag, whole_number


def draw(found: Redistribution, title: str) -> Figure:
    """Draw total attention and entropy of original and extended tokens per layer, and how often the hottest original region is the right one."""
    boxed = int((found.right_N >= 0).sum())
    figure = Figure(figsize=(7.6, 7.4 if boxed else 5.2), layout="constrained")
    figure.suptitle(plain(title))
    grid = figure.subplots(3 if boxed else 2, 2, sharex=True, sharey="row", squeeze=False)
    for column, part in enumerate(("original", "extension")):
        for row, kind in enumerate(("total", "entropy")):
            for name, spread in found.spreads.items():
                _draw_quartiles(
                    grid[row, column], found.layers, spread.measures[f"{kind}_{part}"], METHODS[name]
                )
        grid[0, column].set_title({"original": "original tokens", "extension": "extended tokens"}[part])
    grid[0, 0].set_ylabel("total attention")
    grid[1, 0].set_ylabel("entropy (1: even spread)")
    if boxed:
        _draw_correct(grid[2, 0], found, boxed)
        _draw_comparison(grid[2, 1], found)
    for axes in grid[-1]:
        axes.set_xlabel("layer")
        axes.set_xticks(found.layers[:: max(1, len(found.layers) // 10)])
        axes.xaxis.set_tick_params(labelbottom=True)
    grid[0, 0].set_ylim(bottom=0)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=len(labels),
        title=f"lines: median of {len(found.ids)} samples; bands: quartiles",
        title_fontsize="small",
    )
    return figure


def draw_cases(
    shown: Sequence[Shown],
    found: Redistribution,
    layers: Sequence[int],
    title: str,
) -> Figure:
    """Per case one row for TokenSR, one for interpolation; per layer the maps of both parts in one colour scale.

    Args:
        shown: the first samples of `found`, as many as it kept maps of.
        layers: some of `found.layers`.
    """
    methods = [name for name in ("token_sr", "interp") if name in found.spreads]
    figure = Figure(
        figsize=(1.6 * (1 + 2 * len(layers)), 1.9 * len(shown) * len(methods) + 1.2), layout="constrained"
    )
    figure.suptitle(plain(title))
    rows = figure.subplots(len(shown) * len(methods), 1 + 2 * len(layers), squeeze=False)
    for number, case in enumerate(shown):
        for offset, name in enumerate(methods):
            axes_row = rows[number * len(methods) + offset]
            spread = found.spreads[name]
            region = int(spread.expanded_N[number])
            show_picture(axes_row[0], case.picture, case.box, case.sample.question if offset == 0 else "")
            mark_region(axes_row[0], case, region, found.patches)
            expanded = cut_picture(case.picture, region_box(region, found.patches, case.grid), case.grid)
            axes_row[0].set_ylabel(METHODS[name].label)
            for column, layer in enumerate(layers):
                one = spread.maps[number][layer]
                parts = (
                    ("original", case.picture, one.original_V),
                    ("extension", expanded, one.extension_X),
                )
                greatest = max(float(part.max()) for _, _, part in parts)
                for axes, (part, picture, attention) in zip(
                    axes_row[1 + 2 * column : 3 + 2 * column], parts, strict=True
                ):
                    show_map(axes, picture, attention.view(one.grid), greatest)
                    axes.set_title(f"layer {layer}\n{part}" if number == offset == 0 else "")
                    axes.set_xlabel(
                        f"{100 * float(attention.sum()):.1f} %\nentropy {normalised_entropy(attention):.2f}",
                        fontsize="small",
                    )
    figure.supxlabel(
        f"{MAP_NOTE}; one colour scale per layer and row; %: of all attention\nregion outlined at the left: expanded "
        f"at layer {found.expanded_at} (dashed: not the one that holds most of the box)",
        fontsize="small",
    )
    return figure


def _draw_quartiles(axes: Any, layers: list[int], values_NL: Floats, line: Line) -> None:
    if np.isnan(values_NL).all():
        return
    low_L, median_L, high_L = np.nanquantile(values_NL, (0.25, 0.5, 0.75), axis=0)
    axes.fill_between(layers, low_L, high_L, color=line.colour, alpha=0.15, linewidth=0)
    axes.plot(layers, median_L, color=line.colour, linestyle=line.dash, marker=line.marker, label=line.label)


def _draw_correct(axes: Any, found: Redistribution, boxed: int) -> None:
    known_N = found.right_N >= 0
    for name, spread in found.spreads.items():
        line = METHODS[name]
        correct_L = (spread.hottest_NL[known_N] == found.right_N[known_N, None]).mean(axis=0)
        axes.plot(found.layers, 100 * correct_L, color=line.colour, linestyle=line.dash, marker=line.marker)
    axes.axhline(100 / found.patches**2, color=GREY, linestyle="--", linewidth=1)
    axes.set_ylabel("hottest original region\nis the right one (%)")
    axes.set_title(f"{boxed} samples with a box; dashed: chance 1/{found.patches**2}", fontsize="small")
    axes.set_ylim(0, 100)


def _draw_comparison(axes: Any, found: Redistribution) -> None:
    """How often the extension has more, and more even attention than the original tokens."""
    for name in ("interp", "token_sr"):
        if name not in found.spreads:
            continue
        measures, line = found.spreads[name].measures, METHODS[name]
        for part, filled in (("total", True), ("entropy", False)):
            more_L = (measures[f"{part}_extension"] > measures[f"{part}_original"]).mean(axis=0)
            axes.plot(
                found.layers,
                100 * more_L,
                color=line.colour,
                linestyle=line.dash,
                marker=line.marker,
                markerfacecolor=line.colour if filled else "white",
            )
    axes.plot([], [], "o", color=BLACK, label="more attention in total")
    axes.plot([], [], "o", color=BLACK, markerfacecolor="white", label="more evenly spread")
    axes.set_title("samples (%) whose extension, against the original, has", fontsize="small", pad=18)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 0.98), ncols=2)


@dataclass(frozen=True)
class RedistributionFigure(BackboneFigure):
    """Fig. 6 and 8, as conf/figure/redistribution.yaml describes them."""

    layer: int
    show: tuple[int, ...]
    cases: int
    ids: tuple[str, ...] | None
    refine: bool

    @staticmethod
    def needs_modules(settings: Mapping[str, Any]) -> bool:
        return bool(settings["refine"])

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any], family: str, num_layers: int, modules: TokenSRConfig | None
    ) -> Self:
        layer = expansion_layer(settings["layer"], family, num_layers)
        if settings["layer"] is None:
            default = layer_study(family, num_layers).shown
        else:
            default = (layer + 1, layer + max(2, num_layers // 4))
        default = tuple(each for each in default if each < num_layers) or (layer,)
        show = layers_setting("figure.show", settings["show"], default, num_layers)
        if show[0] < layer:
            raise UserError(
                f"figure.show={list(show)}: the extension is made at layer {layer}; show later layers"
            )
        refine = flag("figure.refine", settings["refine"])
        return cls(
            layer, show, whole_number("figure.cases", settings["cases"]), ids_setting(settings["ids"]), refine
        )

    def module_layers(self, available: Sequence[int]) -> tuple[int, ...]:
        """The layer of the expansion."""
        return (self.layer,) if self.refine else ()

    def draw(self, subject: Subject) -> Drawn:
        chosen = choose_cases(subject.samples, self.cases, self.ids)
        others = [sample for sample in subject.samples if sample not in chosen]
        shown = replace(subject, samples=[*chosen, *others]).shown()
        prober = subject.prober()
        found = measure(
            prober,
            shown,
            self.layer,
            subject.patches,
            subject.positions,
            modules=subject.modules or None,
            keep_maps=len(chosen),
        )
        singles = shown[: len(chosen)]
        placed = "" if subject.positions == "append" else f", positions={subject.positions}"
        title = (
            f"Attention after the hottest region was expanded at layer {self.layer}{placed}\n{subject.about}"
        )
        figures = {
            "redistribution": draw(found, title),
            "redistribution_cases": draw_cases(singles, found, self.show, title),
        }
        numbers = {
            "layer": self.layer,
            "positions": subject.positions,
            "samples": len(found.ids),
            "cases": case_table(singles, found),
        }
        return Drawn(figures, table(found), numbers)
