"""Fig. 6 and 8: where attention goes once a region was expanded at one layer and the extension kept.

The policy is fixed: at that layer the hottest region is always expanded, and nothing is dropped afterwards. Entropy is
that of the attention within one part (original or extended tokens, scaled to a sum of 1), divided by the logarithm
of the part's number of tokens: 1 is an even spread, 0 all on one token. So, as sums are, it compares between pictures
of different grids, and quantiles are over all samples; maps are shown of single samples alone.

Axes: N samples, L layers from the expansion on, R = p x p regions.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from blink.analysis.cases import Shown
from blink.analysis.probe import PictureAttention, Prober
from blink.bench.statistics import Floats
from blink.inference.policy import Policy
from blink.inference.run import Run
from blink.inference.saliency import focus
from blink.runs.style import INTERP, TOKEN_SR, VANILLA, Line

METHODS: dict[str, Line] = {"vanilla": VANILLA, "interp": INTERP, "token_sr": TOKEN_SR}
"""The backbone as it is, expansion by interpolation alone, and with TokenSR."""

MEASURES = ("total_original", "total_extension", "entropy_original", "entropy_extension")


class Spread(NamedTuple):
    """Attention under one method.

    Attributes:
        measures: name of `MEASURES` -> [N, L]; nan for the extension of the backbone as it is.
        hottest_NL: hottest region of the original tokens.
        expanded_N: region that was expanded; -1 for the backbone as it is.
        maps: attention by layer of the first samples, for the figure of single cases.
    """

    measures: dict[str, Floats]
    hottest_NL: Any
    expanded_N: Any
    maps: list[dict[int, PictureAttention]]


class Redistribution(NamedTuple):
    """All methods on the same samples.

    Attributes:
        expanded_at: layer of the expansion.
        layers: L probed layers, `expanded_at` first.
        patches: p.
        right_N: region that holds most of the box, -1 where none is known.
        ids: of the samples.
        spreads: method -> attention under it.
    """

    expanded_at: int
    layers: list[int]
    patches: int
    right_N: Any
    ids: list[str]
    spreads: dict[str, Spread]


def expanding_policy(expanded_at: int, patches: int, positions: str = "append") -> Policy:
    """Always expand the hottest region at one layer, and keep it (Sec. 4.4)."""
    return Policy(layers=[expanded_at], tau_exp=0.0, tau_drop=0.0, patches=patches, positions=positions)


def measure(
    prober: Prober,
    shown: Sequence[Shown],
    expanded_at: int,
    patches: int,
    positions: str = "append",
    *,
    modules: Mapping[int, nn.Module] | None,
    keep_maps: int,
) -> Redistribution:
    """Probe every layer from `expanded_at` on, once per method.

    Args:
        positions: where the extension stands, as in `Policy`.
        modules: TokenSR by layer; None leaves that method out.
        keep_maps: of how many samples to keep whole maps.
    """
    layers = list(range(expanded_at, prober.backbone.num_layers))
    samples = [case.sample for case in shown]
    policy = expanding_policy(expanded_at, patches, positions)
    runs = {"vanilla": Run(), "interp": Run(policy)}
    if modules is not None:
        runs["token_sr"] = Run(policy, modules)
    spreads = {}
    for name, run in runs.items():
        rows, hottest, expanded, maps = [], [], [], []
        for number, probed in enumerate(prober(samples, layers, run, label=f"probing, {name}")):
            attention = [probed.attention[layer] for layer in layers]
            rows.append([_measures(one) for one in attention])
            originals_LV = torch.stack([one.original_V for one in attention])
            hottest.append(focus(originals_LV, attention[0].grid, patches).region_B.numpy())
            expanded.append(-1 if run.policy is None else probed.events[0].region)
            maps += [probed.attention] if number < keep_maps else []
        values_NLM = np.array(rows, dtype=np.float64)
        measures = {key: values_NLM[:, :, i] for i, key in enumerate(MEASURES)}
        spreads[name] = Spread(measures, np.stack(hottest), np.array(expanded), maps)
    right = np.array([-1 if case.right is None else case.right for case in shown])
    return Redistribution(expanded_at, layers, patches, right, [sample.id for sample in samples], spreads)


def normalised_entropy(attention_V: Tensor) -> float:
    """Entropy of attention within one part over the logarithm of its number of tokens, in [0, 1]; nan if it is empty."""
    if attention_V.numel() < 2 or float(attention_V.sum()) == 0:
        return float("nan")
    share_V = attention_V.double() / attention_V.double().sum()
    return float(torch.special.entr(share_V).sum() / np.log(share_V.numel()))


def table(found: Redistribution) -> list[dict[str, Any]]:
    """One record per method and layer: medians and quartiles over samples, and how often the extension exceeds."""
    records = []
    known_N = found.right_N >= 0
    for name, spread in found.spreads.items():
        for i, layer in enumerate(found.layers):
            record: dict[str, Any] = {"method": name, "layer": layer, "samples": len(found.ids)}
            for key in MEASURES:
                values_N = spread.measures[key][:, i]
                if not np.isnan(values_N).all():
                    low, median, high = np.nanquantile(values_N, (0.25, 0.5, 0.75))
                    record |= {
                        key: round(median, 6),
                        f"{key}_low": round(low, 6),
                        f"{key}_high": round(high, 6),
                    }
            if name != "vanilla":
                for part in ("total", "entropy"):
                    more_N = (
                        spread.measures[f"{part}_extension"][:, i] > spread.measures[f"{part}_original"][:, i]
                    )
                    record[f"{part}_higher_on_extension"] = round(float(more_N.mean()), 6)
            if known_N.any():
                correct_N = spread.hottest_NL[known_N, i] == found.right_N[known_N]
                record |= {
                    "samples_with_box": int(known_N.sum()),
                    "original_looks_right": round(float(correct_N.mean()), 6),
                }
            records.append(record)
    return records


def case_table(shown: Sequence[Shown], found: Redistribution) -> list[dict[str, Any]]:
    """One record per case, method and layer."""
    return [
        {
            "id": case.sample.id,
            "method": name,
            "expanded_region": int(spread.expanded_N[number]),
            "right_region": case.right,
            "layer": layer,
            **{key: round(float(values[number, i]), 6) for key, values in spread.measures.items()},
        }
        for number, case in enumerate(shown)
        for name, spread in found.spreads.items()
        for i, layer in enumerate(found.layers)
    ]


def _measures(attention: PictureAttention) -> list[float]:
    """The values of `MEASURES` at one layer."""
    extended = attention.extension_X.numel() > 0
    return [
        float(attention.original_V.sum()),
        float(attention.extension_X.sum()) if extended else float("nan"),
        normalised_entropy(attention.original_V),
        normalised_entropy(attention.extension_X),
    ]
