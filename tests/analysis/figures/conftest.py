"""A small backbone with questions to look at, and finished runs written by hand, for the tests of all figures.

Files of the room that are tested where they are used:

    base.py                      test_attention_ratio.py, test_redistribution.py, of_runs/test_layer_range.py
    maps.py                      test_attention_maps.py, test_redistribution.py
    redistribution_drawings.py   test_redistribution.py
    plan.py                      test_analyze.py
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from blink.analysis.figures.of_runs.points import Point
from blink.analysis.figures.plan import RUN_FIGURES
from blink.analysis.probe import Prober
from blink.bench import Sample
from blink.inference.policy import Policy
from blink.model.backbone import Backbone
from blink.model.prompts import template_named
from blink.runs.style import Drawn, look
from tests import models
from tests.drawings import faults
from tests.finished_runs import Rule, finish, samples


def questions(count: int = 4) -> list[Sample]:
    """Questions about pictures of which two share one; every second has a box."""
    return [
        Sample(
            id=f"s{n}",
            image=f"picture{n // 2}",
            question=f"Is there a {word} circle in the image?",
            label="",
            split="",
            open_image=lambda seed=n // 2: models.picture(seed),  # type: ignore[misc]
            details={"box": None if n % 2 else [5, 35, 20, 50]},
        )
        for n, word in zip(range(count), ("red", "green", "blue", "small", "large", "yellow"), strict=False)
    ]


@pytest.fixture(scope="session")
def backbone() -> Backbone:
    model = models.llava(grid=6, layers=4, hidden=32)
    return Backbone(model, models.processor(model), name="random")


@pytest.fixture(scope="session")
def prober(backbone: Backbone) -> Prober:
    return Prober(backbone, template_named("vicuna_v1"), batch_size=3)


def saved(figure: Figure, tmp_path: Path) -> None:
    """Draw a figure for real: warnings of layout and fonts come then, and what is hard to read is seen."""
    figure.savefig(tmp_path / "figure.png")
    assert faults(figure) == []


WRONG = [f"random/{picture}yes" for picture in range(4)]


def run(
    root: Path,
    layers: Sequence[int] | None,
    wrong: int = 0,
    tau: tuple[float, float] = (0.5, 0.4),
    **about: Any,
) -> Path:
    """One finished run; without layers one of the backbone as it is."""
    policy = None
    if layers is not None:
        policy = Policy(layers, tau_exp=tau[0], tau_drop=tau[1])
    folder = root / f"run{len(list(root.iterdir()))}"
    method = {"method": "vanilla" if layers is None else "interp", "backbone": "b"} | about
    finish(folder, Rule(wrong=WRONG[:wrong]), samples(), policy=policy, **method)
    return folder


def drawn(name: str, points: Sequence[Point], tmp_path: Path, **settings: Any) -> Drawn:
    """A figure of runs, drawn for real: warnings of layout and fonts come then, and what is hard to read is seen."""
    everything = dict.fromkeys(("metric", "metrics", "method", "first", "last"))
    with look():
        made = RUN_FIGURES[name](
            points, everything | {"difference": False, "scale": "difference"} | settings, "tiny"
        )
        for figure in made.figures.values():
            saved(figure, tmp_path)
    return made


def counted(folder: Path, flops: int) -> Path:
    """The run, as if its questions had cost so much."""
    scores = json.loads((folder / "scores.json").read_text())
    (folder / "scores.json").write_text(json.dumps(scores | {"flops": flops}))
    return folder
