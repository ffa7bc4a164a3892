"""What is found below a folder, and where names may lead."""

import logging
import os
from pathlib import Path

import pytest

from blink.runs.inputs.names import check_name, files_below, find_file, leads_out, look_alikes
from blink.runs.values import UserError


def make(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")


def found(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in files_below(root, lambda name: name.endswith(".x"))]


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    """Would catch pictures behind a link that are left out in silence, as `Path.rglob` does."""
    make(tmp_path / "elsewhere" / "deep" / "a.x", tmp_path / "root" / "b.x", tmp_path / "c.x")
    (tmp_path / "root" / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "root" / "file.x").symlink_to(tmp_path / "c.x")
    assert found(tmp_path / "root") == ["b.x", "file.x", "link/deep/a.x"]
    (tmp_path / "start").symlink_to(tmp_path / "root", target_is_directory=True)
    assert found(tmp_path / "start") == ["b.x", "file.x", "link/deep/a.x"]


def test_cycles_end_and_each_folder_is_read_once(tmp_path: Path) -> None:
    """Would catch an endless walk, the same picture under several names, and the folders around the data read as data."""
    root = tmp_path / "root"
    make(root / "a" / "1.x", root / "b" / "2.x", tmp_path / "outer.x", tmp_path / "far" / "3.x")
    for name, target in (("a/up", root), ("b/self", root / "b"), ("b/top", tmp_path), ("0", root / "a")):
        (root / name).symlink_to(target, target_is_directory=True)
    for name in ("z", "m"):  # two links to one folder: the name that sorts first stands
        (root / name).symlink_to(tmp_path / "far", target_is_directory=True)
    (tmp_path / "far" / "back").symlink_to(root / "b", target_is_directory=True)
    assert found(root) == ["a/1.x", "b/2.x", "m/3.x"]


def test_names_are_no_patterns(tmp_path: Path) -> None:
    """Would catch a folder zz[ab] that is read as zza."""
    make(tmp_path / "zz[ab]" / "1.x", tmp_path / "zza" / "2.x", tmp_path / "*" / "3.x")
    assert found(tmp_path / "zz[ab]") == ["1.x"]
    assert found(tmp_path / "*") == ["3.x"]


def test_what_systems_leave_behind_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Would catch the files that macOS writes beside each picture read as damaged ones, and links without a file missed."""
    make(*(tmp_path / name for name in ("a.x", "._a.x", "sub/._b.x", ".DS_Store", "Thumbs.db", "._b")))
    make(tmp_path / "__MACOSX" / "c.x")
    (tmp_path / "dead.x").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.x").symlink_to(tmp_path / "loop.x")
    with caplog.at_level(logging.WARNING):
        assert found(tmp_path) == found(tmp_path) == ["a.x"]
    junk, dead = caplog.messages
    assert "passed over 6 files" in junk
    assert "that macOS or Windows left there" in junk
    assert "passed over 2 files" in dead
    assert "dead.x ...) with no file behind the name" in dead


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch pictures left out in silence for want of a right."""
    make(tmp_path / "shut" / "a.x")
    scandir = os.scandir

    def refused(path: str) -> "os._ScandirIterator[str]":
        if path.endswith("shut"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(UserError, match=r"cannot read the folder .*shut: Permission denied"):
        found(tmp_path)


OUTSIDE = [
    "../a",
    "a/../../b",
    "..",
    "a/./../..",
    "/etc/x",
    "C:/x",
    "c:x",
    r"\\host\share\x",
    r"..\x",
    r"a\..\..\x",
    "/",
]
INSIDE = [
    "a.jpg",
    "a/b.jpg",
    "a/../b",
    "a..b",
    "..a/b",
    "%2e%2e/x",
    "file:///x",
    "~x",
    "./a",
    "coco/train2017/1.jpg",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_lead_out_are_refused(name: str) -> None:
    """Would catch a data file that makes the command read any file of the machine, on whichever system it was written."""
    assert leads_out(name)
    with pytest.raises(
        UserError, match=r"a.jsonl, line 2: .* leads out of the data folder; data.allow_outside"
    ):
        check_name(name, "a.jsonl, line 2")
    assert check_name(name, "a.jsonl, line 2", outside=True) == name


@pytest.mark.parametrize("name", INSIDE)
def test_names_that_stay_inside_pass(name: str) -> None:
    """Would catch names of real data sets refused."""
    assert check_name(name, "a.jsonl, line 2") == name


@pytest.mark.parametrize("name", [None, "", 5, ["a"], "a\0b", True])
def test_what_is_no_name_is_refused(name: object) -> None:
    """Would catch a traceback of the file system's."""
    with pytest.raises(UserError, match="line 2: expected the name of a picture file"):
        check_name(name, "line 2", outside=True)


def test_the_first_folder_counts(tmp_path: Path) -> None:
    """Would catch a picture of the wrong folder, a folder taken for a picture, and a traceback for a name that is too long."""
    make(tmp_path / "b" / "x.jpg", tmp_path / "c" / "x.jpg")
    (tmp_path / "a" / "x.jpg").mkdir(parents=True)
    folders = [tmp_path / name for name in "abc"]
    assert find_file(folders, "x.jpg") == tmp_path / "b" / "x.jpg"
    assert find_file(folders, "y.jpg") is None
    assert find_file(folders, "y" * 5000) is None


def test_look_alikes_have_another_ending(tmp_path: Path) -> None:
    """Would catch another picture offered, or the file that macOS left beside it."""
    make(*(tmp_path / "b" / "sub" / name for name in ("x.PNG", "._x.png", "xy.jpg", "X.jpeg")))
    assert look_alikes([tmp_path / "a", tmp_path / "b"], "sub/x.jpg") == [
        tmp_path / "b" / "sub" / "X.jpeg",
        tmp_path / "b" / "sub" / "x.PNG",
    ]
