"""Boxes and the region that holds most of one: hand-computed cases."""

import pytest

from blink.inference.boxes import check_box, seen_box

WHOLE = (0, 0, 60, 60)


def region(
    box: list[float], patches: int = 2, grid: tuple[int, int] = (6, 6), window: tuple[int, ...] = WHOLE
) -> int | None:
    """The region of a box in pixels of a picture that is seen through a window."""
    seen = seen_box(check_box(box, "here"), window)  # type: ignore[arg-type]
    return None if seen is None else seen.region(patches, grid)


def test_most_of_the_area_wins() -> None:
    """Catches rows taken for columns, and the box's centre or corner in place of its area."""
    assert region([40, 5, 50, 20]) == 1
    assert region([5, 40, 20, 50]) == 2
    assert region([29, 29, 40, 40]) == 3
    assert region([0, 0, 60, 19], patches=3) == 0  # three regions hold as much: the lowest
    assert region([10, 0, 50, 19], patches=3) == 1


def test_ties_go_to_the_lowest() -> None:
    """Catches ties that rounding decides: a third is no binary fraction."""
    assert region([10, 10, 20, 20], window=(0, 0, 30, 30), grid=(6, 6)) == 0
    assert region([29.5, 0, 30.5, 60], grid=(6, 6)) == 0
    assert region([5, 25, 25, 65], window=(0, 0, 90, 90), patches=2, grid=(6, 4)) == 0


def test_uneven_cells() -> None:
    """Catches regions cut at halves of the picture: of 5 cells the first region has 2, which end at 24 of 60 pixels."""
    assert region([20, 0, 30, 10], grid=(5, 5)) == 1
    assert region([20, 0, 30, 10], grid=(6, 6)) == 0


def test_padding_and_cropping() -> None:
    """Catches a box that is placed as if the whole picture were the view."""
    padded = (0, -20, 60, 40)  # 60 x 20 pixels padded to a square
    assert region([0, 0, 10, 5], window=padded) == 0
    assert region([0, 12, 10, 18], window=padded) == 2
    cropped = (30, 0, 90, 60)
    assert region([10, 0, 50, 10], window=cropped) == 0
    assert region([0, 0, 20, 10], window=cropped) is None


@pytest.mark.parametrize(
    "box", [None, [1, 2, 3], [5, 5, 5, 9], [5, 9, 8, 9], "1234", [0.1, 0.2, 0.4, 1], [1, 2, 3, float("nan")]]
)
def test_what_is_no_box_is_refused(box: object) -> None:
    """Catches empty boxes, and shares taken for pixels, which would all lie in region 0."""
    with pytest.raises(ValueError, match=r"^here: box="):
        check_box(box, "here")
