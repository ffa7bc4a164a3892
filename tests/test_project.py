"""The Makefile's demo and the wheel: what a newcomer meets first."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from blink.evaluation.planning.presets import preset
from blink.inference.policy import parse_layers
from blink.runs.names import run_name

ROOT = Path(__file__).resolve().parents[1]


def test_demo_trains_the_layers_that_it_evaluates() -> None:
    """Would catch a preset that moved on without the demo, which then lacks modules for the layers it scans."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    variables = dict(re.findall(r"^(DEMO_\w+|RECIPE) := (.*)$", text, flags=re.MULTILINE))
    layers, recipe = variables["DEMO_LAYERS"], variables["RECIPE"].split()
    settings = preset("tiny", "pope")
    assert settings is not None
    assert set(parse_layers(settings.layers)) <= set(parse_layers(layers))
    name = run_name([f"layer={layers}", *recipe, "reference=tiny"])
    assert variables["DEMO_RUN"].replace("$(DEMO_LAYERS)", layers) == f"outputs/train/{name}"


@pytest.mark.slow
def test_wheel_carries_configs_and_weights(tmp_path: Path) -> None:
    """Would catch a wheel whose commands find no config, or whose method=blink finds no modules."""
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for needed in (
        "conf/train.yaml",
        "conf/eval.yaml",
        "conf/model/tiny.yaml",
        "analysis/explain/templates/page.html",
        "integrations/hub/templates/card.md",
        "assets/tiny/model.safetensors",
        "assets/tiny/chat_template.jinja",
        "assets/tiny/README.md",
        "assets/tiny/token_sr/README.md",
    ):
        assert f"blink/{needed}" in names
    assert "hydra_plugins/blink_sweeps.py" in names
    assert {f"blink/assets/tiny/token_sr/layer_{layer:02}.safetensors" for layer in range(16)} <= names
    zipfile.ZipFile(wheel).extractall(tmp_path / "unpacked")
    shown = subprocess.run(
        [sys.executable, "-c", "from blink.runs.config.groups import CONF_DIR; print(CONF_DIR)"],
        env={"PYTHONPATH": str(tmp_path / "unpacked")},
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert shown.stdout.strip() == str(tmp_path / "unpacked" / "blink" / "conf")
    installed = tmp_path / "installed"
    install = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(installed),
        str(wheel),
    ]
    subprocess.run([sys.executable, *install], check=True, capture_output=True)
    scripts = sorted(path.name for path in (installed / "bin").iterdir())
    commands = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert scripts == sorted(commands)
    for overrides, told in (
        (("blink-eval", "--cfg", "job", "bench=pope", "tau_exp=0.25"), "tau_exp: 0.25"),
        (("blink-push", "token_sr=tiny", "repo=me/tiny", "dry_run=true"), "nothing was uploaded"),
    ):
        done = subprocess.run(
            [str(installed / "bin" / overrides[0]), *overrides[1:]],
            env={**os.environ, "PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        assert told in done.stdout
    assert (tmp_path / "outputs" / "push" / "me--tiny" / "layer_15.safetensors").is_file()
