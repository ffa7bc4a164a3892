"""Whatever bytes stand where a picture should: an RGB picture, or one line that names it."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from blink.runs.inputs import pictures
from blink.runs.inputs.pictures import Notes, Reading, UnreadableImageError
from tests.fuzz.strategies import damaged

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16", "I;16B")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
READINGS = st.builds(Reading, upright=st.booleans(), scaled=st.booleans())


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse pictures early, so that none takes long."""
    monkeypatch.setattr(pictures, "MOST_PIXELS", 2**20)


def check(data: bytes, reading: Reading, path: Path) -> Image.Image | None:
    """Read a picture from bytes and from a file: both give the same picture, or the same line."""
    path.write_bytes(data)
    read: list[Any] = []
    for source in (data, path):
        try:
            read.append(reading(source, "the name"))
        except UnreadableImageError as error:
            read.append(str(error))
    if isinstance(read[0], str):
        assert read[0] == read[1]
        assert read[0].startswith("the name: ")
        assert "\n" not in read[0]
        return None
    first, second = read
    assert first.mode == "RGB"
    assert min(first.size) > 0
    assert np.array_equal(np.asarray(first), np.asarray(second))
    assert reading.size(path) == first.size
    notes = Notes()
    notes.add("the name", first)
    notes.lines(reading)
    result: Image.Image = first
    return result


def encoded(mode: str, size: tuple[int, int], format: str, seed: int, **settings: Any) -> bytes | None:
    """A picture of noise in a file; None if the format has no such mode."""
    image = Image.new(mode, size)
    noise = np.random.default_rng(seed).bytes(len(image.tobytes()))
    image.frombytes(noise)
    stream = io.BytesIO()
    try:
        image.save(stream, format, **settings)
    except (OSError, ValueError, KeyError):
        return None
    return stream.getvalue()


@given(data=st.binary(max_size=200), reading=READINGS)
def test_any_bytes(data: bytes, reading: Reading, tmp_path: Path) -> None:
    """Would catch an error that names nothing, for bytes that are no picture."""
    check(data, reading, tmp_path / "a.png")


@given(
    mode=st.sampled_from(MODES),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    format=st.sampled_from(FORMATS),
    seed=st.integers(0, 9),
    orientation=st.integers(0, 9),
    reading=READINGS,
)
def test_any_mode(
    mode: str,
    size: tuple[int, int],
    format: str,
    seed: int,
    orientation: int,
    reading: Reading,
    tmp_path: Path,
) -> None:
    """Would catch a whole picture of some mode, size and format that is refused, or turned where it should not be."""
    exif = Image.Exif()
    exif[0x112] = orientation
    data = encoded(mode, size, format, seed, **({"exif": exif} if format in ("JPEG", "PNG", "WEBP") else {}))
    if data is None:
        return
    with Image.open(io.BytesIO(data)) as stored:
        nothing_finite = stored.mode == "F" and not np.isfinite(np.asarray(stored)).any()
    read = check(data, reading, tmp_path / "a.png")
    if nothing_finite and reading.scaled:
        assert read is None
        return
    assert read is not None
    sideways = reading.upright and 5 <= orientation <= 8 and format in ("JPEG", "PNG", "WEBP")
    assert read.size == (size[::-1] if sideways else size)


@given(
    data=st.data(), format=st.sampled_from(FORMATS), mode=st.sampled_from(("RGB", "L", "P")), reading=READINGS
)
def test_damaged_files(data: st.DataObject, format: str, mode: str, reading: Reading, tmp_path: Path) -> None:
    """Would catch an error of a decoder's own type that escapes, and one picture from the file and another from its bytes."""
    whole = encoded(mode, (12, 9), format, 0)
    if whole is not None:
        check(data.draw(damaged(whole)), reading, tmp_path / "a.png")
