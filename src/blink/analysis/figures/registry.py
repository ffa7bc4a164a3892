"""All figures, by the name that `figure=` has."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from blink.analysis.figures import copy_radar, layer_range, thresholds
from blink.analysis.figures.attention_maps import AttentionMapsFigure
from blink.analysis.figures.attention_ratio import AttentionRatioFigure
from blink.analysis.figures.base import BackboneFigure
from blink.analysis.figures.points import Point
from blink.analysis.figures.redistribution_drawings import RedistributionFigure
from blink.analysis.figures.tokensr import TokenSRFigure
from blink.runs.style import Drawn

BACKBONE_FIGURES: dict[str, type[BackboneFigure]] = {
    "attention_maps": AttentionMapsFigure,
    "attention_ratio": AttentionRatioFigure,
    "redistribution": RedistributionFigure,
    "tokensr": TokenSRFigure,
}
"""Figures that look into a backbone."""

RUN_FIGURES: dict[str, Callable[[Sequence[Point], Mapping[str, Any], str], Drawn]] = {
    "copy_radar": copy_radar.figure_of_runs,
    "layer_range": layer_range.figure_of_runs,
    "thresholds": thresholds.figure_of_runs,
}
"""Figures of finished runs; they take the runs, the settings of their group in conf/figure/, and the backbone's family."""
