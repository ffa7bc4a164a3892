"""What a reader of a command meets, in order."""

import os
from pathlib import Path

from tests.processes import inherited, python
from tools.walk import report, visits_of


def test_neighbours_are_one_visit() -> None:
    """Would catch a visit per call."""
    order = ["a.py", "a.py", "b/c.py", "a.py", "a.py"]
    assert visits_of(order) == ["a.py", "b/c.py", "a.py"]
    assert report(order).splitlines()[-1].startswith("2 files, 3 visits, 1 returns")


def test_a_command_is_followed(tmp_path: Path) -> None:
    """Would catch functions that are missed, and code that runs at import and is taken for them."""
    ran = python("-m", "tools.walk", "blink.compare", "missing", env=os.environ | inherited(), cwd=tmp_path)
    *visits, _ = [line for line in ran.stdout.splitlines() if line.endswith((".py", "rooms"))]
    assert visits[0] == "compare.py"
    assert "evaluation/compare.py" in visits
    assert "bench/base.py" not in visits
