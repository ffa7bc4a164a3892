"""What long work says of itself where no bar can be drawn."""

import logging

import pytest

from blink.runs import progress


@pytest.fixture
def minutes(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock in minutes, which a test sets."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: 60 * now[0])
    return now


def test_a_line_a_minute(minutes: list[float], caplog: pytest.LogCaptureFixture) -> None:
    """Would catch a flood of lines, a rest that counts work done before, and a line about nothing."""
    caplog.set_level(logging.INFO)
    lines = progress.Lines("pope", 1300, done=100)
    for minute, done in ((0.5, 130), (1.0, 160), (1.5, 190), (2.0, 220), (3.0, 1300)):
        minutes[0] = minute
        lines.at(done, ", fine")
    assert caplog.messages == [
        "pope: 160 of 1,300, fine, about 19 min left",
        "pope: 220 of 1,300, fine, about 18 min left",
        "pope: 1,300 of 1,300, fine, about 0 s left",
    ]


@pytest.mark.parametrize("shown", [True, False])
def test_work_in_a_file_is_told_in_lines(
    shown: bool, minutes: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    """Would catch a command under a batch system that says nothing for hours, and two processes that both speak."""
    caplog.set_level(logging.INFO)
    with progress.progress("answering", 200, shown=shown) as advance:
        for _ in range(4):
            minutes[0] += 1.0
            advance(50)
    told = [
        "50 of 200, about 3 min",
        "100 of 200, about 2 min",
        "150 of 200, about 60 s",
        "200 of 200, about 0 s",
    ]
    assert caplog.messages == ([f"answering: {line} left" for line in told] if shown else [])


@pytest.mark.parametrize(
    ("minute", "words"), [(1, "60 s"), (2, "2 min"), (119.9, "2 h 0 min"), (200, "3 h 20 min")]
)
def test_times_in_words(
    minute: float, words: str, minutes: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    """Would catch hours told as minutes."""
    caplog.set_level(logging.INFO)
    lines = progress.Lines("x", 2)
    minutes[0] = minute
    lines.at(1)
    assert caplog.messages == [f"x: 1 of 2, about {words} left"]
