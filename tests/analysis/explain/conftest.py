"""One explanation, and two runs that differ, made once for all tests of the room.

Files of the room that are tested where they are used:

    plan.py      test_command.py
    answers.py   test_page.py, test_command.py
    flips.py     test_command.py, test_chromium.py
    screen.py    test_page.py
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from blink.analysis.explain.answers import Explainer, Explanation, Side
from blink.bench import Sample
from blink.eval import main as evaluation
from blink.inference.policy import Policy
from blink.inference.run import Run
from blink.model.backbone import Backbone
from blink.model.checkpoints import load_backbone
from blink.model.prompts import template_named
from tests import models

HOSTILE = "Is </script><script>alert(1)</script> & <b>\"red\"</b> 'red'? {{ 7 * 7 }}\nAnswer shortly."
"""A question that an unescaped page would run."""

OTHER_ANSWER = "what it said in other company"

POLICY = Policy(layers=[1, 2, 3], tau_exp=0.3, tau_drop=0.27, patches=2)


@pytest.fixture(scope="session")
def loaded(llava_folder: Path) -> Backbone:
    return load_backbone(llava_folder)


@pytest.fixture(scope="session")
def explain(loaded: Backbone) -> Callable[..., Explanation]:
    """Explains one question without Blink and with Blink-interp."""

    def explained(policy: Policy = POLICY, question: str = HOSTILE, seed: int = 0) -> Explanation:
        sides = Side("without Blink", Run(), 3), Side("with Blink-interp", Run(policy), 3)
        details = {"box": [50, 5, 80, 35]}
        sample = Sample("a<b>", "a", question, "red", "", lambda: models.picture(seed, (90, 60)), details)
        return Explainer(loaded, template_named("vicuna_v1"), sides)(sample)

    return explained


@pytest.fixture(scope="session")
def explained(explain: Callable[..., Explanation]) -> Explanation:
    return explain()


@pytest.fixture(scope="session")
def differing_runs(llava_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two finished runs over 12 questions; by their files the second gains three answers and loses one.

    A random backbone is never right, so the marks are written by hand, and so is the fifth answer of the second run;
    all else is as `blink.eval` left it.
    """
    root = tmp_path_factory.mktemp("runs")
    folders = []
    for method in ("vanilla", "interp"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                sys,
                "argv",
                [
                    "blink.eval",
                    f"method={method}",
                    f"model.path={llava_folder}",
                    f"outputs={root}",
                    "layer=1-2",
                    "tau_exp=0.3",
                    "scenes.images=1",
                    "limit=12",
                    "bench.max_new_tokens=2",
                    "logger=none",
                ],
            )
            evaluation()
        [folder] = [path for path in (root / "eval").iterdir() if path not in folders]
        folders.append(folder)
    for folder, right in zip(folders, ({0}, {3, 4, 5}), strict=True):
        path = folder / "predictions.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        marked = [{**row, "correct": number in right} for number, row in enumerate(rows)]
        if folder == folders[1]:
            marked[4]["response"] = OTHER_ANSWER
        path.write_text("".join(json.dumps(row) + "\n" for row in marked))
    return folders
