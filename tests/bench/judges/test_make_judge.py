"""Judges from their config groups, and what a config can get wrong."""

import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from blink.bench import make_judge
from blink.bench.judges import EndpointJudge, LocalJudge, StoredGrades
from blink.runs.config.groups import CONF_DIR


def settings(group: str, **changes: Any) -> dict[str, Any]:
    """The values of a config group."""
    found = OmegaConf.to_container(
        OmegaConf.merge({"outputs": "out", "judge": OmegaConf.load(CONF_DIR / "judge" / f"{group}.yaml")}),
        resolve=True,
    )
    assert isinstance(found, dict)
    return found["judge"] | changes


def test_groups_make_their_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a key of a config that its judge does not read, and a default that needs a network."""
    assert make_judge(settings("local")) == LocalJudge()
    grades = tmp_path / "grades.json"
    grades.write_text("{}", encoding="utf-8")
    assert make_judge(settings("grades", file=str(grades))) == StoredGrades(grades)
    monkeypatch.setenv("OPENAI_API_KEY", "secret\n")
    made = make_judge(settings("endpoint", timeout=5, parallel=2))
    assert isinstance(made, EndpointJudge)
    assert (made.name, made.parallel, made.cache) == ("gpt-4-0613", 2, Path("out/judge"))
    assert (made.endpoint.key, made.endpoint.timeout, made.endpoint.attempts) == ("secret", 5, 8)
    assert make_judge(settings("endpoint", timeout=5, parallel=2)) == made
    assert hash(make_judge(settings("endpoint", timeout=5, parallel=2))) == hash(made)


def test_endpoint_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a missing key found only after all questions are answered, and servers that need none refused."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ValueError, match="set the environment variable OPENAI_API_KEY"):
        make_judge(settings("endpoint"))
    made = make_judge(settings("endpoint", key_variable=None, base_url="http://localhost:1/v1", cache=None))
    assert isinstance(made, EndpointJudge)
    assert (made.endpoint.key, made.cache, made.name) == (None, None, "gpt-4-0613@localhost:1")


def test_only_the_endpoint_needs_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a missing package that is found when all questions are answered, and one that other judges ask for."""
    monkeypatch.setitem(sys.modules, "openai", None)
    grades = tmp_path / "grades.json"
    grades.write_text("{}", encoding="utf-8")
    assert make_judge(settings("local")) == LocalJudge()
    assert make_judge(settings("grades", file=str(grades))) == StoredGrades(grades)
    with pytest.raises(ValueError, match=r"judge=endpoint needs openai: pip install 'blink-mllm\[judge\]'"):
        make_judge(settings("endpoint", key_variable=None))


def test_key_with_strange_characters_is_refused_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch http.client's error, which shows the header and with it the key."""
    monkeypatch.setenv("OPENAI_API_KEY", "sec\nret")
    with pytest.raises(ValueError, match="OPENAI_API_KEY holds characters that no key has") as caught:
        make_judge(settings("endpoint"))
    assert "sec" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "gpt"}, "judge.kind='gpt': expected one of local, grades, endpoint"),
        ({"kind": "given"}, "judge=given is for scoring a file"),
        ({"base_url": "localhost:8000"}, "judge.base_url='localhost:8000': expected a URL"),
        ({"base_url": None}, "judge.base_url=None: expected a text"),
        ({"model": ""}, "judge.model='': expected a text"),
        ({"parallel": 0}, "judge.parallel=0: expected a whole number"),
        ({"attempts": True}, "judge.attempts=True: expected a whole number"),
        ({"timeout": 0}, "judge.timeout=0: expected a number of seconds"),
        ({"first_wait": "long"}, "judge.first_wait='long': expected a number of seconds"),
        ({"cache": 5}, "judge.cache=5: expected a folder"),
        ({"cache": __file__}, "judge.cache=.*test_make_judge.py is a file; expected a folder"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], message: str) -> None:
    """Would catch a mistake that shows after hours of answering."""
    with pytest.raises(ValueError, match=message):
        make_judge(settings("endpoint", key_variable=None) | changes)
