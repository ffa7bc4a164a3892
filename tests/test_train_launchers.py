"""Multiruns of the train command by other launchers: each job is one training, with processes of its own if it has several."""

import importlib.util
from pathlib import Path

import pytest

from tests.processes import python
from tests.training_runs import common, folder_of, run, same_weights

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("in_empty_folder"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),  # Lightning's use of torch
]


@pytest.mark.parametrize(
    ("launcher", "package", "more"),
    [
        ("submitit_local", "hydra_plugins.hydra_submitit_launcher", ["trainer=default"]),
        # processes that submitit starts, and processes that Lightning starts in a program that is not ours
        (
            "submitit_local",
            "hydra_plugins.hydra_submitit_launcher",
            ["trainer=ddp_cpu", "hydra.launcher.tasks_per_node=2"],
        ),
        ("joblib", "hydra_plugins.hydra_joblib_launcher", ["trainer=ddp_cpu", "hydra.launcher.n_jobs=1"]),
    ],
)
def test_jobs_of_a_launcher_equal_one_process(
    launcher: str, package: str, more: list[str], llava_folder: Path, pictures: Path
) -> None:
    """Catches ranks of a job that each train alone, further processes that are the launcher's program, and lost folders."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    arguments = [*common(llava_folder, pictures), "images=8"]
    ended = python(
        *("-m", "blink.train", "--multirun", *arguments, "layer=1,2"),
        *(f"hydra/launcher={launcher}", *more),
        timeout=500,
    )
    assert ended.returncode == 0, ended.stderr
    for layer in (1, 2):
        own = [*arguments, f"layer={layer}"]
        run(*own, "outputs=alone")
        same_weights(
            folder_of(*own, more[0]) / "token_sr",
            folder_of(*own, outputs=Path("alone")) / "token_sr",
            rtol=1e-4,
            atol=1e-6,
        )
