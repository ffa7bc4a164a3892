"""Fig. 6 and 8, single cases: attention on original and extended tokens at later layers, side by side."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from blink.analysis.cases import Shown
from blink.analysis.figures.maps import MAP_NOTE, crop_region, mark_region, show_map, show_picture
from blink.analysis.figures.redistribution import METHODS, Redistribution, normalised_entropy
from blink.runs.style import plain


def draw_cases(
    shown: Sequence[Shown],
    found: Redistribution,
    layers: Sequence[int],
    grid: tuple[int, int],
    title: str,
) -> Figure:
    """Per case one row for TokenSR, one for interpolation; per layer the maps of both parts in one colour scale.

    Args:
        shown: the first samples of `found`, as many as it kept maps of.
        layers: some of `found.layers`.
        grid: (H, W) of the visual tokens.
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
            region = int(spread.born_N[number])
            show_picture(axes_row[0], case.picture, case.box, case.sample.question if offset == 0 else "")
            mark_region(axes_row[0], case.picture, region, found.patches, case.right)
            axes_row[0].set_ylabel(METHODS[name].label)
            for column, layer in enumerate(layers):
                look = spread.maps[number][layer]
                parts = (
                    ("original", case.picture, look.original_V),
                    ("extension", crop_region(case.picture, region, found.patches), look.extension_X),
                )
                greatest = max(float(part.max()) for _, _, part in parts)
                for axes, (part, picture, attention) in zip(
                    axes_row[1 + 2 * column : 3 + 2 * column], parts, strict=True
                ):
                    show_map(
                        axes, picture, attention.view(_grid(attention.numel(), grid, found.patches)), greatest
                    )
                    axes.set_title(f"layer {layer}\n{part}" if number == offset == 0 else "")
                    axes.set_xlabel(
                        f"{100 * float(attention.sum()):.1f} %\nentropy {normalised_entropy(attention):.2f}",
                        fontsize="small",
                    )
    figure.supxlabel(
        f"{MAP_NOTE}; one colour scale per layer and row; %: of all attention\nregion outlined at the left: expanded "
        f"at layer {found.birth} (dashed: does not hold the boxed object's centre)",
        fontsize="x-small",
    )
    return figure


def case_table(shown: Sequence[Shown], found: Redistribution) -> list[dict[str, Any]]:
    """One record per case, method and layer."""
    return [
        {
            "id": case.sample.id,
            "method": name,
            "expanded_region": int(spread.born_N[number]),
            "right_region": case.right,
            "layer": layer,
            **{key: round(float(values[number, i]), 6) for key, values in spread.measures.items()},
        }
        for number, case in enumerate(shown)
        for name, spread in found.spreads.items()
        for i, layer in enumerate(found.layers)
    ]


def _grid(tokens: int, grid: tuple[int, int], patches: int) -> tuple[int, int]:
    """Rows and columns of an extension: the whole grid, or one region's where it is not resized."""
    H, W = grid
    return grid if tokens == H * W else (H // patches, W // patches)
