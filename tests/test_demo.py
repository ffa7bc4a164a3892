"""The demo command: mistakes before any weight is read, and a page from start to end."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from blink.demo import main
from tests.processes import ROOT
from tests.test_network import GUARD

pytestmark = pytest.mark.usefixtures("in_empty_folder")


def refused(arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which the command ends, before any weight is read."""

    def heavy(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr("blink.evaluation.planning.checkpoint.load_backbone", heavy)
    monkeypatch.setattr(sys, "argv", ["blink-demo", *arguments.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert "Traceback" not in " ".join(said)
    return said[-1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("port=70000", "port=70000: expected at most 65535"),
        ("limits.queue=0", "limits.queue=0"),
        ("limits.seconds=nan", "limits.seconds=nan"),
        ("limits.characters=x", "limits.characters='x'"),
        ("max_new_tokens=4000", "max_new_tokens=4000: the backbone's context has 2,048 tokens"),
        ("method=vanilla", "method=vanilla: it is what the answers are held against"),
        ("method=zoom", "two passes"),
        ("selector=box", "selector=box goes by boxes"),
        ("tau_exp=2", "tau_exp=2"),
        ("tau_epx=0.5", "did you mean tau_exp"),
        ("layer=99", "99"),
        ("model.path=nowhere/at/all", "nowhere/at/all"),
        ("token_sr=nowhere", "nowhere"),
        ("preset=nowhere", "nowhere"),
        ("port=8001,8002 --multirun", "one command shows one model"),
    ],
)
def test_mistakes_are_one_line(
    arguments: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Would catch a page that opens before it knows that it cannot answer."""
    assert words in refused(arguments, monkeypatch, capsys)


def test_without_gradio_the_line_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Would catch a traceback of an import, and one that comes when the weights are there."""
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert (
        refused("port=0", monkeypatch, capsys) == "error: gradio is missing: pip install 'blink-mllm[demo]'"
    )


def test_an_address_that_is_taken_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Would catch weights that are read before the address is had."""
    pytest.importorskip("gradio", reason="gradio is not installed: make gradio")
    assert "cannot listen there" in refused("host=nowhere.invalid", monkeypatch, capsys)


def opened(program: list[str], folder: Path, arguments: str = "") -> str:
    """Start a page, open it, and end it by a signal; what it said. No look-up or connection beyond this machine is tried."""
    (folder / "sitecustomize.py").write_text(GUARD, encoding="utf-8")
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
        "TRIED": str(folder / "tried.txt"),
        "PYTHONUNBUFFERED": "1",
    }
    with subprocess.Popen(
        [sys.executable, *program, *arguments.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
        cwd=folder,
    ) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if "showing" in line:
                break
        found = re.search(r"showing tiny on http://[\d.]+:(\d+) ", said[-1] if said else "")
        assert found, said
        with urllib.request.urlopen(f"http://127.0.0.1:{found[1]}/", timeout=60) as response:
            assert "Blink: tiny" in response.read().decode()
            assert "default-src 'self'" in response.headers["content-security-policy"]
        beat = f"http://127.0.0.1:{found[1]}/gradio_api/heartbeat/a"
        with urllib.request.urlopen(beat, timeout=60) as held:  # as a page in a browser does
            assert held.status == 200
            process.send_signal(signal.SIGTERM)
            rest = process.stdout.read()
    assert process.returncode == 143, rest
    assert "Traceback" not in rest, rest
    assert "ERROR" not in rest, rest
    assert not (folder / "tried.txt").exists(), (folder / "tried.txt").read_text(encoding="utf-8")
    return "".join(said)


@pytest.mark.slow
def test_the_command_shows_a_page_until_it_is_told_to_end(tmp_path: Path) -> None:
    """Would catch a page that does not come up, telemetry, and a traceback at the end."""
    pytest.importorskip("gradio", reason="gradio is not installed: make gradio")
    said = opened(["-m", "blink.demo"], tmp_path, "port=0 tau_exp=0.55")
    assert "expand above 0.55 (override)" in said
    assert "http://127.0.0.1:" in said


@pytest.mark.slow
def test_the_program_of_a_space_runs(tmp_path: Path) -> None:
    """Would catch an app.py in the documentation that does not start, or listens on its own machine alone."""
    pytest.importorskip("gradio", reason="gradio is not installed: make gradio")
    text = (ROOT / "docs" / "demo.md").read_text(encoding="utf-8")
    [program] = re.findall(r"```python\n# app\.py\n(.*?)```", text, flags=re.DOTALL)
    assert len(program.strip().splitlines()) <= 4
    (tmp_path / "app.py").write_text(program, encoding="utf-8")
    said = opened(["app.py"], tmp_path, "port=0")
    assert "on http://0.0.0.0:" in said
