"""The look before a search: every layer's saliency ratios, and how often its hottest region is the right one.

One pass over the questions with a policy that scans all layers and never acts, for each number of patches. Its answers
are those of the backbone as it is.

Axes: N questions, L layers.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from blink.bench import Row, Sample
from blink.bench.statistics import Estimate, Floats, Metric, bounds
from blink.evaluation.tuning.space import LOOK, Setting, Space
from blink.inference.boxes import seen_box
from blink.inference.policy import Policy
from blink.model.views import ViewMaker
from blink.runs.values import UserError


class Look(NamedTuple):
    """What was seen with one number of patches.

    Attributes:
        patches: p; a region taken blindly is right in 1 / p^2 of the cases.
        layers: L of them.
        ratio_NL: share of the hottest region in the saliency of the picture (Eq. 3).
        hottest_NL: that region, row-major.
        right_N: the region that holds most of the question's box (`inference/boxes.py`); -1 where no box is known or seen.
        pictures: of the questions, N; intervals are over them.
    """

    patches: int
    layers: tuple[int, ...]
    ratio_NL: Floats
    hottest_NL: Any
    right_N: Any
    pictures: list[str]

    @property
    def boxed(self) -> int:
        """How many questions have a known right region."""
        return int((self.right_N >= 0).sum())

    def right_shares(self) -> list[Estimate] | None:
        """Per layer the share of questions whose hottest region is the right one; None where no box is known."""
        known_N = self.right_N >= 0
        if not known_N.any():
            return None
        names = [picture for picture, known in zip(self.pictures, known_N, strict=True) if known]
        place = {name: number for number, name in enumerate(dict.fromkeys(names))}
        right_GL, asked_G = np.zeros((len(place), len(self.layers))), np.zeros(len(place))
        hit_NL = (self.hottest_NL == self.right_N[:, None])[known_N]
        for name, hit_L in zip(names, hit_NL, strict=True):
            right_GL[place[name]] += hit_L
            asked_G[place[name]] += 1
        return [
            Estimate(*(float(edge) for edge in bounds(Metric.share(right_G, asked_G))))
            for right_G in right_GL.T
        ]

    def order(self) -> list[int]:
        """Layers, the most promising first: by the share of right regions where boxes are known, else by the median ratio."""
        shares = self.right_shares()
        worth = np.median(self.ratio_NL, axis=0) if shares is None else [share.value for share in shares]
        return [layer for _, layer in sorted(zip(worth, self.layers, strict=True), key=lambda one: -one[0])]


def look_settings(space: Space) -> list[Setting]:
    """The settings that look: one for each number of patches."""
    return [Setting(LOOK, Policy.never(space.layers, patches=patches)) for patches in space.patches]


def look_at(
    settings: Sequence[Setting], rows: Sequence[Sequence[Row]], samples: Sequence[Sample], views: ViewMaker
) -> dict[int, Look]:
    """Read what was seen off the rows of `look_settings`: patches -> look.

    Questions about pictures too narrow for a number of patches are left out of its look.

    Args:
        rows: per setting those of all samples.

    Raises:
        ValueError: a number of patches fits no picture.
    """
    found, sizes = {}, _sizes(samples)
    for setting, of_setting in zip(settings, rows, strict=True):
        policy = setting.policy
        assert policy is not None
        seen = [(sample, row) for sample, row in zip(samples, of_setting, strict=True) if row["events"]]
        if not seen:
            raise UserError(
                f"space.patches={policy.patches}: all pictures are too narrow for {policy.patches} x {policy.patches} regions"
            )
        ratios = [[event["ratio"] for event in row["events"]] for _, row in seen]
        hottest = [[event["region"] for event in row["events"]] for _, row in seen]
        shape = (len(seen), len(policy.layers))
        found[policy.patches] = Look(
            policy.patches,
            tuple(policy.layers),
            np.array(ratios, dtype=np.float64).reshape(shape),
            np.array(hottest, dtype=np.int64).reshape(shape),
            np.array([_right(sample, sizes, views, policy.patches) for sample, _ in seen], dtype=np.int64),
            [sample.image for sample, _ in seen],
        )
    return found


def look_table(looks: Mapping[int, Look]) -> list[dict[str, Any]]:
    """One record per number of patches and layer."""
    records: list[dict[str, Any]] = []
    for look in looks.values():
        shares = look.right_shares()
        low_L, median_L, high_L = np.quantile(look.ratio_NL, (0.25, 0.5, 0.75), axis=0)
        for i, layer in enumerate(look.layers):
            records.append(
                {
                    "patches": look.patches,
                    "layer": layer,
                    "questions": len(look.pictures),
                    "ratio_median": round(float(median_L[i]), 6),
                    "ratio_quartile_low": round(float(low_L[i]), 6),
                    "ratio_quartile_high": round(float(high_L[i]), 6),
                    "questions_with_box": look.boxed,
                    "chance": round(1 / look.patches**2, 6),
                    "right": None if shares is None else round(shares[i].value, 6),
                    "right_low": None if shares is None else round(shares[i].low, 6),
                    "right_high": None if shares is None else round(shares[i].high, 6),
                }
            )
    return records


def _sizes(samples: Sequence[Sample]) -> dict[str, tuple[int, int]]:
    """Width and height of the pictures of questions with a box."""
    boxed = {sample.image: sample for sample in samples if sample.details.get("box") is not None}
    return {name: sample.load_image().size for name, sample in boxed.items()}


def _right(sample: Sample, sizes: Mapping[str, tuple[int, int]], views: ViewMaker, patches: int) -> int:
    """The region that holds most of a sample's box; -1 where there is none, or it is not seen."""
    box = sample.details.get("box")
    if box is None:
        return -1
    size = sizes[sample.image]
    found = seen_box(box, views.window(size))
    return -1 if found is None else found.region(patches, views.grid(size))
