"""Judges of free answers: a language model behind an endpoint, stored grades, or a match of words on this machine.

Read from top to bottom: a file imports only from files above it.

    base.py      what a judge is; the local one, which looks for the words of the right answer
    stored.py    grades from a file, and scores that rows bring with them
    chat.py      client of an OpenAI-compatible endpoint: retries, and a cache of replies on disk
    official.py  MM-Vet's own judge prompt and procedure
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from blink.bench.judges.base import Asked, Grade, Judge, LocalJudge
from blink.bench.judges.chat import ChatEndpoint, EndpointError
from blink.bench.judges.official import EndpointJudge
from blink.bench.judges.stored import UNNAMED, GivenScores, StoredGrades
from blink.runs import values
from blink.runs.values import UserError

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
    if kind == "given":
        raise UserError(
            "judge=given is for scoring a file that has scores; new answers need local, grades or endpoint"
        )
    if values.choice("judge.kind", kind, ("local", "grades", "endpoint")) == "local":
        return LocalJudge()
    if kind == "grades":
        return StoredGrades(values.path("judge.file", settings["file"], "a file"))
    base_url = values.text("judge.base_url", settings["base_url"])
    if urlsplit(base_url).scheme not in ("http", "https") or not urlsplit(base_url).netloc:
        raise UserError(
            f"judge.base_url={base_url!r}: expected a URL such as https://api.openai.com/v1 or http://localhost:8000/v1"
        )
    return EndpointJudge(
        ChatEndpoint(
            base_url,
            values.text("judge.model", settings["model"]),
            _key(settings["key_variable"]),
            timeout=values.number("judge.timeout", settings["timeout"], above=0, unit="seconds"),
            attempts=values.whole_number("judge.attempts", settings["attempts"]),
            first_wait=values.number("judge.first_wait", settings["first_wait"], above=0, unit="seconds"),
        ),
        parallel=values.whole_number("judge.parallel", settings["parallel"]),
        cache=values.optional(_folder, "judge.cache", settings["cache"]),
    )


def _folder(name: str, value: Any) -> Path:
    """The folder of replies, which may not be there yet."""
    found = values.path(name, value, "a folder")
    if found.is_file():
        raise UserError(f"{name}={value} is a file; expected a folder")
    return found


def _key(variable: Any) -> str | None:
    """The key that an environment variable holds; None where no variable is named."""
    name = values.optional(values.text, "judge.key_variable", variable)
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key.isascii() or not key.isprintable():
        raise UserError(f"the environment variable {name} holds characters that no key has")
    if not key:
        raise UserError(
            f"the judge needs a key: set the environment variable {name}, name another one with judge.key_variable=, "
            "or give judge.key_variable=null for an endpoint that needs none"
        )
    return key
