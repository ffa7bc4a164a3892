"""The search on a function by hand: it finds what is good, and is the same again."""

from collections.abc import Sequence

import numpy as np

from blink.evaluation.tuning.measure import Answered
from blink.evaluation.tuning.search import Trial, distinct, search
from blink.evaluation.tuning.space import Setting
from tests.evaluation.tuning.conftest import SPACE, answered

RATIOS = {patches: np.linspace(0.3, 0.9, 40)[:, None] * np.ones((1, 4)) for patches in (2, 3)}


def measured(calls: list[list[Setting]], settings: Sequence[Setting]) -> list[Answered]:
    """Layer 2 and region are good."""
    calls.append(list(settings))
    found = []
    for setting in settings:
        assert setting.policy is not None
        good = (2 in setting.policy.layers) + (setting.policy.positions == "region")
        found.append(answered([2 + good] * 10, of=setting))
    return found


def searched(seed: int = 0, trials: int = 20) -> tuple[list[Trial], list[list[Setting]]]:
    calls: list[list[Setting]] = []
    found = search(
        SPACE, RATIOS, [1, 0, 2, 3], lambda new: measured(calls, new), trials=trials, batch=5, seed=seed
    )
    return found, calls


def test_a_search_is_the_same_again() -> None:
    """Would catch a search that ends elsewhere once it was stopped: it is gone through again from its answers."""
    first, second, other = searched(), searched(), searched(seed=1)
    assert [trial.answered.setting for trial in first[0]] == [trial.answered.setting for trial in second[0]]
    assert [trial.answered.setting for trial in first[0]] != [trial.answered.setting for trial in other[0]]
    assert first[1] == second[1]
    assert searched(trials=10)[1] != first[1]


def test_batches_and_repeats() -> None:
    """Would catch settings answered one by one, or a second time, and a search that learns nothing."""
    found, calls = searched(trials=40)
    assert [trial.number for trial in found] == list(range(40))
    assert len(calls) <= 8
    assert all(0 < len(call) <= 5 for call in calls)
    new = [setting for call in calls for setting in call]
    assert len(new) == len(set(new)) == len(distinct(found))
    late = [trial.answered.accuracy.value for trial in found[-15:]]
    assert np.mean(late) > np.mean([trial.answered.accuracy.value for trial in found[:15]])
