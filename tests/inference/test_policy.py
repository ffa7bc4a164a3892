"""Policy, Event and what decides: hand-computed cases."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from blink.inference.policy import Event, Policy, check_policy, decide, living, parse_layers


def actions(policy: Policy, ratios: list[float], key: str = "k") -> list[str]:
    """The action at each scanned layer, for one measured ratio per layer."""
    return [
        decide(policy, layer, ratio, 1, key).action
        for layer, ratio in zip(policy.layers, ratios, strict=True)
    ]


def test_layers_are_sorted_unique_and_hashable() -> None:
    """Catches policies that differ by the order or kind of their layers, which caches key on."""
    policy = Policy(layers=[3, 1, 3])
    assert policy.layers == (1, 3)
    assert policy == Policy(layers={1, 3})
    assert hash(policy) == hash(Policy(layers=range(1, 4, 2)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        policy.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "settings",
    [
        {"layers": []},
        {"layers": [-1]},
        {"layers": "12"},
        {"layers": [1.5]},
        {"layers": [True]},
        {"layers": 12},
        {"layers": b"12"},
        {"tau_exp": 1.01},
        {"tau_exp": float("nan")},
        {"tau_drop": -0.1},
        {"tau_drop": "0.4"},
        {"patches": 1},
        {"patches": 2.0},
        {"interpolate": "maybe"},
        {"interpolate": 1},
        {"scale_tau": None},
        {"saliency": "attn"},
        {"selector": "max"},
        {"schedule": "always"},
        {"seed": 0.5},
        {"seed": True},
        {"patches": np.float64(2)},
        {"tau_exp": np.float32("nan")},
        {"layers": np.array([0.5])},
        {"saliency": ["attention"]},
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any]) -> None:
    """Catches a misspelt or out-of-range setting that would run as a default."""
    with pytest.raises(ValueError, match=next(iter(settings))):
        Policy(**{"layers": [1], **settings})


def test_numbers_of_numpy_are_numbers() -> None:
    """Catches settings out of an array that are refused, or kept as they are, which JSON and reprs would show."""
    settings: dict[str, Any] = {
        "tau_exp": np.float32(0.5),
        "tau_drop": np.float64(0.25),
        "patches": np.int64(3),
    }
    settings["seed"] = np.uint8(7)
    drawn = Policy(np.arange(1, 3), **settings)
    assert drawn == Policy((1, 2), 0.5, 0.25, 3, seed=7)
    assert repr(drawn) == repr(Policy((1, 2), 0.5, 0.25, 3, seed=7))
    assert json.dumps(dataclasses.asdict(drawn))
    four: Any = np.int64(4)
    assert parse_layers(four) == (4,)
    assert parse_layers(np.array([4, 2])) == (2, 4)


def test_what_is_no_policy_is_named() -> None:
    """Catches an AttributeError where layers are given in place of a policy."""
    check_policy(Policy([1]))
    for policy in ("12-18", None, [12], Policy):
        with pytest.raises(ValueError, match=r"policy=.*expected a blink\.Policy, such as"):
            check_policy(policy)


def test_thresholds_are_strict_and_expansion_comes_first() -> None:
    """Catches >= for >, and a drop threshold that wins over expansion where it is the higher one."""
    policy = Policy(layers=range(4), tau_exp=0.5, tau_drop=0.25)
    assert actions(policy, [0.5, 0.51, 0.25, 0.24]) == ["keep", "expand", "keep", "drop"]
    crossed = Policy(layers=range(3), tau_exp=0.25, tau_drop=0.5)
    assert actions(crossed, [0.4, 0.25, 0.6]) == ["expand", "drop", "expand"]


def test_thresholds_scale_with_patches() -> None:
    """Catches App. E's scaling the wrong way round, or applied when switched off."""
    assert Policy(layers=[1], patches=4, tau_exp=0.5, tau_drop=0.4).thresholds == (0.125, 0.1)
    assert Policy(layers=[1], patches=4, scale_tau=False).thresholds == (0.5, 0.4)


def test_event_records_the_decision_and_what_was_measured() -> None:
    """Catches an event that holds the threshold, or loses the region where nothing is expanded."""
    assert decide(Policy(layers=[7]), 7, 0.45, 3, "k") == Event(layer=7, ratio=0.45, region=3, action="keep")


def test_cycle_alternates_over_scanned_layers() -> None:
    """Catches a cycle counted in layer numbers rather than in scans."""
    policy = Policy(layers=[2, 4, 6, 7], schedule="cycle")
    assert actions(policy, [0.0, 1.0, 0.0, 1.0]) == ["expand", "drop", "expand", "drop"]


def test_random_draws_are_uniform_and_named_by_key() -> None:
    """Catches draws that ignore seed, key or layer, favour one side, or repeat between runs of Python."""
    policy = Policy(layers=range(400), selector="random", schedule="random", seed=3)
    events = [decide(policy, layer, 0.3, 0, "a") for layer in policy.layers]
    assert events == [decide(policy, layer, 0.3, 0, "a") for layer in policy.layers]
    expanded = [event.region for event in events if event.action == "expand"]
    assert 160 < len(expanded) < 240
    assert min(expanded.count(region) for region in range(4)) > len(expanded) // 8
    assert all(event.region == 0 for event in events if event.action == "drop")
    for other in (
        [decide(policy, layer, 0.3, 0, "b") for layer in policy.layers],
        [decide(dataclasses.replace(policy, seed=4), layer, 0.3, 0, "a") for layer in policy.layers],
    ):
        assert sum(a.action != b.action for a, b in zip(events, other, strict=True)) > 120
    first = [decide(policy, layer, 0.3, 0, "a").action for layer in range(6)]
    assert first == "expand drop expand expand expand drop".split()


def test_random_selector_leaves_the_action_alone() -> None:
    """Catches a random selector that also draws the action, or a region where nothing is expanded."""
    policy = Policy(layers=range(40), selector="random", tau_exp=0.5, tau_drop=0.2)
    kept = [decide(policy, layer, 0.3, 2, "k") for layer in policy.layers]
    assert {(event.action, event.region) for event in kept} == {("keep", 2)}
    expanded = [decide(policy, layer, 0.9, 2, "k") for layer in policy.layers]
    assert {event.action for event in expanded} == {"expand"}
    assert {event.region for event in expanded} == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("written", "layers"),
    [
        (12, (12,)),
        ("12", (12,)),
        ("12-14", (12, 13, 14)),
        ("14,12", (12, 14)),
        ("0-1, 5", (0, 1, 5)),
        ([12, 14], (12, 14)),
        (range(2), (0, 1)),
    ],
)
def test_parse_layers(written: Any, layers: tuple[int, ...]) -> None:
    """Catches a range without its last layer, and the forms that Hydra hands over."""
    assert parse_layers(written) == layers


@pytest.mark.parametrize("written", ["", "12-", "a", "14-12", "-1", [], [-1], True, ["12"]])
def test_parse_layers_refuses(written: Any) -> None:
    """Catches layers that are read as others, or as none."""
    with pytest.raises(ValueError, match="layers"):
        parse_layers(written)


def test_never() -> None:
    """Catches a ratio at either end that makes it act, thresholds scaled out of reach of that, and fields lost."""
    policy = Policy.never([1, 2, 3], patches=3, saliency="similarity")
    assert actions(policy, [0.0, 0.5, 1.0]) == ["keep"] * 3
    assert (policy.patches, policy.saliency) == (3, "similarity")


E = [Event(1, 0.9, 2, "expand"), Event(3, 0.1, 0, "drop")]
K = [Event(1, 0.9, 2, "expand"), Event(3, 0.5, 2, "keep")]
N = [Event(1, 0.4, 2, "keep"), Event(3, 0.1, 2, "drop")]


def test_living_extension() -> None:
    """Would catch an extension that dies with its layer, or outlives a drop."""
    assert living(E, 5) == [None, (1, 2), (1, 2), None, None]
    assert living(K, 5) == [None, (1, 2), (1, 2), (1, 2), (1, 2)]
    assert living(N, 5) == [None] * 5
