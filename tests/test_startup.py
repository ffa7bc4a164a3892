"""Starting a command: help and composed config come at once, and shells complete its keys."""

import os
import re
import runpy
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

from tests.processes import ROOT, python

HEAVY = ("torch", "transformers", "lightning", "datasets", "matplotlib", "scipy", "wandb", "gradio")

COMMANDS = ("train", "eval", "analyze", "explain", "score", "compare", "tune", "push", "serve", "demo")

GROUPS = {
    "train": ["callbacks", "data", "logger", "model", "objective", "trainer"],
    "eval": ["bench", "data", "experiment", "judge", "logger", "method", "model"],
    "analyze": ["bench", "data", "figure", "model"],
    "explain": ["method", "model"],
    "score": ["bench", "judge"],
}

_STARTED = f"""
import runpy, sys
module, sys.argv[1:] = sys.argv[1], sys.argv[2:]
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
except SystemExit as stopped:
    assert not stopped.code, stopped.code
print("loaded:", *(name for name in {HEAVY} if name in sys.modules))
"""
"""Runs a module as `python -m` does, then names the heavy packages that it has loaded."""


def started(*arguments: str, **environment: str) -> str:
    """What a fresh process prints that runs _STARTED."""
    return printed("-c", _STARTED, *arguments, **environment)


def printed(*arguments: str, **environment: str) -> str:
    """What a fresh process of Python prints."""
    done = python(*arguments, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=COMMANDS)
def command(request: pytest.FixtureRequest) -> str:
    """Each command; both tests of one come one after the other, so that the second finds what the first has `told`."""
    name: str = request.param
    return name


@cache
def told(command: str) -> tuple[str, set[str]]:
    """What `python -m blink.COMMAND --help` prints, and the packages that it loads."""
    done = python("-X", "importtime", "-m", f"blink.{command}", "--help")
    assert done.returncode == 0, done.stderr
    return done.stdout, {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


def test_help_is_light_and_names_the_groups_of_its_command(command: str) -> None:
    """Would catch a `--help` that imports torch for ten seconds, or that offers the trainers to an evaluation."""
    shown, loaded = told(command)
    assert "hydra" in loaded or command not in GROUPS
    assert not loaded & set(HEAVY)
    if command in GROUPS:
        groups, listed = shown[shown.index("Groups") :].splitlines()[1:], []
        for line in groups[: groups.index("")]:
            name, _, options = line.partition(": ")
            assert options.split(", ") == sorted(path.stem for path in (ROOT / "conf" / name).glob("*.yaml"))
            listed.append(name)
        assert listed == GROUPS[command]


def test_help_shows_commands_as_they_were_typed(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Would catch a console script whose help tells of `python -m`, and the other way round."""
    script = tmp_path / f"blink-{command}"  # as pip writes it
    script.write_text(f"import sys\nfrom blink.{command} import main\nsys.exit(main())\n")
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert not ended.value.code
    shown, (as_module, _) = capsys.readouterr().out, told(command)
    assert f"blink-{command}" in shown
    assert f"python -m blink.{command}" in as_module
    assert not re.search(r"python -m blink\.\w+(?![\w.])", shown)
    assert not re.search(rf"(?<!/)\bblink-({'|'.join(COMMANDS)})\b", as_module)


def test_the_version_is_that_of_the_package() -> None:
    """Would catch a version that is written down twice, one that needs torch, and none in a checkout on PYTHONPATH."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    light = f"import sys, blink; print(blink.__version__, *set({HEAVY}) & set(sys.modules))"
    assert printed("-c", light).strip() == project["version"]
    checkout = (
        "from importlib import metadata\nimport blink\ndef none(name): raise metadata.PackageNotFoundError\n"
    )
    checkout += "metadata.version = none\nprint(blink.__version__)"
    assert printed("-c", checkout).strip() == project["version"]


@pytest.mark.parametrize("command", sorted(GROUPS))
def test_the_composed_config_is_shown_without_heavy_imports(command: str) -> None:
    """Would catch a config that needs torch to be composed: a dtype that is looked up, a callback that is loaded."""
    shown = started(f"blink.{command}", "--cfg", "job", "outputs=elsewhere")
    assert "outputs: elsewhere" in shown
    assert shown.endswith("loaded:\n")


def test_a_misspelt_key_of_a_shown_config_is_one_line() -> None:
    """Would catch Hydra's five lines where the value of an option stands before the key."""
    done = python("-m", "blink.eval", "--cfg", "job", "tau_epx=1")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "did you mean tau_exp" in done.stderr


def test_every_command_has_a_console_script() -> None:
    """Would catch a command that exists as `python -m` only."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert scripts == {f"blink-{command}": f"blink.{command}:main" for command in COMMANDS}


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("blink-eval bench=m", {"bench=mmbench", "bench=mmbench_cn", "bench=mme", "bench=mmvet"}),
        ("python -m blink.eval scenes.", {"scenes.images=", "scenes.split=", "scenes.difficulty="}),
        ("blink-eval bench=mme tau_", {"tau_exp=", "tau_drop="}),
    ],
)
def test_keys_and_options_are_completed(line: str, completed: set[str]) -> None:
    """Would catch a check of keys that takes `query=bash` for one, and a line that is taken apart wrongly."""
    shown = started("blink.eval", "-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)))
    words, loaded = shown.splitlines()
    assert set(words.split()) == completed
    assert loaded == "loaded:"


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="there is no bash")
def test_bash_completes_the_console_script(tmp_path: Path) -> None:
    """Would catch a script for bash that completes another command than the one a user types."""
    entry = tmp_path / "blink-eval"  # as pip writes it
    entry.write_text(f"#!{sys.executable}\nimport sys\nfrom blink.eval import main\nsys.exit(main())\n")
    entry.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    from_module = printed("-m", "blink.eval", "-sc", "install=bash", PATH=path)
    from_script = printed(str(entry), "-sc", "install=bash", PATH=path)
    assert from_module == from_script
    assert from_script.rstrip().endswith("-F hydra_bash_completion blink-eval")
    typed = "COMP_LINE='blink-eval method=v' COMP_POINT=19 COMP_CWORD=1"
    done = subprocess.run(
        ["/bin/bash", "-c", f'{from_script}\n{typed}\nhydra_bash_completion\necho "${{COMPREPLY[@]}}"'],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "method=vanilla"
