"""The manifest: what is left out, what stops a run, and that every process goes by one list."""

import json
import os
import threading
from pathlib import Path

import pytest
from PIL import Image

from blink.runs.machine import RANK_VARIABLES
from blink.training.images import ImageFiles, local_images
from blink.training.manifest import Manifest, changed_since, check_images, split
from tests import models
from tests.runs.inputs.test_pictures import DEEP


@pytest.fixture(autouse=True)
def first_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in RANK_VARIABLES:
        monkeypatch.delenv(variable, raising=False)


def pictures(folder: Path, count: int, broken: int) -> ImageFiles:
    """A folder of `count` tiny images, the first `broken` of them cut off."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        path = folder / f"{number:03d}.png"
        models.picture(number, (8, 8)).save(path)
        if number < broken:
            path.write_bytes(path.read_bytes()[:60])
    return local_images([folder])


@pytest.mark.parametrize(("count", "broken"), [(10, 1), (99, 1), (200, 2)])
def test_few_unreadable_images_are_left_out(tmp_path: Path, count: int, broken: int) -> None:
    """Catches a stop at max(1, 1 %), and unreadable images that are trained on, uncounted or unlisted."""
    images = pictures(tmp_path / "images", count, broken)
    manifest = check_images(images, tmp_path / "manifest.json")
    assert manifest.readable == tuple(range(broken, count))
    assert list(manifest.unreadable) == [images.name(i) for i in range(broken)]
    kept = json.loads((tmp_path / "manifest.json").read_text())
    assert kept["images"] == count
    assert list(kept["unreadable"]) == list(manifest.unreadable)


@pytest.mark.parametrize(("count", "broken"), [(10, 2), (199, 2), (200, 3)])
def test_more_stop_the_run(tmp_path: Path, count: int, broken: int) -> None:
    """Catches training on whatever a wrong root left readable."""
    images = pictures(tmp_path / "images", count, broken)
    with pytest.raises(ValueError, match=f"{broken} of {count} images cannot be read, at most .*000.png"):
        check_images(images, tmp_path / "manifest.json")


def test_checked_once(tmp_path: Path) -> None:
    """Catches a continued run that checks again, or that believes a manifest of other files."""
    images = pictures(tmp_path / "images", 10, 1)
    file = tmp_path / "manifest.json"
    first = check_images(images, file)
    written = file.stat().st_mtime_ns
    assert check_images(images, file) == first
    assert file.stat().st_mtime_ns == written
    models.picture(0, (8, 8)).save(tmp_path / "images" / "000.png")
    assert check_images(local_images([tmp_path / "images"]), file).unreadable == {}


def test_special_images_are_said_at_every_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Catches pictures that were scaled, or cut to their first frame, without a word, or said once and never again."""
    pictures(tmp_path / "images", 3, 0)
    Image.fromarray(DEEP).save(tmp_path / "images" / "deep.png")
    images = local_images([tmp_path / "images"])
    for _ in range(2):
        caplog.clear()
        manifest = check_images(images, tmp_path / "manifest.json")
        assert (
            "pictures of more than 8 bits a channel, scaled to 8 bits, each from its own range: 1"
            in caplog.text
        )
        assert "deep.png (I;16 from 1000 to 5000)" in caplog.text
    assert manifest.unreadable == {}


def test_too_large_images_are_left_out(tmp_path: Path) -> None:
    """Catches a picture of a few bytes that takes all memory once it is padded."""
    pictures(tmp_path / "images", 3, 0)
    Image.new("RGB", (30_000, 2)).save(tmp_path / "images" / "wide.png")
    [(name, reason)] = check_images(
        local_images([tmp_path / "images"]), tmp_path / "manifest.json"
    ).unreadable.items()
    assert name.endswith("wide.png")
    assert "900,000,000 once padded to a square" in reason


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", "{}", '"pixels": 5', '"numbers": ["a"]', '"numbers": []', '"unreadable": [1]']
)
def test_a_damaged_manifest_is_made_anew(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Would catch a run that never starts again after a power failure, or that trains on what garbage leaves over."""
    images, file = pictures(tmp_path / "images", 10, 1), tmp_path / "manifest.json"
    whole = check_images(images, file)
    content = file.read_text()
    if damage.startswith('"'):
        damage = json.dumps(json.loads(content) | json.loads(f"{{{damage}}}"))
    file.write_text(damage)
    assert not changed_since(file, [tmp_path / "images"])
    assert check_images(images, file) == whole
    assert f"{file} is damaged: the images are checked again" in caplog.text
    assert file.read_text() == content


def test_pixels_tell_changed_from_newer(tmp_path: Path) -> None:
    """Would catch another picture of the same name that passes, and files that are only newer that do not."""
    images = pictures(tmp_path / "images", 10, 1)
    file, changed = tmp_path / "manifest.json", tmp_path / "images" / "003.png"
    first = check_images(images, file)
    os.utime(changed, (1, 1))
    assert check_images(local_images([tmp_path / "images"]), file) == first
    models.picture(77, (8, 8)).save(changed)
    assert check_images(local_images([tmp_path / "images"]), file).pixels != first.pixels


def test_other_processes_wait_for_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches ranks that check for themselves and may see other images (or write the file twice)."""
    images = pictures(tmp_path / "images", 10, 1)
    here, there = tmp_path / "here.json", tmp_path / "there.json"
    expected = check_images(images, here)
    monkeypatch.setenv("LOCAL_RANK", "1")
    later = threading.Timer(0.5, lambda: here.rename(there))
    later.start()
    assert check_images(images, there) == expected
    later.join()


def test_split_shuffles_once_and_keeps_apart(tmp_path: Path) -> None:
    """Catches held-out images that are trained on, and a training limit that changes what is held out."""
    images = pictures(tmp_path / "images", 40, 0)
    readable = tuple(range(1, 40))
    sizes = tuple((20 + number, 30) for number in readable)
    manifest = Manifest(readable, {}, "pixels", sizes)
    everything = split(images, manifest, held_out=64, limit=None, seed=0)
    limited = split(images, manifest, held_out=64, limit=7, seed=0)
    assert len(everything.held_out) == 3  # at most a tenth
    assert sorted(everything.train.indices + everything.held_out.indices) == list(readable)
    assert limited.held_out == everything.held_out
    assert limited.train.indices == everything.train.indices[:7]
    assert split(images, manifest, held_out=64, limit=None, seed=1) != everything
    with pytest.raises(ValueError, match="1 readable image"):
        split(images, Manifest((3,), {}, "", ((4, 4),)), held_out=1, limit=None, seed=0)


def test_images_are_left_out_by_their_size(tmp_path: Path) -> None:
    """Catches sizes that go to other images: after an unreadable one, from the kept file, or in another order."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(12):
        models.picture(number, (20 + number, 30)).save(folder / f"{number:02d}.png")
    (folder / "03.png").write_bytes(b"broken")
    images = local_images([folder])
    first, kept = (check_images(images, tmp_path / "manifest.json") for _ in range(2))
    assert first == kept
    assert kept.sizes == tuple((20 + number, 30) for number in range(12) if number != 3)
    wide = kept.only(lambda size: size[0] > 25)
    assert wide.readable == tuple(range(6, 12))
    train, held_out = split(images, wide, held_out=1, limit=None, seed=0)
    assert len(train) + len(held_out) == 6
    for portion in (train, held_out):
        for index in range(len(portion)):
            assert portion.size(index) == portion.read(index).size
