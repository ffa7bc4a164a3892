"""The measurements by hand: how sides are timed, what is computed, and that they run on small stand-ins."""

import pytest
from benchmarks.common import Bench, Options, Row, Times, interleave, wide
from benchmarks.report import markdown

from benchmarks import extensions, never, on_paper, training


def small() -> Bench:
    """Width 256, two layers, 576 visual tokens."""
    return next(wide(Options(quick=True, layers=2, dtypes=("float32",)), layers=4))


def test_sides_take_turns() -> None:
    """Would catch one side timed in a block of its own, and a warm-up that is counted."""
    calls: list[str] = []
    times = interleave(lambda: calls.append("ours"), lambda: calls.append("theirs"), 3)
    assert calls == ["ours", "theirs"] * 4
    assert len(times.ours) == len(times.theirs) == 3


def test_ratio_is_of_medians() -> None:
    """Would catch a mean, which one interrupted repetition moves."""
    times = Times([2.0, 2.0, 90.0], [1.0, 1.0, 1.0])
    assert times.ratio == 2
    assert times.ratios == [2, 2, 90]


def test_table_marks_what_misses() -> None:
    """Would catch a missed bar that reads like a kept one."""
    rows = [Row("a", "b", 1.0, 0.9, 1.1, "<= 1.03", holds, 1.02) for holds in (True, False)]
    kept, missed = markdown(rows).splitlines()[-2:]
    assert "| yes |" in kept
    assert "| **no** |" in missed


@pytest.mark.slow
def test_prompt_measurements_run() -> None:
    """Would catch a policy that expands where it must not, or does not where it must: the FLOPs on paper tell.

    Beside the vision tower, which has its true width, a decoder of width 256 weighs little.
    """
    bench = small()
    never_expands = never.row(bench, (1,), 1).floor or 0
    expands = extensions.row(bench, refined=False, repeats=1).floor or 0
    assert 1 < never_expands < 1.01 < expands < 1.1


def test_training_keeps_nothing_of_the_backbone() -> None:
    """Would catch activations of the frozen trunk kept for a backward pass, and layers loaded that are not needed."""
    assert training.memory().holds


def test_a_step_carried_over_to_full_size() -> None:
    """Would catch shares of a step mixed up: where a module costs nothing, seven cost as much as one, and the reverse."""
    dims = small().dims
    assert training._full_size(dims, both=1.0, alone=1.0) == 1
    assert training._full_size(dims, both=2.0, alone=1.0) == 7


def test_full_size_table() -> None:
    """Would catch a backbone's numbers mixed up, by hand for LLaVA-1.5-7B on POPE.

    637 tokens through 6.48 G weights of decoder layers, attention of 32 layers, the 0.41 TFLOP of vision tower and
    projector, and the last token's logits twice, with one decoding step: 8.88 TFLOP.
    """
    table = {line[:2]: line for line in on_paper.lines()}
    assert len(table) == 12
    layers = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    by_hand = 2 * 638 * layers + 32 * 4 * 4096 * (637**2 + 638) + 4 * 4096 * 32064 + 0.406e12
    assert abs(float(table["LLaVA-1.5-7B", "POPE"][3]) - by_hand / 1e12) < 0.01
