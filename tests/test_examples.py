"""The programs of examples/, each run as a user runs it, but in this process."""

import runpy
import sys
from pathlib import Path

import pytest

from blink.model import families

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

TELLS = {
    "attach": ("Blink:   ", "without: ", "<blink.Handle: attached", "layer 8: ratio 0."),
    "engine": ("TokenSR: ", "expanded at [", "expanded at no layer"),
    "own_module": ("step 5: loss ", "with TokenSR, last prompt: ", "strength: 0."),
    "own_family": ("never acts changes nothing: True", "always acts does: True", "VipLlava"),
    "sweep": ("tau_exp  tau_drop  right  expanded", "   none      none", "0.8       0.4"),
}
"""Program -> parts of what it prints."""


def test_every_example_is_tried() -> None:
    """Would catch an example that nobody runs."""
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(TELLS)


@pytest.mark.parametrize("name", sorted(TELLS))
def test_an_example_runs(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Would catch an example that a change of the package has left behind, and one that only works in its own folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{name}.py"])
    kept, architectures = list(families.FAMILIES), dict(families.ARCHITECTURES)
    try:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    finally:  # what an example registers is for its process alone
        families.FAMILIES[:] = kept
        families.ARCHITECTURES.clear()
        families.ARCHITECTURES.update(architectures)
    said = capsys.readouterr().out
    assert all(part in said for part in TELLS[name]), said


def test_a_module_of_an_example_learns(capsys: pytest.CaptureFixture[str]) -> None:
    """Would catch labels that are of the wrong tokens, and gradients that do not reach a caller's module."""
    program = runpy.run_path(str(EXAMPLES / "own_module.py"))
    program["main"](steps=4)
    losses = [
        float(line.rpartition(" ")[2]) for line in capsys.readouterr().out.splitlines() if "loss" in line
    ]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("thing", [None, int, families.Family])
def test_what_is_no_family_is_not_registered(thing: object) -> None:
    """Would catch a family that fits no model, found out once a model is attached to."""
    with pytest.raises(ValueError, match="is no family: expected a subclass of"):
        families.register(thing)  # type: ignore[arg-type]
