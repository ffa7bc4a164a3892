"""The programs and the notebook of examples/, as users run them; programs in this process."""

import runpy
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from blink.model import families

NOTEBOOK_BYTES = 100_000
"""A notebook's outputs are part of every clone."""

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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_module_of_an_example_learns(capsys: pytest.CaptureFixture[str]) -> None:
    """Would catch labels that are of the wrong tokens, and gradients that do not reach a caller's module."""
    program = runpy.run_path(str(EXAMPLES / "own_module.py"))
    program["main"](steps=4)
    losses = [
        float(line.rpartition(" ")[2]) for line in capsys.readouterr().out.splitlines() if "loss" in line
    ]
    assert losses[-1] < losses[0]


def test_the_notebook_is_small_and_was_run_in_order() -> None:
    """Would catch a notebook committed without outputs, with those of an error, or with megabytes of them."""
    file = EXAMPLES / "quickstart.ipynb"
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for cell in code for output in cell.outputs)
    assert file.stat().st_size < NOTEBOOK_BYTES


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_notebook_runs(tmp_path: Path) -> None:
    """Would catch a notebook that a change of the package has left behind, and outputs that tell of another version."""
    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    stored = [_told(cell) for cell in notebook.cells]
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    assert [_told(cell) for cell in notebook.cells] == stored


def _told(cell: Any) -> list[str]:
    """The texts that a cell has printed or returned; what is printed comes in as many pieces as the kernel likes."""
    outputs = [output for output in cell.get("outputs", []) if output.get("name") != "stderr"]
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    returned = [output.data["text/plain"] for output in outputs if output.output_type != "stream"]
    return [printed, *returned]


@pytest.mark.parametrize("thing", [None, int, families.Family])
def test_what_is_no_family_is_not_registered(thing: object) -> None:
    """Would catch a family that fits no model, found out once a model is attached to."""
    with pytest.raises(ValueError, match="is no family: expected a subclass of"):
        families.register(thing)  # type: ignore[arg-type]
