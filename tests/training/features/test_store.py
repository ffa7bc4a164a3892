"""Features on disk: what counts as there, who may add to them, and what is refused."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from blink.runs.values import UserError
from blink.training.features.store import FeatureStore

SHAPE = (5, 2, 3, 4)
RECIPE = {"weights": "abc", "dtype": "float32"}


def opened(folder: Path, **changed: str) -> FeatureStore:
    return FeatureStore(folder, {**RECIPE, **changed}, SHAPE, notes={"backbone": "some"})


def row(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def filled(folder: Path, names: list[str], layers: tuple[int, ...]) -> FeatureStore:
    """A store with a row per name, row(100 * layer + number) each."""
    store = opened(folder)
    for number, (name, place) in enumerate(zip(names, store.rows(names), strict=True)):
        store.write(place, name, {layer: row(100 * layer + number) for layer in layers})
    store.commit()
    return store


def test_rows_come_back_rounded(tmp_path: Path) -> None:
    """Would catch rows or layers mixed up, another order of axes, and more than bfloat16's rounding."""
    store = filled(tmp_path / "f", ["a", "b", "c"], (1, 12))
    (place,) = store.rows(["b"])
    read = store.read(place, (12, 1), torch.float32)
    assert list(read) == [12, 1]
    torch.testing.assert_close(read[12], row(1201).bfloat16().float(), rtol=0, atol=0)
    torch.testing.assert_close(store.read(place, [1], torch.bfloat16)[1], row(101).bfloat16(), rtol=0, atol=0)


def test_a_row_counts_once_it_is_committed(tmp_path: Path) -> None:
    """Would catch a half-written row taken for whole after a kill: marks come after the data is on the disk."""
    store = opened(tmp_path / "f")
    rows = store.rows(["a", "b"])
    store.write(rows[0], "a", {3: row(0), 4: row(1)})
    store.commit()
    store.write(rows[1], "b", {3: row(2)})
    assert opened(tmp_path / "f").lacking(rows, (3, 4)) == {rows[1]: (3, 4)}
    store.commit()
    assert opened(tmp_path / "f").lacking(rows, (3, 4)) == {rows[1]: (4,)}


def test_features_that_were_cut_off_are_lacking(tmp_path: Path) -> None:
    """Would catch an incomplete copy of the folder that is read as if it were whole."""
    store = filled(tmp_path / "f", ["a", "b"], (3,))
    file = tmp_path / "f" / "layer_03.features"
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size - 1)
    assert store.lacking(store.rows(["a", "b"]), (3,)) == {1: (3,)}


def test_pictures_and_layers_are_added(tmp_path: Path) -> None:
    """Would catch rows that move when pictures are added, and a changed picture that gets the old one's features."""
    first = filled(tmp_path / "f", ["a", "b"], (3,)).rows(["a", "b"])
    later = opened(tmp_path / "f")
    rows = later.rows(["b", "new", "a", "a changed"])
    assert [rows[2], rows[0]] == first
    assert later.lacking(rows, (3,)) == {rows[1]: (3,), rows[3]: (3,)}
    assert later.lacking(first, (3, 5)) == dict.fromkeys(first, (5,))
    assert later.lacking(first, (3,)) == {}


def test_many_at_once_agree_on_rows(tmp_path: Path) -> None:
    """Would catch two processes that give one row to two pictures."""
    names = [[f"{(start + i) % 40}" for i in range(25)] for start in range(8)]

    def listed(wanted: list[str]) -> dict[str, int]:
        return dict(zip(wanted, opened(tmp_path / "f").rows(wanted), strict=True))

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(listed, names))
    places = {name: place for one in found for name, place in one.items()}
    assert all(places[name] == place for one in found for name, place in one.items())
    assert len(set(places.values())) == len(places)


def test_other_recipes_and_folders_are_refused(tmp_path: Path) -> None:
    """Would catch features of another backbone that a run trains on, and files strewn into a user's folder."""
    filled(tmp_path / "f", ["a"], (3,))
    with pytest.raises(
        ValueError, match=r"not this run's \(weights: abc there, xyz now\); give another folder"
    ):
        opened(tmp_path / "f", weights="xyz")
    opened(tmp_path / "f")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"other files \(thesis.tex"):
        opened(mine)
    with pytest.raises(ValueError, match="is a file"):
        opened(mine / "thesis.tex")


def test_rows_may_differ_in_size(tmp_path: Path) -> None:
    """Would catch a row read at another's place, a grid that another process does not know, and one cut off at the end."""
    grids = {"a": (2, 3), "b": (4, 2), "c": (1, 1)}

    def states(name: str) -> torch.Tensor:
        H, W = grids[name]
        return torch.randn(5, H, W, 4, generator=torch.Generator().manual_seed(ord(name))).bfloat16()

    store = FeatureStore(tmp_path / "f", RECIPE, (5, None, None, 4), notes={})
    rows = store.rows(["a"], [grids["a"]]) + store.rows(["b", "c"], [grids["b"], grids["c"]])
    for row, name in zip(rows, "abc", strict=True):
        store.write(row, name, {3: states(name)})
    store.commit()
    later = FeatureStore(tmp_path / "f", RECIPE, (5, None, None, 4), notes={})
    assert later.rows(["c", "a", "b"], [(1, 1), (2, 3), (4, 2)]) == [rows[2], rows[0], rows[1]]
    assert [later.grid(row) for row in rows] == list(grids.values())
    for row, name in zip(rows, "abc", strict=True):
        assert torch.equal(later.read(row, (3,), torch.bfloat16)[3], states(name))
    assert later.bytes_of(rows) == 2 * 5 * 4 * (6 + 8 + 1)
    assert later.lacking(rows, (3,)) == {}
    assert later.check_space({rows[1]: (4,), rows[2]: (3, 4)}, 2) == 2 * 5 * 4 * (8 + 2)
    file = tmp_path / "f" / "layer_03.features"
    with file.open("r+b") as stream:
        stream.truncate(2 * 5 * 4 * (6 + 8))
    assert later.lacking(rows, (3,)) == {rows[2]: (3,)}
    with pytest.raises(ValueError, match=r"shape: \[5, None, None, 4\] there, \[5, 2, 3, 4\] now"):
        opened(tmp_path / "f")


def test_too_little_space_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a disk that fills up after hours, and rows counted that are there already."""
    store = filled(tmp_path / "f", ["a"], (3,))
    lacking = store.lacking(store.rows(["a", "b"]), (3, 4))
    assert store.bytes_of([0]) == 2 * 120
    assert store.check_space(lacking, 2) == 3 * 2 * 120
    monkeypatch.setattr(
        "blink.training.features.store.shutil.disk_usage", lambda _: SimpleNamespace(free=719)
    )
    with pytest.raises(
        ValueError, match=r"needs 0.7 kB more for 2 pictures \(0.2 kB for each.*0.7 kB are free"
    ):
        store.check_space(lacking, 2)


@pytest.mark.parametrize(
    ("name", "content"),
    [("recipe.json", ""), ("recipe.json", "{"), ("pictures.txt", "garbage\n"), ("pictures.txt", "")],
)
def test_damaged_lists_are_named(name: str, content: str, tmp_path: Path) -> None:
    """Would catch a traceback after a power failure, and features that are read for other pictures."""
    filled(tmp_path / "f", ["a", "b"], (3,))
    (tmp_path / "f" / name).write_text(content)
    with pytest.raises(UserError, match=rf"{name}.*; delete .*computed anew") as refused:
        opened(tmp_path / "f").rows(["a"])
    assert "\n" not in str(refused.value)


def test_emptied_marks_cost_time_and_no_truth(tmp_path: Path) -> None:
    """Would catch rows that count as stored without a mark."""
    filled(tmp_path / "f", ["a", "b"], (3,))
    (tmp_path / "f" / "layer_03.done").write_text("")
    again = opened(tmp_path / "f")
    rows = again.rows(["b", "a"])
    assert again.lacking(rows, (3,)) == {0: (3,), 1: (3,)}
    again.write(rows[1], "a", {3: row(7)})
    again.commit()
    assert again.lacking(rows, (3,)) == {rows[0]: (3,)}
    read = again.read(rows[1], (3,), torch.float32)[3]
    torch.testing.assert_close(read, row(7).bfloat16().float(), rtol=0, atol=0)


def test_a_folder_goes_on_whose_first_file_was_being_written(tmp_path: Path) -> None:
    """Would catch a folder that holds "other files": halves of a process that was killed there."""
    (tmp_path / "f").mkdir()
    for name in ("recipe.json.12.partial", "pictures.txt.34.partial"):
        (tmp_path / "f" / name).write_text("{")
    filled(tmp_path / "f", ["a"], (3,))
    assert not list((tmp_path / "f").glob("*.partial"))


def test_a_full_disk_is_named_and_costs_only_what_was_being_written(
    tmp_path: Path, file_size_limit: Callable[[int], None]
) -> None:
    """Would catch rows marked as whole that the disk did not take, and an error that does not say which disk."""
    store = filled(tmp_path / "f", ["a"], (3,))
    rows = store.rows(["a", "b"])
    store.write(rows[1], "b", {3: row(5)})
    file_size_limit(store.bytes_of(rows[:1]) + 10)
    with pytest.raises(OSError, match=r"layer_03\.features"):
        store.commit()
    store.close()
    again = opened(tmp_path / "f")
    assert again.lacking(rows, (3,)) == {rows[1]: (3,)}
