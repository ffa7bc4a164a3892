"""Short training runs for tests: in this process, on a small random backbone, quiet."""

from pathlib import Path

import torch

from blink import load_token_sr
from blink.runs.command import one_line_errors
from blink.runs.lock import lock_scope
from blink.runs.names import run_name
from blink.train import train
from blink.training.report import Summary
from tests.training.conftest import planned


def common(backbone: Path, pictures: Path | str) -> list[str]:
    """Overrides for a short and quiet run on a small random backbone: eleven steps with all of the pictures."""
    return [
        f"model.path={backbone}",
        f"data.root={pictures}",
        "logger=none",
        "workers=0",
        "checkpoint_every=4",
        "trainer.accelerator=cpu",
        "trainer.enable_progress_bar=false",
        "trainer.deterministic=false",
    ]


def run(*overrides: str) -> Summary:
    """`python -m blink.train` in this process."""
    with one_line_errors(), lock_scope():
        summary = train(planned(*overrides), list(overrides))
    assert summary is not None
    return summary


def folder_of(*overrides: str, outputs: Path = Path("outputs")) -> Path:
    """The folder of a run."""
    return outputs / "train" / run_name(overrides)


def same_weights(one: Path, other: Path, rtol: float = 0, atol: float = 0) -> None:
    """Assert that two token_sr folders hold the same modules."""
    first, second = load_token_sr(one), load_token_sr(other)
    assert first.keys() == second.keys()
    for layer in first:
        expected = second[layer].state_dict()
        for name, value in first[layer].state_dict().items():
            torch.testing.assert_close(value, expected[name], rtol=rtol, atol=atol)
