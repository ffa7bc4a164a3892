"""Rows of an experiment: what they become on a backbone, and under the user's own overrides."""

from typing import Any

import pytest

from blink.evaluation.sweeps.experiments import Line, lines_of, names, read_experiment

ABLATION = {
    "title": "An ablation",
    "bench": ["pope"],
    "rows": [
        {"name": "vanilla", "set": ["method=vanilla"]},
        {"name": "again", "set": ["method=vanilla"], "noise": True},
        {
            "name": "{method}",
            "each": {"method": ["interp", "blink"]},
            "set": ["method={method}", "layer={main}", "tau_exp={tau_exp}"],
        },
        {
            "name": "{method} high",
            "each": {"method": ["interp", "blink"]},
            "set": ["method={method}", "layer={main}", "tau_exp={high_tau_exp}"],
            "against": ["{method}"],
        },
    ],
}


def rows(given: dict[str, str] | None = None, family: str = "llava15_7b", **changes: Any) -> list[Line]:
    return lines_of(read_experiment(ABLATION | changes), "pope", given or {}, names(family))[0]


def test_rows_follow_the_backbone() -> None:
    """Would catch the paper's layers scanned on another backbone, and rows of two methods mixed up."""
    assert [(line.name, line.overrides) for line in rows()][2:4] == [
        ("interp", ("bench=pope", "method=interp", "layer=12-18", "tau_exp=0.5")),
        ("interp high", ("bench=pope", "method=interp", "layer=12-18", "tau_exp=0.7")),
    ]
    assert rows(family="tiny")[3].overrides[2:] == ("layer=6-9", "tau_exp=0.8")
    assert [line.name for line in rows()] == [
        "vanilla",
        "again",
        "interp",
        "interp high",
        "blink",
        "blink high",
    ]
    assert rows()[5].against == ("vanilla", "blink")


def test_thresholds_are_the_papers() -> None:
    """Would catch high and low thresholds that are not those of App. B, or that drift off in floating point."""
    known = names("llava15_7b")
    assert [known[key] for key in ("tau_exp", "tau_drop", "high_tau_exp", "low_tau_drop")] == [
        "0.5",
        "0.4",
        "0.7",
        "0.3",
    ]


def test_overrides_win_and_show_in_the_label() -> None:
    """Would catch a row's own layer that beats the user's, and a changed row shown under the paper's name."""
    line = rows({"layer": "3", "limit": "5"})[2]
    assert line.overrides == ("bench=pope", "method=interp", "layer=3", "tau_exp=0.5", "limit=5")
    assert (line.name, line.label, line.paper) == ("interp", "interp, layer=3", "")


def test_one_method_leaves_its_rows_and_the_baseline() -> None:
    """Would catch blink's rows run as interp, twice under two names, and a table without what it is compared with."""
    assert [line.label for line in rows({"method": "interp"})] == [
        "vanilla",
        "again",
        "interp",
        "interp high",
    ]
    assert [line.label for line in rows({"method": "vanilla"})] == ["vanilla", "again"]


def test_a_reference_stays_though_it_equals_another_row() -> None:
    """Would catch differences that lose their reference where the user's threshold is the high one."""
    assert [line.label for line in rows({"tau_exp": "0.7", "method": "blink"})] == [
        "vanilla",
        "again",
        "blink, tau_exp=0.7",
        "blink high",
    ]


def test_vanilla_has_no_policy_in_its_name() -> None:
    """Would catch the same vanilla run once more for every threshold that is tried."""
    assert rows({"layer": "3", "seed": "1", "token_sr": "x", "scenes.images": "4"})[0].overrides == (
        "bench=pope",
        "scenes.images=4",
        "method=vanilla",
    )


@pytest.mark.parametrize(
    ("given", "other", "batch"),
    [
        ({}, "none", "8"),
        ({"engine.batch": "3"}, "none", "3"),
        ({"engine.reuse": "none"}, "full", None),
    ],
)
def test_noise_row_batches_otherwise(given: dict[str, str], other: str, batch: str | None) -> None:
    """Would catch a noise floor measured by the very same run, or one question at a time, which takes longest."""
    plain, again = rows(given)[:2]
    assert [each for each in again.overrides if "batch=" in each] == [f"engine.batch={batch}"] * (
        batch is not None
    )
    assert f"engine.reuse={other}" in again.overrides
    assert f"engine.reuse={other}" not in plain.overrides
    assert (plain.noise, again.noise, again.against) == (False, True, ("vanilla",))


def test_unknown_backbone_needs_the_users_layers() -> None:
    """Would catch layers of some backbone taken for one that has no study."""
    with pytest.raises(ValueError, match=r"'main' is not known for this backbone.*give layer="):
        rows(family="mine")
    with pytest.raises(ValueError, match="'tau_exp' is not known"):
        rows({"layer": "1"}, family="mine")
    assert rows({"layer": "1", "tau_exp": "0.5"}, family="mine")[2].overrides[2:] == (
        "layer=1",
        "tau_exp=0.5",
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"benches": []}, r"unknown keys \['benches'\]"),
        ({"paper": "table9"}, "the paper has no 'table9'"),
        ({"baseline": "stock"}, "must differ and hold the baseline"),
        ({"rows": [*ABLATION["rows"], {"name": "vanilla"}]}, "must differ"),
        ({"rows": [{"name": "vanilla", "sets": []}]}, r"no \['sets'\]"),
    ],
)
def test_mistakes_in_a_file_are_named(changes: dict[str, Any], message: str) -> None:
    """Would catch a misspelt key that is ignored."""
    with pytest.raises(ValueError, match=message):
        rows(**changes)
