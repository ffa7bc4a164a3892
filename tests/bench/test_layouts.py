"""What holds for the data of every benchmark, as its authors publish it and as the hub's tables."""

import codecs
import copy
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blink.bench import Sample
from blink.runs.inputs.pictures import Reading, Rules
from blink.runs.values import UserError
from tests.bench.layouts import ALL, AUTHORS, Layout, texts, write
from tests.runs.inputs.test_pictures import DEEP, encoded, sideways

pytestmark = pytest.mark.usefixtures("arrow_cache")

RED = encoded(Image.new("RGB", (6, 3), "red"))


def read(layout: Layout, root: Path, rules: Rules | None = None) -> list[Sample]:
    return layout.make().from_folder(root, rules or Rules())


def asked(samples: list[Sample]) -> list[Any]:
    """What was asked, and the pixels it was asked about."""
    return [(s.id, s.question, s.label, s.split, s.details, s.load_image().tobytes()) for s in samples]


@pytest.mark.parametrize("name", ALL)
def test_one_rule_for_orientations(tmp_path: Path, name: str) -> None:
    """Would catch a source that turns pictures by EXIF while another does not, and one that cannot."""
    write(tmp_path, ALL[name].files, sideways("JPEG", 6))
    assert {sample.load_image().size for sample in read(ALL[name], tmp_path)} == {(6, 3)}
    turned = read(ALL[name], tmp_path, Rules(Reading(upright=True)))
    assert {sample.load_image().size for sample in turned} == {(3, 6)}


@pytest.mark.parametrize("name", ALL)
def test_deep_pictures_saturate_as_by_the_authors_code(tmp_path: Path, name: str) -> None:
    """Would catch a source of benchmarks that scales what the others let saturate."""
    write(tmp_path, ALL[name].files, encoded(Image.fromarray(DEEP)))
    assert {int(np.asarray(sample.load_image()).min()) for sample in read(ALL[name], tmp_path)} == {255}


@pytest.mark.parametrize("name", ALL)
def test_folders_are_read_by_name(tmp_path: Path, name: str) -> None:
    """Would catch a folder's name taken for a pattern, so that another folder is read."""
    write(tmp_path / "zza", ALL[name].files, encoded(Image.new("RGB", (6, 3), "blue")))
    write(tmp_path / "zz[ab]", ALL[name].files, RED)
    [colour] = {sample.load_image().getpixel((0, 0)) for sample in read(ALL[name], tmp_path / "zz[ab]")}
    assert colour == (255, 0, 0)


@pytest.mark.parametrize("name", ALL)
def test_links_to_folders_and_files_are_followed(tmp_path: Path, name: str) -> None:
    """Would catch questions or pictures behind a link left out in silence."""
    write(tmp_path / "store", ALL[name].files, RED)
    expected = asked(read(ALL[name], tmp_path / "store"))
    (tmp_path / "root").mkdir()
    for path in (tmp_path / "store").iterdir():
        (tmp_path / "root" / path.name).symlink_to(path, target_is_directory=path.is_dir())
    assert asked(read(ALL[name], tmp_path / "root")) == expected
    (tmp_path / "link").symlink_to(tmp_path / "root", target_is_directory=True)
    assert asked(read(ALL[name], tmp_path / "link")) == expected


@pytest.mark.parametrize("name", ALL)
def test_what_macos_leaves_is_passed_over(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Would catch a resource fork read as a text, a picture or a table, and passed over without a word."""
    write(tmp_path, ALL[name].files, RED)
    expected = asked(read(ALL[name], tmp_path))
    files = [path for path in tmp_path.rglob("*") if path.is_file() and "arrow" not in path.parts]
    for path in files:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\26\7\xff")
        path.with_name(".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    with caplog.at_level(logging.WARNING):
        assert asked(read(ALL[name], tmp_path)) == expected
    folders = len({path.parent for path in files})
    assert f"passed over {len(files) + folders} files" in caplog.text


@pytest.mark.parametrize("name", AUTHORS)
def test_byte_order_marks_are_no_text(tmp_path: Path, name: str) -> None:
    """Would catch U+FEFF put to the model before a question, a column whose name begins with it, and a file refused."""
    write(tmp_path, AUTHORS[name].files, RED)
    expected = asked(read(AUTHORS[name], tmp_path))
    for file in texts(AUTHORS[name].files):
        path = tmp_path / file
        path.write_bytes(codecs.BOM_UTF8 + path.read_bytes().replace(b"\n", b"\r\n"))
    assert asked(read(AUTHORS[name], tmp_path)) == expected


@pytest.mark.parametrize(("name", "file"), [(n, file) for n in AUTHORS for file in texts(AUTHORS[n].files)])
def test_other_encodings_are_one_line(tmp_path: Path, name: str, file: str) -> None:
    """Would catch an error of the decoder's that names no file."""
    write(tmp_path, AUTHORS[name].files, RED)
    path = tmp_path / file
    content = path.read_bytes()
    path.write_bytes(content + "Größe".encode("gb18030"))
    with pytest.raises(
        UserError, match=rf"{path.name} is not UTF-8: byte 0x.. at offset {len(content) + 2}; save it"
    ):
        read(AUTHORS[name], tmp_path)
    path.write_bytes(content.decode().encode("utf-16"))
    with pytest.raises(
        UserError, match=rf"{path.name} is not UTF-8: byte 0xff at offset 0, as UTF-16 begins"
    ):
        read(AUTHORS[name], tmp_path)


NAMED = [name for name, layout in AUTHORS.items() if layout.named]


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("outside", ["../outside/a", "{folder}/outside/a", "..\\outside\\a", "C:\\a"])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str, outside: str) -> None:
    """Would catch a data file that makes the command read any picture of the machine."""
    layout = AUTHORS[name]
    outside = outside.format(folder=tmp_path)
    ending = ".jpg" if name != "gqa" else ""
    files = copy.deepcopy(dict(layout.files))
    if name.startswith("scienceqa") and outside.startswith("../"):
        outside = f"../../../{outside}"  # below images/test/5
    write(tmp_path / "outside", {"a.jpg": "PICTURE"}, RED)
    place: Any = files
    assert layout.named is not None
    for key in layout.named[:-1]:
        place = place[key]
    place[layout.named[-1]] = outside + ending
    if name == "pope":
        files["coco/coco_pope_random.json"][0]["image"] = outside + ending
    if name == "gqa":
        del files["llava_gqa_testdev_balanced.jsonl"]
    write(tmp_path / "data", files, RED)
    inside = name.startswith("scienceqa") and not outside.startswith("../")  # below the problem's folder
    message = "is missing; looked in" if inside else "leads out of the data folder; data.allow_outside=true"
    with pytest.raises(UserError, match=message):
        read(layout, tmp_path / "data")


@pytest.mark.parametrize("name", NAMED)
def test_names_may_lead_out_where_that_is_allowed(tmp_path: Path, name: str) -> None:
    """Would catch a key that changes nothing."""
    layout = AUTHORS[name]
    write(tmp_path / "data", layout.files, RED)
    assert layout.named is not None
    file = tmp_path / "data" / layout.named[0]
    depth = {"pope": "../", "gqa": "../", "mmvet": "../", "questions": ""}.get(name, "../../../")
    value = "a" if name == "gqa" else "a.jpg"
    for changed in (file, tmp_path / "data" / "coco/coco_pope_random.json"):
        if changed.is_file():
            changed.write_text(changed.read_text().replace(f'"{value}"', f'"{depth}../{value}"'))
    (tmp_path / "data" / "llava_gqa_testdev_balanced.jsonl").unlink(missing_ok=True)
    picture = next((tmp_path / "data").rglob("a.jpg"))
    shutil.move(picture, tmp_path / "a.jpg")
    with pytest.raises(UserError, match="leads out of the data folder"):
        read(layout, tmp_path / "data")
    samples = read(layout, tmp_path / "data", Rules(outside=True))
    assert samples[0].load_image().getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("name", NAMED)
def test_another_ending_is_said(tmp_path: Path, name: str) -> None:
    """Would catch a picture called missing that is there, as PNG for instance."""
    write(tmp_path, AUTHORS[name].files, RED)
    [picture] = tmp_path.rglob("a.jpg")
    picture.rename(picture.with_suffix(".png"))
    with pytest.raises(UserError, match=r"a.jpg is missing; looked in .*, where .*a.png has another ending"):
        read(AUTHORS[name], tmp_path)
