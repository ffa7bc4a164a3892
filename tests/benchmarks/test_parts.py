"""Parts of the benchmarks on small stand-ins: never, extensions, scans and training, and every part's command line."""

import runpy
import sys
from pathlib import Path

import pytest

from benchmarks import extensions, never, scans, training
from benchmarks.common import Bench, Options, wide

PARTS = [
    path for path in sorted(Path(never.__file__).parent.glob("*.py")) if '"__main__"' in path.read_text()
]


def small() -> Bench:
    """Width 256, two layers, 576 visual tokens."""
    return next(wide(Options(quick=True, layers=2, dtypes=("float32",)), layers=4))


@pytest.mark.slow
def test_prompt_measurements_run() -> None:
    """Would catch a policy that expands where it must not, or does not where it must: the FLOPs on paper tell.

    Beside the vision tower, which has its true width, a decoder of width 256 weighs little.
    """
    bench = small()
    never_expands = never.row(bench, (1,), 1).floor or 0
    expands = extensions.row(bench, (1,), refined=False, bar=1.05, repeats=1).floor or 0
    assert 1 < never_expands < 1.01 < expands < 1.1


def test_scans_are_timed_inside_a_pass() -> None:
    """Would catch timed functions that a pass no longer calls, and seconds of a warm-up or of another function."""
    [row] = scans.on_wide(Options(quick=True, layers=2, dtypes=("float32",), repeats=1))
    assert 1 < row.low <= row.value <= row.high < 1 + scans.SCANNED / scans.LAYERS


@pytest.mark.parametrize("path", PARTS, ids=lambda path: path.stem)
def test_parts_have_a_command_line(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Would catch a part that measures for an hour where it is asked for its options, or that names itself wrongly."""
    monkeypatch.setattr(sys, "argv", [path.name, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    assert ended.value.code == 0
    name = "benchmarks" if path.stem == "__main__" else f"benchmarks.{path.stem}"
    assert capsys.readouterr().out.startswith(f"usage: python -m {name} [-h]")


def test_training_keeps_nothing_of_the_backbone() -> None:
    """Would catch activations of the frozen trunk kept for a backward pass, and layers loaded that are not needed."""
    assert training.memory().holds


def test_a_step_carried_over_to_full_size() -> None:
    """Would catch shares of a step mixed up: where a module costs nothing, seven cost as much as one, and the reverse."""
    dims = small().dims
    assert training.full_size_ratio(dims, both=1.0, alone=1.0) == 1
    assert training.full_size_ratio(dims, both=2.0, alone=1.0) == 7
