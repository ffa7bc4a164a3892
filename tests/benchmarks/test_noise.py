"""What differs between two ways to answer."""

from benchmarks.noise import Answered, before_closing, differences
from blink import Event


def test_what_differs_between_two_sides() -> None:
    """Would catch a ratio that counts as a flip, and flips of region or action that do not."""
    at = Event(9, 0.5, 1, "keep")
    one = [Answered((1,), (at,)), Answered((1,), (at,)), Answered((2,), (at,)), Answered((2,), (at,))]
    other = [
        Answered((1,), (Event(9, 0.75, 1, "keep"),)),
        Answered((3,), (Event(9, 0.5, 2, "keep"),)),
        Answered((2,), (Event(9, 0.5, 1, "drop"),)),
        Answered((2,), (at,)),
    ]
    assert differences(one, other) == (1, 2, 4, 0.25)


def test_answers_end_at_their_closing_token() -> None:
    """Would catch padding behind a short answer of a batch that counts as a difference."""
    assert (
        before_closing([5, 6, 2, 0, 0], frozenset({2})) == before_closing([5, 6, 2], frozenset({2})) == (5, 6)
    )
    assert before_closing([5, 6], frozenset({2})) == (5, 6)
