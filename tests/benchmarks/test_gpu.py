"""The measurements of a GPU, on the CPU on a small model, and the section of the page that they write."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.common import Bench, Row
from benchmarks.gpu import __main__ as command
from benchmarks.gpu import page
from benchmarks.gpu.__main__ import PARTS, Part, main, run
from benchmarks.gpu.size import SMALL, Size, backbone
from tests.processes import ROOT, inherited, python

EQUALITIES = ("largest difference", "waits of the host", "answers that change")
"""Beginnings of rows whose bars hold on every machine; the others are times."""


def cells(text: str) -> list[list[str]]:
    """The rows of the tables in a page."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


@pytest.mark.slow
def test_all_parts_run_small(tmp_path: Path) -> None:
    """Catches a part that fails or takes too long, a bar on numbers that does not hold, and rows that are not written."""
    target = tmp_path / "page.md"
    names = [part.name for part in PARTS if part.name != "deepspeed"]
    main(["--small", "--target", str(target), "--parts", *names])
    text = target.read_text()
    assert "Not measured to the end" not in text, text
    rows = cells(text)
    assert len(rows) == 5 + 7 + 3 + 4 + 3 + 1 + 3
    for what, _, _, _, holds, *_ in rows:
        assert holds == "yes" or not what.startswith(EQUALITIES), what
    assert "out of memory with 18 rows; going on with 9 at once" in text


@pytest.mark.slow
def test_a_step_by_deepspeed_on_the_cpu(tmp_path: Path) -> None:
    """Catches weights that DeepSpeed does not change, or a part that another trainer does not take."""
    pytest.importorskip("deepspeed", reason="deepspeed is not installed")
    target = tmp_path / "page.md"
    ended = python(
        *("-m", "benchmarks.gpu", "--small", "--parts", "deepspeed", "--target", str(target)),
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), **inherited()},
        cwd=ROOT,
    )
    assert ended.returncode == 0, ended.stderr
    [[what, _, _, bar, holds, *_]] = cells(target.read_text())
    assert what.startswith("training step of layer 3, DeepSpeed ZeRO-2")
    assert (bar, holds) == ("weights change", "yes")


def test_the_full_size_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a command that begins to fill 14 GB of memory on a laptop."""
    monkeypatch.setattr(command, "device", lambda: "cpu")
    with pytest.raises(SystemExit, match=r"no GPU here.*--small"):
        main([])


def row(what: str) -> Row:
    """A row that holds."""
    return Row(what, "here", 1, 1, 1, "", True)


def slow(bench: Bench, size: Size) -> Iterator[Row]:
    """Gives one row, and never a second one."""
    yield row("quick")
    while True:
        pass


def lacking(bench: Bench, size: Size) -> Iterator[Row]:
    """Needs what is not there."""
    import no_such_package  # type: ignore[import-not-found]

    yield row(str(no_such_package))


def failing(bench: Bench, size: Size) -> Iterator[Row]:
    """Fails."""
    yield row("before")
    raise RuntimeError("of its own")


def test_one_part_does_not_cost_the_others() -> None:
    """Catches a part that takes the time of all, one that is not installed or fails and ends the run, and lost rows."""
    bench = backbone(SMALL)
    found = [run(Part(part.__name__, part, 1, ""), bench, SMALL) for part in (slow, lacking, failing)]
    assert [[one.what for one in part.rows] for part in found] == [["quick"], [], ["before"]]
    assert found[0].ended == "cut short after 1 s"
    assert found[1].ended == "left out: the package no_such_package is not installed"
    assert found[2].ended == "failed: RuntimeError: of its own"
    text = page.section(found)
    assert "- lacking: left out: the package no_such_package is not installed." in text


def test_the_rest_of_the_page_stays(tmp_path: Path) -> None:
    """Catches a section that is written twice, or that takes what others wrote with it."""
    path = tmp_path / "page.md"
    path.write_text("# Performance\n\nBefore.\n")
    for what in ("first", "second"):
        page.put(path, page.section([page.Found("part", [row(what)], 1.0, "")]))
    path.write_text(f"{path.read_text()}\nBehind.\n")
    page.put(path, page.section([page.Found("part", [row("third")], 1.0, "")]))
    text = path.read_text()
    assert text.startswith("# Performance\n\nBefore.\n")
    assert text.endswith("\nBehind.\n")
    assert [cells[0] for cells in cells(text)] == ["third"]
    assert page.section_of(text) in text
    assert "Not measured yet" in page.section_of("# Performance\n")
