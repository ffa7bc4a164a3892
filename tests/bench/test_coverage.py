"""Intervals hold the true value about as often as they say, in worlds whose truth is known."""

import pytest

from tools.coverage import DERIVED, FLIPS, SHARES, World, bootstrapped, cells, covered, found

DRAWS = 1_000
"""Data sets in each cell, half of those that docs/statistics.md tells of."""

LEAST = 0.93
"""Of 95 %: the standard error of a share over so many data sets is 0.007."""


@pytest.mark.parametrize(
    "name", [*SHARES, *FLIPS, *(pytest.param(name, marks=pytest.mark.slow) for name in DERIVED)]
)
def test_intervals_cover(name: str) -> None:
    """Catches intervals that collapse near 100 %, with few pictures or few flips, or take questions as independent.

    20, 100 and 500 pictures with 3 to 18 questions each, which correlate by 0, 0.1 or 0.3 within a picture.
    """
    world: World = (SHARES | FLIPS | DERIVED)[name]
    seen = {
        (correlation, pictures): covered(found(drawn), drawn.truth)
        for _, correlation, pictures, drawn in cells({name: world}, DRAWS)
    }
    assert len(seen) == 9
    assert {cell: share for cell, share in seen.items() if share < LEAST} == {}


def test_width_is_that_of_the_bootstrap_where_that_is_good() -> None:
    """Catches coverage that is bought with width: with 500 pictures, at most a tenth wider at 80 and 95 %."""
    worlds = {name: SHARES[name] for name in ("accuracy 80 %", "accuracy 95 %")}
    for _, _, pictures, drawn in cells(worlds, draws=50):
        if pictures == 500:
            ours, theirs = ((each.high - each.low).mean() for each in (found(drawn), bootstrapped(drawn)))
            assert 0.98 < ours / theirs < 1.1
