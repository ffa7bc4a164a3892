"""Gains over vanilla and what each step loses, from runs written by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from blink.analysis.figures.of_runs import ceilings
from blink.analysis.figures.of_runs.ceilings import Setting
from blink.analysis.figures.of_runs.points import Point, read_points
from blink.inference.policy import Policy
from tests.analysis.figures.conftest import drawn
from tests.finished_runs import Rule, finish, samples

WRONG = {
    Setting("encode", "region", "box"): 0,
    Setting("encode", "region", "saliency"): 2,
    Setting("blink", "region", "saliency"): 3,
    Setting("blink", "append", "saliency"): 7,
}
"""Setting -> how many of 24 answers are wrong."""


def run(folder: Path, setting: Setting | None, wrong: int) -> Path:
    asked = samples()
    policy = (
        None
        if setting is None
        else Policy([2, 3], 0.0, 0.0, positions=setting.positions, selector=setting.selector)
    )
    place = folder / "-".join(setting or ("vanilla",))
    method = "vanilla" if setting is None else setting.method
    finish(place, Rule([sample.id for sample in asked[:wrong]]), asked, method=method, policy=policy)
    return place


def points(folder: Path) -> list[Point]:
    folders = [run(folder, None, 4), *(run(folder, setting, wrong) for setting, wrong in WRONG.items())]
    return read_points(folders, "pope")


def test_each_step_is_what_it_takes_back(tmp_path: Path) -> None:
    """Would catch a step against vanilla in place of the step before, and a sign that is turned."""
    made = drawn("ceilings", points(tmp_path), tmp_path, metric="accuracy")
    steps = [r for r in made.table if r["against"] == "the step before" and r["metric"] == "accuracy"]
    expected = [100 * (before - after) / 24 for before, after in ((0, 2), (2, 3), (3, 7))]
    assert [step["difference"] for step in steps] == pytest.approx(expected, abs=1e-3)
    assert [step["what"] for step in steps] == [name for name, *_ in ceilings.STEPS]
    gains = {
        Setting(r["method"], r["positions"], r["selector"]): r["difference"]
        for r in made.table
        if r["against"] == "vanilla" and r["metric"] == "accuracy"
    }
    assert gains == pytest.approx(
        {setting: 100 * (4 - wrong) / 24 for setting, wrong in WRONG.items()}, abs=1e-3
    )


def test_steps_without_their_runs_are_left_out(tmp_path: Path) -> None:
    """Would catch a figure that needs all runs, or a step between settings that differ in two things."""
    found = [p for p in points(tmp_path) if p.run.result.method != "blink" or p.policy.positions == "append"]  # type: ignore[union-attr]
    made = drawn("ceilings", found, tmp_path)
    assert {r["what"] for r in made.table if r["against"] != "vanilla"} == {ceilings.STEPS[0][0]}


def test_runs_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    """Would catch one of two runs of a setting dropped in silence, and gains over nothing."""
    found = points(tmp_path)
    with pytest.raises(ValueError, match="have one setting"):
        ceilings.choose([*found, found[1]])
    with pytest.raises(ValueError, match="needs one vanilla run"):
        ceilings.choose(found[1:])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tau_exp": 0.3}, "always expand"),
        ({"layers": (2,)}, "has layers="),
        ({"patches": 3}, "has patches="),
    ],
)
def test_runs_that_differ_in_more_than_their_setting_are_refused(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    """Would catch steps that mix in another layer, threshold or split, under a title that says "always expanding"."""
    vanilla, first, other, *rest = points(tmp_path)
    assert other.policy is not None
    policy = replace(other.policy, **change)
    result = replace(other.run.result, policy=policy)
    strange = Point(other.run._replace(result=result), tuple(policy.layers))
    with pytest.raises(ValueError, match=says):
        ceilings.choose([vanilla, first, strange, *rest])
