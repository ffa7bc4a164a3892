"""How sides are timed, and what rows make of the times."""

from benchmarks.common import Row, Times, in_turn, interleave


def test_sides_take_turns() -> None:
    """Would catch one side timed in a block of its own or always behind the other, and a warm-up that is counted."""
    calls: list[str] = []
    times = interleave(lambda: calls.append("ours"), lambda: calls.append("theirs"), 3)
    assert calls == ["theirs", "ours", "ours", "theirs"] * 2
    assert len(times.ours) == len(times.theirs) == 3


def test_several_sides_take_turns() -> None:
    """Would catch sides whose seconds are mixed up, and a warm-up where none is wanted."""
    calls: list[int] = []
    times = in_turn([lambda n=n: calls.append(n) for n in range(3)], 2, warm_up=False)  # type: ignore[misc]
    assert calls == [0, 1, 2, 2, 1, 0]
    assert [len(seconds) for seconds in times] == [2, 2, 2]


def test_ratio_is_of_medians() -> None:
    """Would catch a mean, which one interrupted repetition moves."""
    times = Times([2.0, 2.0, 90.0], [1.0, 1.0, 1.0])
    assert times.ratio == 2
    assert times.ratios == [2, 2, 90]


def test_a_row_over_its_floor() -> None:
    """Would catch extremes or a value that are not divided by the FLOPs, and a bar that the undivided ratio meets."""
    times = Times([2.0, 3.0, 4.0], [2.0, 2.0, 2.0])
    plain = Row.at_most(1.6, "a", "b", times, floor=1.2)
    over = Row.at_most(1.2, "a", "b", times, floor=1.2, over_floor=True)
    assert plain[2:7] == (1.5, 1.0, 2.0, "<= 1.6", True)
    assert over[2:7] == (1.25, 1 / 1.2, 2 / 1.2, "<= 1.2", False)
