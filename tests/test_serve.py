"""The serve command: mistakes before any weight is read, and a server from start to end."""

import signal
import subprocess
import sys
from typing import Any

import openai
import pytest
from hydra import compose, initialize_config_dir

from blink.integrations.server.plan import make_plan
from blink.runs.config.groups import CONF_DIR
from blink.serve import main
from tests import models
from tests.integrations.server.served import message

pytestmark = pytest.mark.usefixtures("in_empty_folder")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("port=70000", "port=70000: expected at most 65535"),
        ("port=x", "port='x'"),
        ("host=nowhere.invalid", "cannot listen there"),
        ("limits.queue=0", "limits.queue=0"),
        ("limits.seconds=nan", "limits.seconds=nan"),
        ("max_new_tokens=9999", "above limits.new_tokens=4096"),
        ("max_new_tokens=4000", "max_new_tokens=4000: the backbone's context has 2,048 tokens"),
        ("key_variable=NO_SUCH_KEY", "no such environment variable"),
        ("method=zoom", "two passes"),
        ("selector=box", "selector=box goes by boxes"),
        ("layer=99", "99"),
        ("model.path=nowhere/at/all", "nowhere/at/all"),
        ("token_sr=nowhere", "nowhere"),
        ("port=8001,8002 --multirun", "one command serves one model"),
    ],
)
def test_mistakes_are_one_line(
    overrides: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Would catch a server that starts before it knows that it cannot."""

    def heavy(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr("blink.evaluation.planning.checkpoint.load_backbone", heavy)
    monkeypatch.setattr(sys, "argv", ["blink-serve", *overrides.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert words in said[-1]
    assert "Traceback" not in " ".join(said)


def test_no_answer_is_longer_than_the_context() -> None:
    """Would catch a request that is let in for more tokens than the backbone's context has."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = compose("serve", ["limits.new_tokens=99999999", "port=0"])
    assert make_plan(config, []).limits.new_tokens == 2048


@pytest.mark.slow
def test_the_command_serves_until_it_is_told_to_end() -> None:
    """Would catch a server that does not come up, answers with other settings, or leaves a traceback behind."""
    with subprocess.Popen(
        [sys.executable, "-m", "blink.serve", "port=0", "preset=recommended", "name=mine"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if "serving" in line)
        assert "serving mine and mine-vanilla on http://127.0.0.1:" in line
        url = line.split("on ")[1].split(" ")[0]
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        asked: Any = {"model": "mine", "messages": message("Red?", models.picture(0, (96, 96)))}
        told: Any = client.chat.completions.create(**asked, max_tokens=3)
        assert [event["layer"] for event in told.blink["events"]] == [3]
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read()
    assert process.returncode == 143, rest
    assert "Traceback" not in rest
