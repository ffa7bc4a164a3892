"""Which setting to take: the cheapest within one standard error of the best, on questions that the search did not see.

The best of many settings looks better than it is on the questions that it was searched on. So finalists are measured
again on the other half, and the choice is made there:

1. The best finalist is the one that gains most over the backbone as it is, on the same questions, pictures being the
   clusters. It has to gain by more than noise: the interval of its gain lies above 0, at a level that allows for the
   number of finalists (Bonferroni).
2. Of the finalists that do, and that gain at most one standard error less than the best, the cheapest is chosen.
3. Where none does, the backbone as it is is recommended, and the finalist that gains most (or loses least) is named as the
   least harmful one.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from blink.bench.statistics import LEVEL, Estimate
from blink.evaluation.tuning.measure import Answered, cost_of


class Finalist(NamedTuple):
    """A setting on the questions that the search did not see.

    Attributes:
        searched: on the search's questions.
        held_out: on the others.
        gain: over the backbone as it is on the others, in percentage points; at the level of `Choice`.
        error: standard error of it.
        beats: whether the interval lies above 0.
        near: whether it gains at most one standard error of the best less than the best.
    """

    searched: Answered
    held_out: Answered
    gain: Estimate
    error: float
    beats: bool
    near: bool


class Choice(NamedTuple):
    """What is recommended, and why.

    Attributes:
        chosen: the recommended finalist; where `beats` is false the least harmful one.
        beats: whether it beats the backbone as it is by more than noise.
        level: of the intervals, allowing for the number of finalists.
        reason: in words.
        finalists: all of them, the one that gains most first.
    """

    chosen: Finalist
    beats: bool
    level: float
    reason: str
    finalists: list[Finalist]


def pick_finalists(answered: Sequence[Answered], vanilla: Answered, count: int) -> list[Answered]:
    """The settings to measure again: half of them those that gain most, the others the cheapest close to the best.

    Args:
        answered: on the search's questions, each setting once.
        vanilla: the backbone as it is on them.
        count: how many at most.
    """
    cost = cost_of(answered)
    ranked = sorted(answered, key=lambda one: (-one.accuracy.value, cost(one)))
    best = ranked[0]
    least = best.accuracy.value - best.error_against(vanilla)
    close = sorted((one for one in ranked if one.accuracy.value >= least), key=cost)
    chosen = {id(one): one for one in [*ranked[: math.ceil(count / 2)], *close, *ranked]}
    return list(chosen.values())[:count]


def choose(searched: Sequence[Answered], held_out: Sequence[Answered], vanilla: Answered) -> Choice:
    """Choose among finalists.

    Args:
        searched, held_out: each finalist on both halves.
        vanilla: the backbone as it is on the held-out half.
    """
    cost = cost_of(held_out)
    level = 1 - (1 - LEVEL) / len(held_out)
    gains = [one.gain_over(vanilla, level) for one in held_out]
    errors = [one.error_against(vanilla) for one in held_out]
    # gains that are the same are of different worth where one costs less
    first = min(range(len(gains)), key=lambda i: (-gains[i].value, cost(held_out[i])))
    least = gains[first].value - errors[first]
    finalists = [
        Finalist(before, after, gain, error, gain.low > 0, gain.value >= least)
        for before, after, gain, error in zip(searched, held_out, gains, errors, strict=True)
    ]
    best = finalists[first]
    winners = [one for one in finalists if one.beats and one.near]
    ranked = sorted(finalists, key=lambda one: (-one.gain.value, cost(one.held_out)))
    if not winners:
        reason = (
            f"nothing beats the backbone as it is by more than noise: the best of {len(finalists)} finalists, "
            f"{best.held_out.setting.name}, gains {_points(best.gain)}; method=vanilla is recommended"
        )
        return Choice(best, False, level, reason, ranked)
    chosen = min(winners, key=lambda one: (cost(one.held_out), -one.gain.value))
    reason = f"{chosen.held_out.setting.name} gains {_points(chosen.gain)} over the backbone as it is"
    if chosen is best:
        more = "the best finalist, and none within one standard error of it is cheaper"
    else:
        more = (
            f"the cheapest within one standard error ({best.error:.2f} points) of the best, "
            f"{best.held_out.setting.name}, which gains {_points(best.gain)}"
        )
    return Choice(chosen, True, level, f"{reason}: {more}", ranked)


def _points(gain: Estimate) -> str:
    return f"{gain.value:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}] points"
