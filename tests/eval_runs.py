"""Short evaluations for tests: the command in this process, on two drawn pictures."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from blink.eval import main

SMALL = ("scenes.images=2", "scenes.split=validation", "bench.max_new_tokens=2", "logger=none")


def command(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> None:
    """`python -m blink.eval` with these overrides, in this process."""
    monkeypatch.setattr(sys, "argv", ["blink.eval", *overrides])
    main()


def scores(root: Path) -> list[dict[str, Any]]:
    """The results of all runs below outputs/eval, in the order of their folders."""
    return [
        json.loads(path.read_text()) for path in sorted((root / "outputs" / "eval").glob("*/scores.json"))
    ]


def responses(path: Path) -> list[str]:
    return [json.loads(line)["response"] for line in path.read_text(encoding="utf-8").splitlines()]
