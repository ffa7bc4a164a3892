"""How bytes become RGB: as LLaVA's authors load them, or better where the user says so; and what is refused."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blink.runs.inputs.pictures import MOST_PIXELS, Notes, Reading, Rules, UnreadableImageError
from blink.runs.values import UserError

AUTHORS, UPRIGHT, SCALED = Reading(), Reading(upright=True), Reading(scaled=True)


def encoded(image: Image.Image, format: str = "PNG", **settings: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **settings)
    return stream.getvalue()


def sideways(format: str, orientation: int) -> bytes:
    """A picture of 6 x 3 pixels, its left half red, with an EXIF orientation."""
    image = Image.new("RGB", (6, 3), "blue")
    image.paste((255, 0, 0), (0, 0, 3, 3))
    exif = Image.Exif()
    exif[0x112] = orientation
    return encoded(image, format, exif=exif, **({"lossless": True} if format == "WEBP" else {}))


def header(width: int, height: int) -> bytes:
    """A PNG file that promises so many pixels, and holds a few."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_orientations_are_ignored_unless_asked_for(tmp_path: Path, format: str) -> None:
    """Would catch a source that turns pictures, which LLaVA's authors do not, and one that cannot."""
    for orientation in range(1, 9):
        data = sideways(format, orientation)
        path = tmp_path / f"{orientation}.jpg"
        path.write_bytes(data)
        stored, turned = AUTHORS(data, "a"), UPRIGHT(path, "a")
        assert stored.size == AUTHORS.size(path) == (6, 3)
        assert turned.size == UPRIGHT.size(path) == ((3, 6) if orientation > 4 else (6, 3))
        assert np.asarray(stored)[1, 0, 0] > 200
        red = {1: (0, 0), 2: (5, 0), 3: (5, 0), 4: (0, 0), 5: (0, 0), 6: (0, 0), 7: (0, 5), 8: (0, 5)}[
            orientation
        ]
        assert turned.getpixel(red)[0] > 200  # type: ignore[index]


def test_the_orientation_of_tiff_is_the_formats_own(tmp_path: Path) -> None:
    """Would catch TIFF files turned twice, or their boxes held against the size that they were stored in."""
    path = tmp_path / "a.tif"
    path.write_bytes(sideways("TIFF", 6))
    for reading in (AUTHORS, UPRIGHT):
        image = reading(path, "a")
        assert image.size == reading.size(path) == (3, 6)
        assert image.getpixel((0, 0)) == (255, 0, 0)


DEEP = np.linspace(1000, 5000, 256).astype(np.uint16)[None].repeat(2, axis=0)
KINDS: dict[str, tuple[np.ndarray[Any, Any], str]] = {
    "png": (DEEP, "PNG"),
    "tiff": (DEEP, "TIFF"),
    "big endian": (DEEP.astype(">u2"), "TIFF"),
    "ppm": (DEEP, "PPM"),
    "int32": (DEEP.astype(np.int32) - 3000, "TIFF"),
    "float": (DEEP.astype(np.float32) / 5000, "TIFF"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_deep_pictures_are_scaled_by_their_range(kind: str) -> None:
    """Would catch pictures of more than 8 bits that are white, or black, all over."""
    data = encoded(Image.fromarray(KINDS[kind][0]), KINDS[kind][1])
    scaled = np.asarray(SCALED(data, "a"))
    assert scaled.shape == (2, 256, 3)
    np.testing.assert_allclose(scaled[0, :, 1], np.arange(256), atol=1)
    np.testing.assert_array_equal(scaled, np.asarray(Image.fromarray(scaled[..., 0]).convert("RGB")))
    assert np.array_equal(
        np.asarray(AUTHORS(data, "a")), np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    )


def test_deep_pictures_without_a_range() -> None:
    """Would catch a division by zero, and what is not a number spread over the picture."""
    assert (
        SCALED(encoded(Image.fromarray(np.full((2, 2), 300, np.uint16))), "a").getpixel((0, 0)) == (255,) * 3
    )
    holes = np.array([[0.0, np.nan], [np.inf, 2.0]], np.float32)
    grey = np.asarray(SCALED(encoded(Image.fromarray(holes), "TIFF"), "a"))[..., 0]
    assert grey.tolist() == [[0, 0], [255, 255]]
    with pytest.raises(UnreadableImageError, match="a: it holds no finite number"):
        SCALED(encoded(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "TIFF"), "a")


def test_special_pictures_are_counted() -> None:
    """Would catch saturated pictures and animations that nobody is told of, and common ones that are counted."""
    notes = Notes()
    deep, frames = Image.fromarray(DEEP), [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    animation = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    for name, data in (
        ("a.png", encoded(deep)),
        ("b.gif", animation),
        ("c.gif", encoded(frames[0], "GIF")),
        ("d.jpg", encoded(frames[0], "JPEG")),
        ("e.png", encoded(deep)),
    ):
        notes.add(name, AUTHORS(data, name))
    notes.add("drawn", Image.new("RGB", (2, 2)))
    assert notes.lines(AUTHORS) == [
        "pictures of more than 8 bits a channel, saturated, as by the authors' code: 2, such as a.png (I;16 from 1000 to 5000)",
        "pictures of several frames, the first one taken: 1, such as b.gif",
    ]
    assert "scaled to 8 bits, each from its own range: 2" in notes.lines(SCALED)[0]
    assert AUTHORS(animation, "b.gif").getpixel((0, 0)) == (255, 0, 0)
    assert Notes().lines(AUTHORS) == []


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_modes_are_converted_as_the_authors_do(mode: str) -> None:
    """Would catch a picture that is composed onto a background, or one that the warning of its palette makes unreadable."""
    image = Image.new("RGB", (8, 2))
    image.putdata([(32 * x, 255 - 32 * x, 90) for _ in range(2) for x in range(8)])
    image = image.convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.linear_gradient("L").resize((8, 2)))
    data = encoded(
        image,
        "TIFF" if mode in ("CMYK", "YCbCr") else "PNG",
        **({"transparency": bytes(range(20))} if mode == "P" else {}),
    )
    [read] = [AUTHORS(data, "a")]
    with Image.open(io.BytesIO(data)) as opened:
        opened.info.pop("transparency", None)
        assert np.array_equal(np.asarray(read), np.asarray(opened.convert("RGB")))
    assert (read.mode, read.size) == ("RGB", (8, 2))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "an empty file"),
        (b"no picture", "not a picture of a format that Pillow knows"),
        (encoded(Image.new("RGB", (50, 50)))[:60], "OSError: "),
        (header(0, 5), "not a picture"),
        (header(100_000, 100_000), r"DecompressionBombError: Image size \(10000000000 pixels\) exceeds"),
        (header(2**31 - 1, 2**31 - 1), "DecompressionBombError"),
        (
            header(30_000, 2),
            r"30,000 x 2 pixels are 900,000,000 once padded to a square, and 13,377 x 13,377 the most",
        ),
        (header(2, 13_378), r"2 x 13,378 pixels are"),
        (header(13_377, 2), "OSError: image file is truncated"),
    ],
)
def test_pictures_that_cannot_be_read_are_named(tmp_path: Path, data: bytes, message: str) -> None:
    """Would catch a traceback, and a file of some bytes that takes all memory, in itself or once it is padded."""
    path = tmp_path / "a.png"
    path.write_bytes(data)
    for source in (data, path):
        with pytest.raises(UnreadableImageError, match=f"^the name: {message}"):
            AUTHORS(source, "the name")
    assert 13_377**2 <= MOST_PIXELS < 13_378**2


def test_missing_files_are_named(tmp_path: Path) -> None:
    """Would catch a traceback for a file that went away, and one for a folder."""
    with pytest.raises(UnreadableImageError, match=r"^a: there is no such file$"):
        AUTHORS(tmp_path / "a.png", "a")
    with pytest.raises(UnreadableImageError, match=r"^a: IsADirectoryError"):
        AUTHORS(tmp_path, "a")
    with pytest.raises(UnreadableImageError, match="there is no such file"):
        AUTHORS.size(tmp_path / "a.png")


def test_rules_come_from_the_config() -> None:
    """Would catch a key that is read and forgotten, and a misspelt value that is taken for the default."""
    assert Rules.of({"root": None}, scaled=False) == Rules()
    asked = Rules.of({"exif": "apply", "allow_outside": True}, scaled=True)
    assert asked == Rules(Reading(upright=True, scaled=True), outside=True)
    for data, message in (
        ({"exif": "Apply"}, "data.exif='Apply': expected one of ignore, apply"),
        ({"exif": None}, "data.exif=None"),
        ({"allow_outside": 1}, "data.allow_outside=1: expected true or false"),
    ):
        with pytest.raises(UserError, match=message):
            Rules.of(data, scaled=False)


def test_named_pictures_are_found(tmp_path: Path) -> None:
    """Would catch a picture of another folder, and one that is there under another ending passed over without a word."""
    (tmp_path / "b").mkdir()
    Image.new("RGB", (2, 3), "red").save(tmp_path / "b" / "x.png")
    folders = (tmp_path / "a", tmp_path / "b")
    assert Rules().opener(folders, "x.png", "line 1")().size == (2, 3)
    with pytest.raises(
        UserError, match=r"line 1: the picture x.jpg is missing; looked in .*b, where .*x.png has another"
    ):
        Rules().find(folders, "x.jpg", "line 1")
    with pytest.raises(UserError, match=r"line 1: the picture y.jpg is missing; looked in .*/b$"):
        Rules().find(folders, "y.jpg", "line 1")


def test_a_link_inside_the_folder_may_lead_anywhere(tmp_path: Path) -> None:
    """Would catch data sets whose pictures are links to a store refused: names are judged as they are written."""
    store = tmp_path / "store" / "x.png"
    store.parent.mkdir()
    Image.new("RGB", (2, 3)).save(store)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.png").symlink_to(store)
    assert Rules().opener((tmp_path / "data",), "x.png", "line 1")().size == (2, 3)
