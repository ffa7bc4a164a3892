"""Image sources: what they find, in which order, and what they refuse."""

import json
from pathlib import Path

import pytest
from PIL import Image

from blink.inputs.pictures import UnreadableImageError
from blink.training.images import (
    DrawnImages,
    ImageSubset,
    hub_images,
    local_images,
    mixture_images,
)
from tests import models


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
