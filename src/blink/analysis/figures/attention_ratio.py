"""Fig. 3: how concentrated the last prompt token's attention is at each layer, and how often on the right region.

Axes: N samples, L layers, R = p x p regions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from matplotlib.figure import Figure

from blink.analysis.cases import choose_cases
from blink.analysis.figures.base import BackboneFigure, Subject, layers_setting
from blink.analysis.probe import Prober
from blink.bench import Sample
from blink.bench.statistics import Estimate, Floats, Metric, estimates
from blink.inference.saliency import focus
from blink.model.token_sr.files import TokenSRConfig
from blink.runs.style import BLACK, BLUE, GREY, ORANGE, PURPLE, VERMILLION, Drawn, legend_above, plain
from blink.runs.values import whole_number

_SINGLE_STYLES = ((ORANGE, "--"), (PURPLE, ":"), (BLACK, "-."))


class Ratios(NamedTuple):
    """Ratio and hottest region of every sample at every layer.

    Attributes:
        layers: L of them.
        ratio_NL: share of the hottest region in the attention on all visual tokens (Eq. 3).
        hottest_NL: that region, row-major.
        right_N: the region that holds most of the ground-truth box, -1 where none is known.
        patches: p.
        samples: (id, picture) of each; intervals are over pictures.
    """

    layers: list[int]
    ratio_NL: Floats
    hottest_NL: Any
    right_N: Any
    patches: int
    samples: list[tuple[str, str]]

    @property
    def boxed(self) -> int:
        """How many samples have a known right region."""
        return int((self.right_N >= 0).sum())


def measure(
    prober: Prober,
    samples: Sequence[Sample],
    right: Sequence[int | None],
    layers: Sequence[int],
    patches: int,
) -> Ratios:
    """Probe every sample at every one of `layers`.

    Args:
        right: per sample the region that holds most of its box.
    """
    ratios, regions = [], []
    for probed in prober(samples, layers):
        attention = [probed.attention[layer] for layer in layers]
        found = focus(torch.stack([one.original_V for one in attention]), attention[0].grid, patches)
        ratios.append(found.ratio_B.double().numpy())
        regions.append(found.region_B.numpy())
    return Ratios(
        list(layers),
        np.stack(ratios),
        np.stack(regions),
        np.array([-1 if region is None else region for region in right]),
        patches,
        [(sample.id, sample.image) for sample in samples],
    )


def correct_shares(ratios: Ratios) -> list[Estimate]:
    """Share of samples whose hottest region is the right one, per layer, with 95 % intervals over pictures."""
    known_N = ratios.right_N >= 0
    correct_NL = (ratios.hottest_NL == ratios.right_N[:, None])[known_N].astype(np.float64)
    pictures = [picture for (_, picture), known in zip(ratios.samples, known_N, strict=True) if known]
    groups = {picture: number for number, picture in enumerate(dict.fromkeys(pictures))}
    correct_GL, asked_G = np.zeros((len(groups), len(ratios.layers))), np.zeros(len(groups))
    for picture, correct_L in zip(pictures, correct_NL, strict=True):
        correct_GL[groups[picture]] += correct_L
        asked_G[groups[picture]] += 1
    found = estimates({str(i): Metric.share(correct_G, asked_G) for i, correct_G in enumerate(correct_GL.T)})
    return list(found.values())


def unrelated_shares(ratios: Ratios) -> Floats:
    """Expected share of correct regions per layer if the hottest region were independent of the question.

    Regions keep how often they are hottest and how often they are right: this is above 1 / p^2 where both prefer
    the same region.
    """
    known_N = ratios.right_N >= 0
    regions = np.arange(ratios.patches**2)
    hottest_LR = (ratios.hottest_NL[known_N][:, :, None] == regions).mean(axis=0)
    right_R = (ratios.right_N[known_N][:, None] == regions).mean(axis=0)
    shares_L: Floats = hottest_LR @ right_R
    return shares_L


def table(ratios: Ratios) -> list[dict[str, Any]]:
    """One record per layer."""
    low, median, high = np.quantile(ratios.ratio_NL, (0.25, 0.5, 0.75), axis=0)
    records: list[dict[str, Any]] = [
        {
            "layer": layer,
            "samples": len(ratios.samples),
            "ratio_median": round(float(median[i]), 6),
            "ratio_quartile_low": round(float(low[i]), 6),
            "ratio_quartile_high": round(float(high[i]), 6),
            "ratio_mean": round(float(ratios.ratio_NL[:, i].mean()), 6),
        }
        for i, layer in enumerate(ratios.layers)
    ]
    if ratios.boxed:
        for record, share, chance in zip(
            records, correct_shares(ratios), unrelated_shares(ratios), strict=True
        ):
            record |= {
                "samples_with_box": ratios.boxed,
                "correct": round(share.value, 6),
                "correct_low": round(share.low, 6),
                "correct_high": round(share.high, 6),
                "correct_if_unrelated": round(float(chance), 6),
            }
    return records


def draw(ratios: Ratios, title: str, singles: int = 0) -> Figure:
    """Draw ratio and, with boxes, the share of correct regions against the layer.

    Args:
        singles: show this many samples beside the median, with dots where their hottest region is the right one; a
            sample that stands alone has them anyway.
    """
    boxed = ratios.boxed > 1
    figure = Figure(figsize=(6.6, 5.8 if boxed else 3.6), layout="constrained")
    figure.suptitle(plain(title))
    rows = figure.subplots(2 if boxed else 1, 1, sharex=True, squeeze=False)[:, 0]
    low_L, median_L, high_L = np.quantile(ratios.ratio_NL, (0.25, 0.5, 0.75), axis=0)
    chance = 1 / ratios.patches**2
    axes = rows[0]
    if len(ratios.samples) > 1:
        axes.fill_between(ratios.layers, low_L, high_L, color=BLUE, alpha=0.2, linewidth=0, label="quartiles")
    label = f"median of {len(ratios.samples)} samples" if len(ratios.samples) > 1 else "ratio"
    axes.plot(ratios.layers, median_L, color=BLUE, label=label)
    axes.axhline(chance, color=GREY, linestyle="--", linewidth=1, label=f"even spread, 1/{ratios.patches**2}")
    # single samples: a line each, with dots where the hottest region is the right one
    for number in range(min(max(singles, len(ratios.samples) == 1), len(ratios.samples))):
        colour, dash = _SINGLE_STYLES[number % len(_SINGLE_STYLES)]
        axes.plot(
            ratios.layers,
            ratios.ratio_NL[number],
            color=colour,
            linestyle=dash,
            linewidth=1,
            label=plain(ratios.samples[number][0], 28, 1),
        )
        at = np.flatnonzero(ratios.hottest_NL[number] == ratios.right_N[number])
        axes.plot(
            np.asarray(ratios.layers)[at],
            ratios.ratio_NL[number][at],
            "o",
            color=colour,
            markeredgecolor=BLACK,
            markersize=4,
        )
    if boxed:
        shares = correct_shares(ratios)
        above = [i for i, share in enumerate(shares) if share.low > chance]
        axes.plot(
            [ratios.layers[i] for i in above],
            median_L[above],
            "o",
            color=VERMILLION,
            markersize=6,
            label="looks at the right region\nmore often than chance",
        )
        _draw_shares(rows[1], ratios, shares, chance)
    axes.set_ylabel("ratio of the hottest region")
    axes.set_ylim(0, 1.03)
    legend_above(axes)
    rows[-1].set_xlabel("layer")
    rows[-1].set_xticks(ratios.layers[:: max(1, len(ratios.layers) // 16)])
    return figure


def _draw_shares(axes: Any, ratios: Ratios, shares: list[Estimate], chance: float) -> None:
    value_L, low_L, high_L = (100 * np.array(part) for part in zip(*shares, strict=True))
    errors = (np.maximum(0, value_L - low_L), np.maximum(0, high_L - value_L))
    if not np.isnan(low_L).any():
        axes.errorbar(
            ratios.layers, value_L, yerr=errors, fmt="none", ecolor=VERMILLION, capsize=2, elinewidth=1
        )
    label = f"{ratios.boxed} samples with a box, 95 % interval"
    axes.plot(ratios.layers, value_L, color=VERMILLION, marker="o", label=label)
    axes.plot(
        ratios.layers,
        100 * unrelated_shares(ratios),
        color=BLACK,
        linestyle=":",
        label="if it had nothing to do with the question",
    )
    axes.axhline(
        100 * chance, color=GREY, linestyle="--", linewidth=1, label=f"chance, 1/{ratios.patches**2}"
    )
    axes.set_ylabel("hottest region\nis the right one (%)")
    axes.set_ylim(0, 100)
    legend_above(axes)


@dataclass(frozen=True)
class AttentionRatioFigure(BackboneFigure):
    """Fig. 3, as conf/figure/attention_ratio.yaml describes it."""

    layers: tuple[int, ...]
    singles: int

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any], family: str, num_layers: int, modules: TokenSRConfig | None
    ) -> Self:
        layers = layers_setting("figure.layers", settings["layers"], range(num_layers), num_layers)
        return cls(layers, whole_number("figure.singles", settings["singles"], least=0))

    def draw(self, subject: Subject) -> Drawn:
        singles = choose_cases(subject.samples, self.singles, None)
        others = [sample for sample in subject.samples if sample not in singles]
        subject = replace(subject, samples=[*singles, *others])
        right = [case.right for case in subject.shown()]
        found = measure(subject.prober(), subject.samples, right, self.layers, subject.patches)
        title = f"Attention ratio, {subject.patches} x {subject.patches} regions\n{subject.about}"
        numbers = {
            "patches": subject.patches,
            "layers": self.layers,
            "samples": [
                {"id": name, "picture": picture, "right": right, "ratio": ratio_L, "region": region_L}
                for (name, picture), right, ratio_L, region_L in zip(
                    found.samples, found.right_N, found.ratio_NL, found.hottest_NL, strict=True
                )
            ],
        }
        return Drawn({"attention_ratio": draw(found, title, self.singles)}, table(found), numbers)
