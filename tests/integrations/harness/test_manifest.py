"""What lmms-eval reads at its start costs nothing, and says where the class is."""

import tomllib

from blink.integrations.harness import manifest
from tests.processes import ROOT, inherited, python


def test_the_entry_point_is_read_without_torch_or_lmms_eval() -> None:
    """Would catch an entry point that imports torch for every other model of lmms-eval, or that breaks without it."""
    script = (
        "import sys, blink\n"
        "from blink.integrations.harness.manifest import manifest\n"
        "print([name for name in ('torch', 'transformers', 'lmms_eval') if name in sys.modules])"
    )
    done = python("-c", script, env={**inherited(), "PATH": ""})
    assert done.stdout.strip() == "[]", done.stderr


def test_the_project_names_the_entry_point() -> None:
    """Would catch a function that moved, and a model that lmms-eval no longer lists."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = project["entry-points"]["lmms_eval.models"]
    assert listed == {manifest.NAME: f"{manifest.__name__}:{manifest.manifest.__name__}"}
