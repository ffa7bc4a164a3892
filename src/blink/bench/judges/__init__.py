"""Judges of free answers: a language model, grades that one gave before, or a match of words without a network.

Read from top to bottom: a file imports only from files above it.

    base.py      what a judge of free answers is
    local.py     words of the right answer, found in the response
    stored.py    grades that were given before
    chat.py      a chat model behind an endpoint, asked patiently and never twice
    official.py  MM-Vet's own judge prompt and procedure
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from blink.bench.judges.base import Asked, Grade, Judge
from blink.bench.judges.chat import ChatEndpoint, EndpointError
from blink.bench.judges.local import LocalJudge
from blink.bench.judges.official import EndpointJudge
from blink.bench.judges.stored import UNNAMED, GivenScores, StoredGrades

__all__ = [
    "UNNAMED",
    "Asked",
    "ChatEndpoint",
    "EndpointError",
    "EndpointJudge",
    "GivenScores",
    "Grade",
    "Judge",
    "LocalJudge",
    "StoredGrades",
    "make_judge",
]


def make_judge(settings: Mapping[str, Any]) -> Judge:
    """Return the judge that a group of `conf/judge` describes.

    Args:
        settings: `kind` and what that kind takes, as plain values.

    Raises:
        ValueError: an unknown kind, a value of the wrong type or out of range, or a key that is not set.
    """
    kind = settings.get("kind")
    if kind == "local":
        return LocalJudge()
    if kind == "grades":
        return StoredGrades(Path(_text(settings, "file")).expanduser())
    if kind == "given":
        raise ValueError(
            "judge=given is for scoring a file that has scores; new answers need local, grades or endpoint"
        )
    if kind != "endpoint":
        raise ValueError(f"judge.kind={kind!r}: expected local, grades or endpoint")
    base_url = _text(settings, "base_url")
    if urlsplit(base_url).scheme not in ("http", "https") or not urlsplit(base_url).netloc:
        raise ValueError(
            f"judge.base_url={base_url!r}: expected a URL such as https://api.openai.com/v1 or http://localhost:8000/v1"
        )
    cache = settings["cache"]
    return EndpointJudge(
        ChatEndpoint(
            base_url,
            _text(settings, "model"),
            _key(settings),
            timeout=_number(settings, "timeout"),
            attempts=_count(settings, "attempts"),
            first_wait=_number(settings, "first_wait"),
        ),
        parallel=_count(settings, "parallel"),
        cache=None if cache is None else Path(_text(settings, "cache")).expanduser(),
    )


def _key(settings: Mapping[str, Any]) -> str | None:
    if settings["key_variable"] is None:
        return None
    name = _text(settings, "key_variable")
    key = os.environ.get(name, "").strip()
    if not key.isascii() or not key.isprintable():
        raise ValueError(f"the environment variable {name} holds characters that no key has")
    if not key:
        raise ValueError(
            f"the judge needs a key: set the environment variable {name}, name another one with judge.key_variable=, "
            "or give judge.key_variable=null for an endpoint that needs none"
        )
    return key


def _text(settings: Mapping[str, Any], key: str) -> str:
    value = settings[key]
    if not isinstance(value, str) or not value:
        raise ValueError(f"judge.{key}={value!r}: expected a text")
    return value


def _count(settings: Mapping[str, Any], key: str) -> int:
    value = settings[key]
    if type(value) is not int or value < 1:
        raise ValueError(f"judge.{key}={value!r}: expected a whole number of at least 1")
    return value


def _number(settings: Mapping[str, Any], key: str) -> float:
    value = settings[key]
    if type(value) not in (int, float) or not 0 < value < float("inf"):
        raise ValueError(f"judge.{key}={value!r}: expected a number of seconds above 0")
    return float(value)
