"""The rehearsal at a width that takes no time."""

import pytest
from rich.console import Console

from benchmarks.rehearsal import main, rehearse, report


def test_rehearsal_measures_and_estimates(capsys: pytest.CaptureFixture[str]) -> None:
    """Would catch a rehearsal that does not run, and estimates that are not those of the full model.

    By hand at width 128: a TokenSR has 128 x 64 x 25 + 64 + 64 x 32 x 9 + 32 + 32 x 128 + 128 = 227,552 weights of four
    bytes, seven of them; keys and values are 32 layers of `tokens` and 20 of 576 columns, twice 128 numbers of four bytes.
    """
    found = rehearse(layers=2, hidden=128, vision_layers=2, dtype="float32")
    assert found.full_modules == 7 * 4 * 227_552
    assert found.full_keys == (32 * found.tokens + 20 * 576) * 2 * 128 * 4
    assert found.full_weights > found.weights - found.full_modules
    assert found.peak > found.weights
    assert min(found.vision, found.stock, found.scanned, found.expanded) > 0
    report(found, family="llava15", layers=2, console=Console(width=120))
    assert "estimated, 32 layers" in capsys.readouterr().out


def test_too_few_layers(capsys: pytest.CaptureFixture[str]) -> None:
    """Would catch a middle layer that is the first, before which there is nothing to measure."""
    with pytest.raises(SystemExit):
        main(["--layers", "1"])
    assert "--layers takes 2 or more" in capsys.readouterr().err
    with pytest.raises(ValueError, match="layers=1, repeats=1"):
        rehearse(layers=1)
