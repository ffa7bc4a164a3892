"""Settings from what a search suggests."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from blink.evaluation.tuning.space import check_methods, known_methods, layers_text
from blink.runs.values import UserError
from tests.evaluation.tuning.conftest import SPACE

RATIOS = {
    2: np.linspace(0.25, 1, 101)[:, None] * np.ones((1, 4)),
    3: np.linspace(0.2, 0.9, 101)[:, None] * np.ones((1, 4)),
}
GIVEN: dict[str, Any] = {
    "method": "interp",
    "first": 1,
    "count": 2,
    "above": 0.5,
    "below": 0.25,
    "patches": 2,
    "positions": "region",
}


class Fixed:
    """Suggests given numbers, if they are among those that may be suggested."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.given = given

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        assert self.given[name] in choices
        return self.given[name]

    def suggest_int(self, name: str, low: int, high: int) -> int:
        assert low <= self.given[name] <= high
        return int(self.given[name])

    def suggest_float(self, name: str, low: float, high: float, *, step: float) -> float:
        assert low <= self.given[name] <= high
        return float(self.given[name])


@pytest.mark.parametrize("patches", [2, 3])
def test_thresholds_are_shares_of_the_ratios_that_were_seen(patches: int) -> None:
    """Would catch thresholds in units of another split: then other shares than those asked for expand or drop."""
    policy = SPACE.setting(Fixed(GIVEN | {"patches": patches}), RATIOS).policy
    assert policy is not None
    expand_above, drop_below = policy.thresholds
    assert np.mean(RATIOS[patches][:, 0] > expand_above) == pytest.approx(0.5, abs=0.02)
    assert np.mean(RATIOS[patches][:, 0] < drop_below) == pytest.approx(0.25, abs=0.02)
    assert (policy.layers, policy.positions) == ((1, 2), "region")
    always = SPACE.setting(Fixed(GIVEN | {"patches": patches, "above": 1.0, "below": 0.0}), RATIOS).policy
    assert always is not None
    assert (always.tau_exp, always.tau_drop) == (0, 0)


def test_settings_that_do_the_same_are_the_same() -> None:
    """Would catch one setting answered several times: a single layer has nothing to drop, and there is no fifth layer."""
    one, other = (SPACE.setting(Fixed(GIVEN | {"count": 1, "below": below}), RATIOS) for below in (0.0, 0.75))
    assert one == other
    assert one.name == "interp+layers-1+exp-0.625+drop-0+p-2+region"
    end, beyond = (SPACE.setting(Fixed(GIVEN | {"first": 2, "count": count}), RATIOS) for count in (2, 3))
    assert end == beyond


def test_layers_without_modules_are_left_out() -> None:
    """Would catch a run that is refused in the midst of a search for a module that is missing."""
    found = [
        SPACE.setting(Fixed(GIVEN | {"method": "blink", "first": first, "count": count}), RATIOS).policy
        for first, count in ((0, 3), (1, 3), (0, 1), (2, 1))
    ]
    assert [policy and policy.layers for policy in found] == [(1,), (1, 3), (1,), (1,)]
    starts = SPACE.starts([2, 3], 10)
    assert [(start["method"], start["first"]) for start in starts] == [
        ("interp", 2),
        ("interp", 3),
        ("blink", 3),
    ]
    assert SPACE.setting(Fixed(starts[0]), RATIOS).policy is not None


def test_methods_are_those_that_exist() -> None:
    """Would catch a method that is tried though this version does not have it, and a misspelt one."""
    assert {"interp", "blink"} <= set(known_methods())
    assert check_methods(["blink", "interp", "blink"]) == ("interp", "blink")
    with pytest.raises(UserError, match=r"space.method='vanilla': expected one or more of interp, blink"):
        check_methods(["vanilla"])


def test_layers_in_words() -> None:
    """Would catch folder names that grow with the number of layers."""
    assert [layers_text(layers) for layers in ((3,), (3, 4, 5), (3, 5))] == ["3", "3-5", "3_5"]
