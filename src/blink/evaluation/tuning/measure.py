"""Settings answered in one pass, and by how much each beats the backbone as it is.

Every setting keeps its rows in a folder of its own, picture by picture, so that a search that was stopped anywhere goes
on where it was. What is maximized is the mean accuracy over the parts of the questions: the benchmarks where there are
several, or else the kinds of question where the rows say them, or else all questions. Differences are taken on
the same questions; pictures are the clusters.

Axes: G pictures, J parts.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from blink.bench import Row
from blink.bench.statistics import LEVEL, Bounds, Estimate, Metric, bounds, paired_bounds
from blink.evaluation.answering.predict import Task, predict
from blink.evaluation.answering.rows import resume
from blink.evaluation.tuning.passes import Passes
from blink.evaluation.tuning.plan import Asked
from blink.evaluation.tuning.space import Setting

ANSWERS = "answers"
"""Folder of all rows, in the search's folder."""

ONE_ERROR = 0.6826894921370859
"""How often a normal variable is within one standard error."""


class Answered(NamedTuple):
    """A setting's rows on one half of the questions, reduced to what choices are made by.

    Attributes:
        metric: mean accuracy over the parts in percent, as sums over pictures; equal groups for every setting.
        parts: names of the parts, J.
        flops: mean per question, each answered alone; None if some were not counted.
        expanded: share of the questions with an expansion, in [0, 1].
        expansions: mean number of expansions per question.
    """

    setting: Setting
    metric: Metric
    parts: tuple[str, ...]
    flops: float | None
    expanded: float
    expansions: float

    @property
    def accuracy(self) -> Estimate:
        """Mean accuracy over the parts, in percent."""
        return _estimate(bounds(self.metric))

    def gain_over(self, other: "Answered", level: float = LEVEL) -> Estimate:
        """By how much it is better on the same questions, in percentage points."""
        return _estimate(paired_bounds(other.metric, self.metric, level=level))

    def error_against(self, other: "Answered") -> float:
        """Standard error of `gain_over`; one of no difference has a width, too, as unseen flips may come."""
        found = self.gain_over(other, ONE_ERROR)
        return (found.high - found.low) / 2

    def gains_by_part(self, other: "Answered") -> dict[str, Estimate]:
        """`gain_over` of each part alone."""
        found = {}
        for number, name in enumerate(self.parts):
            mine, theirs = (
                Metric.percent(each.metric.part_GJ[:, number], each.metric.whole_GJ[:, number])
                for each in (self, other)
            )
            found[name] = _estimate(paired_bounds(theirs, mine))
        return found


def cost_of(compared: Sequence[Answered]) -> Callable[[Answered], float]:
    """What is preferred where it is smaller: FLOPs, or expansions where those of one of the compared are not counted."""
    counted = all(one.flops is not None for one in compared)
    return lambda one: one.expansions if one.flops is None or not counted else one.flops


class Measurer:
    """Answers settings, or reads what was answered before.

    Args:
        passes: of the search.
        folder: of the search.
    """

    def __init__(self, passes: Passes, folder: Path) -> None:
        self._passes, self._plan, self._folder = passes, passes.plan, folder

    def __call__(self, settings: Sequence[Setting], half: str) -> list[Answered]:
        """Answer settings on a half of the questions of every benchmark, each benchmark in one pass.

        Raises:
            Stopped: a signal asks for an end; after the picture that was being answered.
        """
        rows = self.rows(settings, half)
        return [
            reduced(setting, [of_bench[number] for of_bench in rows], self._plan.asked)
            for number, setting in enumerate(settings)
        ]

    def rows(self, settings: Sequence[Setting], half: str) -> list[list[list[Row]]]:
        """The same as rows: per benchmark, per setting."""
        return [self._rows(number, settings, half) for number in range(len(self._plan.asked))]

    def _rows(self, bench: int, settings: Sequence[Setting], half: str) -> list[list[Row]]:
        """Rows of one of the benchmarks, by its number."""
        one = self._passes.of(settings, bench, half)
        tasks = []
        for setting, inputs in zip(settings, one.inputs, strict=True):
            folder = self._folder / ANSWERS / half / one.benchmark.name / setting.name
            folder.mkdir(parents=True, exist_ok=True)
            tasks.append(Task(folder, resume(folder, one.samples, inputs=inputs)))
        sharing = self._passes.sharing(settings, bench, half)
        predict(one.benchmark, one.samples, tasks, one.load, sharing=sharing)
        return [task.rows for task in tasks]


def reduced(setting: Setting, rows: Sequence[Sequence[Row]], asked: Sequence[Asked]) -> Answered:
    """Reduce a setting's rows, which are in lists of one benchmark each."""
    several = len(rows) > 1
    everything = [row for part in rows for row in part]
    named = not several and all(row.get("kind") for row in everything)
    groups: dict[tuple[int, str], dict[str, list[bool]]] = {}
    for number, (part, each) in enumerate(zip(rows, asked, strict=True)):
        clusters = each.benchmark.clusters(part, [row["image"] for row in part])
        for row, cluster in zip(part, clusters, strict=True):
            name = row["kind"] if named else each.benchmark.name
            groups.setdefault((number, cluster), {}).setdefault(name, []).append(bool(row["correct"]))
    parts = tuple(dict.fromkeys(name for group in groups.values() for name in group))
    part_GJ, whole_GJ = (np.zeros((len(groups), len(parts))) for _ in range(2))
    for place, group in enumerate(groups.values()):
        for name, marks in group.items():
            part_GJ[place, parts.index(name)] = sum(marks)
            whole_GJ[place, parts.index(name)] = len(marks)
    flops = [row.get("flops") for row in everything]
    counts = [sum(event["action"] == "expand" for event in row["events"]) for row in everything]
    return Answered(
        setting,
        Metric.mean_percent(part_GJ, whole_GJ),
        parts,
        None if None in flops else sum(float(each or 0) for each in flops) / len(flops),
        sum(count > 0 for count in counts) / len(counts),
        sum(counts) / len(counts),
    )


def _estimate(found: Bounds) -> Estimate:
    return Estimate(*(float(edge) for edge in found))
