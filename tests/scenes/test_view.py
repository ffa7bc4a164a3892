"""Quadrants of a picture show what lies in them, and say where they cut."""

import numpy as np
import pytest

from blink.scenes.draw import scene
from blink.scenes.view import view


def test_quadrants_tile_the_picture() -> None:
    """Would catch quadrants in another order than the regions of the grid."""
    drawn = scene("test", 1)
    whole = np.asarray(view(drawn).image)
    parts = [np.asarray(view(drawn, q).image) for q in range(4)]
    np.testing.assert_array_equal(whole, np.block([[[parts[0]], [parts[1]]], [[parts[2]], [parts[3]]]]))


def test_objects_are_present_doubtful_or_absent() -> None:
    """Would catch a cut object that is asked about, or one that lies elsewhere and counts."""
    cut = 0
    for index in range(60):
        drawn = scene("test", index)
        for quadrant in range(4):
            seen = view(drawn, quadrant)
            left, top = quadrant % 2 * 96, quadrant // 2 * 96
            for item in drawn.objects:
                x0, y0, x1, y1 = item.box
                inside = left <= x0 and x1 < left + 96 and top <= y0 and y1 < top + 96
                outside = x1 < left - 1 or x0 > left + 96 or y1 < top - 1 or y0 > top + 96
                found = [o for o in seen.objects if o.kind == item.kind]
                if inside:
                    assert found
                if outside and sum(o.kind == item.kind for o in drawn.objects) == 1:
                    assert not found
                    assert item.kind not in seen.doubtful
            cut += len(seen.doubtful)
    assert cut > 10


def test_centres_are_in_the_units_of_the_view() -> None:
    """Would catch centres in pixels of the whole picture, which would put objects into wrong places."""
    drawn = scene("test", 2)
    seen = view(drawn)
    assert [(round(o.x * 192), round(o.y * 192)) for o in seen.objects] == [
        (round(o.x), round(o.y)) for o in drawn.objects
    ]
    assert all(0 <= c <= 1 for q in range(4) for o in view(drawn, q).objects for c in (o.x, o.y))


def test_unknown_quadrant_is_refused() -> None:
    """Would catch a fifth quadrant that silently is the picture's border."""
    with pytest.raises(ValueError, match="expected None or 0-3"):
        view(scene("test", 0), 4)
