"""Image sources: what they find, in which order, and what they refuse."""

import codecs
import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from blink.runs.inputs.pictures import Reading, Rules, UnreadableImageError
from blink.runs.values import UserError
from blink.training.images import (
    DrawnImages,
    ImageSubset,
    hub_images,
    local_images,
    mixture_images,
)
from tests import models
from tests.runs.inputs.test_pictures import DEEP, sideways


def write(path: Path, seed: int, **settings: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    models.picture(seed, (12, 10)).save(path, **settings)
    return path


def test_folder_is_searched_at_any_depth_in_order(tmp_path: Path) -> None:
    """Catches images missed for their ending's case or depth, other files taken, and an order of the disk's."""
    paths = [write(tmp_path / name, seed) for seed, name in enumerate(["b.png", "a/z.JPG", "a/b/c.webp"])]
    (tmp_path / "notes.txt").write_text("no image")
    found = local_images([tmp_path])
    assert [found.name(i) for i in range(len(found))] == sorted(map(str, paths))
    assert found.read(0).mode == "RGB"
    assert found.read(0).size == (12, 10)


def test_content_counts_not_the_ending(tmp_path: Path) -> None:
    """Catches OCR-VQA's files, all named .jpg, of which some are GIF, being taken for damaged."""
    write(tmp_path / "140031996X.jpg", 0, format="GIF")
    assert local_images([tmp_path]).read(0).mode == "RGB"


def test_missing_and_empty_places_are_refused(tmp_path: Path) -> None:
    """Catches a training run on nothing after a misspelt path."""
    with pytest.raises(ValueError, match="nowhere does not exist"):
        local_images([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match="holds no images"):
        local_images([tmp_path])


def test_a_broken_image_that_is_named_directly_is_refused(tmp_path: Path) -> None:
    """Catches a directly named image that is silently left out like one among thousands."""
    whole = write(tmp_path / "whole.png", 0)
    broken = tmp_path / "broken.png"
    broken.write_bytes(whole.read_bytes()[:-40])
    assert len(local_images([tmp_path])) == 2  # in a folder the manifest decides
    with pytest.raises(UnreadableImageError, match=r"broken\.png"):
        local_images([whole, broken])


def mixture(folder: Path) -> Path:
    entries = [
        {"id": "1", "image": "coco/train2017/1.jpg", "conversations": []},
        {"id": "2", "image": "ocr_vqa/images/2.jpg", "conversations": []},
        {"id": "3", "image": "coco/train2017/1.jpg", "conversations": []},
        {"id": "4", "model": "text", "conversations": []},
        {"id": "5", "image": "gqa/images/missing.jpg", "conversations": []},
    ]
    file = folder / "llava_v1_5_mix665k.json"
    file.write_text(json.dumps(entries))
    return file


def test_mixture_lists_each_image_once(tmp_path: Path) -> None:
    """Catches images weighted by their number of conversations, and text-only entries taken for images."""
    file = mixture(tmp_path)
    write(tmp_path / "coco/train2017/1.jpg", 0)
    other = tmp_path / "elsewhere"
    write(other / "ocr_vqa/images/2.jpg", 1)
    found = mixture_images(file, [tmp_path, other])
    assert [str(path) for path in found.paths] == [
        str(tmp_path / "coco/train2017/1.jpg"),
        str(other / "ocr_vqa/images/2.jpg"),
        str(tmp_path / "gqa/images/missing.jpg"),
    ]
    with pytest.raises(UnreadableImageError, match=r"missing\.jpg"):
        found.read(2)
    assert local_images([file, tmp_path, other]) == found
    assert len(local_images([file])) == 3


def test_mixture_without_images_is_refused(tmp_path: Path) -> None:
    """Catches another JSON file taken for the mixture."""
    file = tmp_path / "other.json"
    file.write_text('{"a": 1}')
    with pytest.raises(ValueError, match="not a JSON list"):
        local_images([file])
    file.write_text('[{"id": "1"}]')
    with pytest.raises(ValueError, match="none of its 1 entries has an 'image'"):
        local_images([file])


def test_fingerprint_follows_the_files(tmp_path: Path) -> None:
    """Catches an old manifest that is believed after files changed."""
    path = write(tmp_path / "a.png", 0)
    before = local_images([tmp_path]).fingerprint
    assert local_images([tmp_path]).fingerprint == before
    path.write_bytes(path.read_bytes() + b"more")
    assert local_images([tmp_path]).fingerprint != before


def test_data_set_by_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a `datasets` source that reads another column or other rows than asked for."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    pictures = [models.picture(seed, (12, 10)) for seed in range(3)]
    table = datasets.Dataset.from_dict(
        {"label": [0, 1, 2], "picture": pictures},
        features=datasets.Features({"label": datasets.Value("int64"), "picture": datasets.Image()}),
    )
    table.to_parquet(tmp_path / "set" / "train.parquet")
    found = hub_images(str(tmp_path / "set"))
    assert len(found) == 3
    assert found.read(2).tobytes() == pictures[2].tobytes()
    with pytest.raises(ValueError, match=r"image columns \['picture'\] and data.column is 'label'"):
        hub_images(str(tmp_path / "set"), column="label")
    with pytest.raises(ValueError, match="cannot be loaded"):
        hub_images(str(tmp_path / "absent"))


def test_chosen_images_keep_their_names() -> None:
    """Catches a choice that reads by its own numbers instead of the collection's."""
    drawn = DrawnImages([Image.new("RGB", (1, 1), (value, 0, 0)) for value in range(5)], "five")
    chosen = ImageSubset(drawn, (4, 1))
    assert [chosen.read(i).getpixel((0, 0)) for i in range(len(chosen))] == [(4, 0, 0), (1, 0, 0)]
    assert chosen.name(0) == "drawn image 4"
    assert chosen.fingerprint != ImageSubset(drawn, (1, 4)).fingerprint


def test_names_are_no_patterns_and_links_are_followed(tmp_path: Path) -> None:
    """Catches a folder zz[ab] that trains on zza, and pictures behind a link left out in silence."""
    write(tmp_path / "zza" / "1.png", 1)
    path = write(tmp_path / "zz[ab]" / "2.png", 2)
    far = write(tmp_path / "far" / "3.png", 3)
    (tmp_path / "zz[ab]" / "link").symlink_to(far.parent, target_is_directory=True)
    (tmp_path / "zz[ab]" / "link" / "back").symlink_to(tmp_path / "zz[ab]", target_is_directory=True)
    write(tmp_path / "zz[ab]" / "._2.png", 4)
    found = local_images([tmp_path / "zz[ab]"])
    assert found.paths == (path, tmp_path / "zz[ab]" / "link" / "3.png")


@pytest.mark.parametrize("upright", [False, True])
def test_orientations_of_every_source(tmp_path: Path, upright: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches one source that turns pictures while another does not, and stored features of the other kind taken."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    data = sideways("JPEG", 6)
    (tmp_path / "a.jpg").write_bytes(data)
    (tmp_path / "mixture.json").write_text('[{"image": "a.jpg"}]')
    (tmp_path / "set").mkdir()
    table = datasets.Dataset.from_dict(
        {"image": [{"bytes": data, "path": None}]}, features=datasets.Features({"image": datasets.Image()})
    )
    table.to_parquet(tmp_path / "set" / "train.parquet")
    rules = Rules(Reading(upright=upright, scaled=True))
    for found, stored in (
        (local_images([tmp_path], rules), local_images([tmp_path])),
        (local_images([tmp_path / "mixture.json"], rules), local_images([tmp_path / "mixture.json"])),
        (hub_images(str(tmp_path / "set"), rules=rules), hub_images(str(tmp_path / "set"))),
    ):
        assert found.read(0).size == ((3, 6) if upright else (6, 3))
        assert (found.fingerprint == stored.fingerprint) is not upright
        assert (found.identity(0) == stored.identity(0)) is not upright


def test_deep_pictures_are_scaled(tmp_path: Path) -> None:
    """Catches training on pictures that are white all over."""
    Image.fromarray(DEEP).save(tmp_path / "a.png")
    pixels = np.asarray(local_images([tmp_path]).read(0))
    assert (pixels.min(), pixels.max()) == (0, 255)


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/a.jpg", "x/../../a.jpg", "C:/a.jpg"])
def test_a_mixture_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    """Catches annotations that make the command read any picture of the machine."""
    file = tmp_path / "data" / "mixture.json"
    file.parent.mkdir()
    write(tmp_path / "a.jpg", 0)
    file.write_text(json.dumps([{"image": "b.jpg"}, {"id": "text"}, {"image": name}]))
    with pytest.raises(
        UserError, match=r"mixture.json, entry 3: .* leads out of the data folder; data.allow_outside"
    ):
        local_images([file])
    found = local_images([file], Rules(outside=True))
    if name == "../a.jpg":
        assert found.read(1).size == (12, 10)


@pytest.mark.parametrize("image", [5, ["a.jpg"], True, {"a": 1}, "a\0b"])
def test_a_mixtures_names_are_texts(tmp_path: Path, image: object) -> None:
    """Catches a value of another type looked for under the name that Python gives it."""
    file = tmp_path / "mixture.json"
    file.write_text(json.dumps([{"image": image}]))
    with pytest.raises(UserError, match=r"mixture.json, entry 1: expected the name of a picture file"):
        local_images([file])


def test_mixtures_of_other_systems(tmp_path: Path) -> None:
    """Catches a byte order mark or gzip taken for damage."""
    write(tmp_path / "a.jpg", 0)
    content = codecs.BOM_UTF8 + b'[{"image": "a.jpg"}]'
    (tmp_path / "mixture.json").write_bytes(content)
    (tmp_path / "packed.JSON.gz").write_bytes(gzip.compress(content))
    for name in ("mixture.json", "packed.JSON.gz"):
        assert local_images([tmp_path / name]).paths == (tmp_path / "a.jpg",)
    (tmp_path / "mixture.json").write_bytes(content.decode("utf-8-sig").encode("utf-16"))
    with pytest.raises(UserError, match=r"mixture.json is not UTF-8: byte 0xff at offset 0"):
        local_images([tmp_path / "mixture.json"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "test"}, r"data.id=.* \(split test\) cannot be loaded: Unknown split"),
        ({"name": "small"}, r"cannot be loaded: BuilderConfig 'small' not found"),
        ({"column": "nothing"}, r"has the image columns \['image'\] and data.column is 'nothing'"),
        ({"id": 5}, "data.id=5: expected a text"),
        ({"id": "nobody/nothing"}, "data.id=nobody/nothing .* cannot be loaded: Couldn't reach"),
        ({"split": None}, "data.split=None: expected a text"),
        ({"name": 3}, "data.name=3: expected a text"),
    ],
)
def test_data_sets_that_are_not_there_are_named(
    tmp_path: Path, settings: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a traceback for a mistyped id, split, configuration or column."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "set" / "a.png")
    with pytest.raises(UserError, match=message):
        hub_images(**{"id": str(tmp_path / "set")} | settings)
