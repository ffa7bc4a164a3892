"""What tests of the search share: answers by hand, and a space.

Files of the room that are tested where they are used:

    report.py   test_tune.py
    plan.py     test_tune.py
    passes.py   test_tune.py
"""

from collections.abc import Sequence

import numpy as np

from blink.bench.statistics import Metric
from blink.evaluation.tuning.measure import Answered
from blink.evaluation.tuning.space import VANILLA, Setting, Space
from blink.inference.policy import Policy

SPACE = Space(
    methods=("interp", "blink"),
    layers=(0, 1, 2, 3),
    modules=(1, 3),
    longest=3,
    patches=(2, 3),
    positions=("append", "region"),
)


def setting(layer: int = 1, method: str = "interp") -> Setting:
    return Setting(method, Policy([layer]))


def answered(
    right: Sequence[int], flops: float | None = 1.0, of: Setting = VANILLA, asked: int = 5
) -> Answered:
    """A setting that has `right` of five questions about each picture right."""
    part_G = np.array(right, dtype=np.float64)
    metric = Metric.mean_percent(part_G[:, None], np.full((len(right), 1), float(asked)))
    return Answered(of, metric, ("all",), flops, 0.5, 1.0)
