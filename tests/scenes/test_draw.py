"""Pictures follow from their seed, on every machine, and the splits share none."""

import hashlib
from typing import Any

import numpy as np
import pytest

from blink.scenes.draw import (
    COLOURS,
    DIFFICULTIES,
    KINDS,
    SPLITS,
    Scene,
    SceneImages,
    co_occurrence,
    kind_frequency,
    scene,
)

PINNED = ["5adfb8b72bee3697", "ea552e14edbceb02", "706d821b7984ad1e", "c410b63a4ecdcd92"]


def digest(drawn: Scene) -> str:
    return hashlib.sha256(np.asarray(drawn.draw()).tobytes()).hexdigest()


def test_pictures_are_the_same_on_every_machine() -> None:
    """Would catch a generator or a rasteriser that differs between machines or versions."""
    assert [digest(scene(split, 7))[:16] for split in SPLITS] == PINNED


def test_splits_share_no_picture() -> None:
    """Would catch a seed that leaves the split's name out: training pictures in the test."""
    hashes = [digest(scene(split, index)) for split in SPLITS for index in range(150)]
    assert len(set(hashes)) == len(hashes)


def test_objects_do_not_touch_and_stay_inside() -> None:
    """Would catch overlapping or cut objects, whose shape no model could name."""
    for index in range(60):
        drawn = scene("test", index)
        for i, one in enumerate(drawn.objects):
            assert min(one.box) >= 0
            assert max(one.box) <= 192
            for other in drawn.objects[:i]:
                distance = np.hypot(one.x - other.x, one.y - other.y)
                assert distance > one.radius + other.radius


def test_owner_map_marks_what_is_drawn() -> None:
    """Would catch labels that belong to another object or to a shifted picture."""
    drawn = scene("test", 3)
    pixels, owners = np.asarray(drawn.draw()), drawn.draw_owners()
    assert (pixels[owners == 0] == drawn.background).all()
    for number, item in enumerate(drawn.objects, start=1):
        mine = pixels[owners == number]
        if item.shape != "ring":
            assert (mine == item.rgb).all()


def test_every_difficulty_occurs_and_can_be_asked_for() -> None:
    """Would catch a difficulty that is never drawn, or a request for one that is ignored."""
    assert {scene("validation", index).difficulty for index in range(40)} == {d.name for d in DIFFICULTIES}
    hard = scene("validation", 0, "hard")
    assert hard.difficulty == "hard"
    assert max(item.radius for item in hard.objects) <= 11


def test_co_occurrence_follows_the_pictures() -> None:
    """Would catch an adversarial order that is not the order of real co-occurrence."""
    pairs: dict[tuple[bool, bool], int] = {}
    for index in range(300):
        kinds = frozenset(item.kind for item in scene("backbone", index).objects)
        for kind in KINDS:
            others = kinds - {kind}
            key = (co_occurrence(kind, others) > 0.3, kind in kinds)
            pairs[key] = pairs.get(key, 0) + 1
    likely = pairs[True, True] / (pairs[True, True] + pairs[True, False])
    unlikely = pairs[False, True] / (pairs[False, True] + pairs[False, False])
    assert likely > 2 * unlikely


def test_kind_frequency_is_a_distribution() -> None:
    """Would catch a popularity order that counts a theme twice."""
    assert sum(kind_frequency().values()) == pytest.approx(1)
    assert len(kind_frequency()) == len(COLOURS) * 8


def test_scene_images_is_a_sequence() -> None:
    """Would catch an off-by-one in ``start``, slices that lose pictures, or an endless iteration."""
    images = SceneImages("token_sr", count=3, start=5)
    assert len(list(images)) == 3
    assert images[-1].tobytes() == scene("token_sr", 7).draw().tobytes()
    assert images[1:][0].tobytes() == images[1].tobytes()
    with pytest.raises(IndexError):
        images[3]


@pytest.mark.parametrize("wrong", [{"split": "train"}, {"split": "test", "count": -1}])
def test_wrong_requests_are_refused(wrong: dict[str, Any]) -> None:
    """Would catch a misspelt split that silently draws a split of its own."""
    with pytest.raises(ValueError, match=r"expected one of|must not be negative"):
        SceneImages(**{"count": 1, **wrong})
