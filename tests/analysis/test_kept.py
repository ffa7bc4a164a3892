"""Pieces of a longer work on disk: what is done once, what is done again, and what is thrown away."""

from pathlib import Path

import pytest
import torch

from blink.analysis.kept import Kept, Piece


def made(value: float, calls: list[float]) -> Piece:
    """A piece whose tensors share memory, as rows of a batch do."""
    calls.append(value)
    rows = torch.full((2, 3), value)
    return Piece({"a": rows[0], "b": rows[1], "c": rows.T}, [value, None, "图"])


def test_a_piece_is_made_once(tmp_path: Path) -> None:
    """Would catch work that is done again, other tensors than were made, and pieces that stay when all is done."""
    calls: list[float] = []
    for _ in range(2):
        kept = Kept(tmp_path / "parts", {"model": "one"})
        for name, value in (("x", 1.5), ("y", 2.5)):
            found = kept.piece(name, lambda value=value: made(value, calls))  # type: ignore[misc]
            assert found.notes == [value, None, "图"]
            assert {key: tensor.shape for key, tensor in found.tensors.items()} == {
                "a": (3,),
                "b": (3,),
                "c": (3, 2),
            }
            assert all((tensor == value).all() for tensor in found.tensors.values())
    assert calls == [1.5, 2.5]
    kept.forget("x")
    kept.piece("x", lambda: made(3.5, calls))
    assert calls == [1.5, 2.5, 3.5]
    kept.remove()
    assert not list(tmp_path.iterdir())


def test_nothing_is_kept_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch files that nobody asked for."""
    monkeypatch.chdir(tmp_path)
    calls: list[float] = []
    kept = Kept()
    kept.piece("x", lambda: made(1.5, calls))
    kept.piece("x", lambda: made(1.5, calls))
    assert len(calls) == 2
    assert not kept.begun
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"{}", None])
def test_what_is_damaged_or_of_other_inputs_is_made_again(content: bytes | None, tmp_path: Path) -> None:
    """Would catch tensors of another backbone in a figure, and one that cannot be drawn after a power failure."""
    calls: list[float] = []
    Kept(tmp_path, {"model": "one"}).piece("x", lambda: made(1.5, calls))
    [file] = tmp_path.glob("*.safetensors")
    if content is None:
        file.write_bytes(file.read_bytes()[:-8])
    else:
        file.write_bytes(content)
    kept = Kept(tmp_path, {"model": "one"})
    assert kept.begun
    assert float(kept.piece("x", lambda: made(2.5, calls)).tensors["a"][0]) == 2.5
    other = Kept(tmp_path, {"model": "two"})
    assert not other.begun
    assert float(other.piece("x", lambda: made(3.5, calls)).tensors["a"][0]) == 3.5
    (tmp_path / "of.json").write_text("")
    assert not Kept(tmp_path, {"model": "two"}).begun
    assert len(calls) == 3
