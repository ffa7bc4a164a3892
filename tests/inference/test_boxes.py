"""Boxes and the region that holds most of one: hand-computed cases."""

import random

from blink.inference.boxes import SeenBox, place_of, regions_in_words, seen_box
from blink.model.token_sr import region_box
from blink.runs.values import box as checked_box

WHOLE = (0, 0, 60, 60)


def region(
    box: list[float], patches: int = 2, grid: tuple[int, int] = (6, 6), window: tuple[int, ...] = WHOLE
) -> int | None:
    """The region of a box in pixels of a picture that is seen through a window."""
    seen = seen_box(checked_box("box", box), window)  # type: ignore[arg-type]
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


def test_cells_are_a_box_of_their_own_region() -> None:
    """Catches edges that are rounded to pixels: the last region of a narrow grid would be another's."""
    for patches, grid in ((2, (3, 5)), (3, (7, 4)), (2, (2, 2))):
        for number in range(patches**2):
            cells = SeenBox.of_cells(region_box(number, patches, grid), grid)
            assert cells.region(patches, grid) == number


def test_the_region_of_most_of_the_area_is_that_of_the_centre_in_quadrants() -> None:
    """Catches a second rule: with 2 x 2 regions, what holds most of a box that is seen whole holds its centre, too."""
    draw = random.Random(0)
    for _ in range(300):
        left, top = draw.uniform(0, 50), draw.uniform(0, 50)
        box = [left, top, left + draw.uniform(1.5, 60 - left), top + draw.uniform(1.5, 60 - top)]
        centre = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        assert region(box) == 2 * (centre[1] > 30) + (centre[0] > 30)


def test_regions_are_named_as_they_are_numbered() -> None:
    """Would catch left and right, or rows and columns, changed for each other in words that nobody checks by eye."""
    said = "regions: 0 top left, 1 top right, 2 bottom left, 3 bottom right"
    assert regions_in_words(2) == said
    for patches in (2, 3, 4):
        for region in range(patches**2):
            box = region_box(region, patches, (12, 12))
            row, column = box.top * patches // 12, box.left * patches // 12
            words = place_of(region, patches)
            if patches == 2:
                assert words == f"{'bottom' if row else 'top'} {'right' if column else 'left'}"
            else:
                assert words == f"row {row + 1}, column {column + 1}"
    assert regions_in_words(3).endswith(
        "from 0 at the top left to 8 at the bottom right; 3 is row 2, column 1"
    )
