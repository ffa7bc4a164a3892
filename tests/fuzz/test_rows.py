"""Whatever stands in a benchmark's files: its questions, or one line that names the file."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from blink.analysis.cases import folder_cases
from blink.bench import Sample, make_row
from blink.bench.base import Benchmark, Graded
from blink.runs.inputs.pictures import Rules
from blink.runs.values import UserError
from blink.training.images import local_images
from tests.bench.layouts import AUTHORS, HUB, Layout, texts, write
from tests.fuzz.strategies import damaged, mutated
from tests.runs.inputs.test_pictures import encoded

PICTURE = encoded(Image.new("RGB", (6, 3), "red"))


def check_error(error: UserError, *names: str) -> None:
    assert any(name in str(error) for name in names), error


def check_samples(samples: list[Sample], benchmark: Benchmark | None) -> None:
    """Questions are texts about pictures that can be read, and their rows can be written."""
    assert len({sample.id for sample in samples}) == len(samples)
    for sample in samples:
        assert all(isinstance(part, str) for part in (sample.id, sample.image, sample.question, sample.label))
        assert sample.question.strip()
        try:
            assert sample.load_image().mode == "RGB"
        except UserError as error:
            check_error(error, sample.image)
        if benchmark is not None and not isinstance(benchmark, Graded):
            json.dumps(make_row(sample, benchmark, "Yes", tokens=1), ensure_ascii=False).encode()


def check(layout: Layout, root: Path) -> None:
    benchmark = layout.make()
    try:
        samples = benchmark.from_folder(root, Rules())
    except UserError as error:
        check_error(error, *layout.files, str(root))
    else:
        check_samples(samples, benchmark)


@pytest.mark.parametrize("name", AUTHORS)
@given(data=st.data())
def test_authors_files(data: st.DataObject, name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Would catch a traceback, or "None" asked, for a value of another type, a key that is missing, or one too many."""
    files: dict[str, Any] = data.draw(mutated(dict(AUTHORS[name].files)))
    root = tmp_path_factory.mktemp("data")
    write(
        root,
        {file: as_content(files.get(file), content) for file, content in AUTHORS[name].files.items()},
        PICTURE,
    )
    check(AUTHORS[name], root)


def as_content(value: Any, whole: Any) -> Any:
    """What to write: the changed content where it is still of a file's kind, else the value as JSON."""
    if isinstance(whole, dict) and "table" in whole:
        rows = value.get("table") if isinstance(value, dict) else None
        fits = isinstance(rows, list) and rows and all(isinstance(row, dict) and row for row in rows)
        return value if fits else ""
    if isinstance(whole, list):
        return value if isinstance(value, list) else json.dumps(value)
    if isinstance(whole, dict):
        return value if isinstance(value, dict) and "json" in value else json.dumps(value)
    return value if isinstance(value, str) else whole


@pytest.mark.parametrize("name", AUTHORS)
@given(data=st.data())
def test_damaged_authors_files(
    data: st.DataObject, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Would catch a traceback for a file that was cut off, or in which bytes were lost."""
    root = tmp_path_factory.mktemp("data")
    write(root, AUTHORS[name].files, PICTURE)
    path = root / data.draw(st.sampled_from(texts(AUTHORS[name].files)))
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    check(AUTHORS[name], root)


@pytest.mark.parametrize("name", HUB)
@settings(max_examples=max(4, settings().max_examples // 6))  # `datasets` takes its time
@given(data=st.data())
def test_tables_of_the_hub(data: st.DataObject, name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Would catch a traceback for a column of another type, one that is missing, and an empty cell."""
    import pyarrow

    files = {}
    for file, content in HUB[name].files.items():
        rows = data.draw(mutated(content["parquet"][:1]))
        files[file] = {"parquet": [row for row in rows if isinstance(row, dict) and row]}
    if not all(content["parquet"] for content in files.values()):
        return
    root = tmp_path_factory.mktemp("data")
    try:
        write(root, files, PICTURE)
    except (pyarrow.ArrowException, OverflowError, TypeError, ValueError):
        return  # no table can hold that
    check(HUB[name], root)


@settings(max_examples=max(4, settings().max_examples // 2))
@given(data=st.data())
def test_damaged_tables_of_the_hub(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Would catch a traceback for a file whose download was cut off."""
    root = tmp_path_factory.mktemp("data")
    write(root, HUB["pope"].files, PICTURE)
    [path] = root.rglob("*.parquet")
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    check(HUB["pope"], root)


CASES = [{"image": "a.jpg", "question": "What?", "box": [0, 0, 3, 3], "id": "x", "answer": "red"}]


@given(rows=mutated(CASES), data=st.data())
def test_questions_of_the_users_own(
    rows: list[Any], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Would catch a traceback, or a box beside the picture, for whatever a line of the file holds."""
    root = tmp_path_factory.mktemp("data")
    path = root / "mine.jsonl"
    (root / "a.jpg").write_bytes(PICTURE)
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(data.draw(damaged(content)) if data.draw(st.booleans()) else content)
    try:
        samples = folder_cases(path)
    except UserError as error:
        check_error(error, str(path))
        return
    check_samples(samples, None)
    for sample in samples:
        left, top, right, bottom = sample.details["box"] or (0, 0, 1, 1)
        assert 0 <= left < right <= 6
        assert 0 <= top < bottom <= 3


MIXTURE = [
    {"id": "1", "image": "a.jpg", "conversations": []},
    {"id": "2", "model": "text"},
    {"image": "b/c.jpg"},
]


@given(entries=mutated(MIXTURE), data=st.data())
def test_mixtures(entries: list[Any], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Would catch a traceback for whatever an entry holds, and a picture outside the folder."""
    root = tmp_path_factory.mktemp("data")
    path = root / "mixture.json"
    content = json.dumps(entries).encode()
    path.write_bytes(data.draw(damaged(content)) if data.draw(st.booleans()) else content)
    try:
        images = local_images([path])
    except UserError as error:
        check_error(error, str(path))
        return
    assert len(images) > 0
    assert all(found.resolve().is_relative_to(root.resolve()) for found in images.paths)
    assert images.fingerprint
