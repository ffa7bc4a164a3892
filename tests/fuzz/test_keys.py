"""Every key of every command, with values that it should not have: one line, or a plan; before any heavy work.

Keys are those of the composed configs, under each option of each group, so that a new one is tried without being named here.
"""

import json
import logging
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from blink import Policy
from blink.model.token_sr import TokenSR
from blink.model.token_sr.files import save_token_sr
from blink.runs.config.groups import CONF_DIR
from tests import models
from tests.finished_runs import Rule, finish, samples
from tests.fuzz.commands import (
    FINISHED,
    HEAVY,
    changed,
    composed,
    dotted,
    outcome,
    refuse_heavy_work,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning")

VALUES: tuple[Any, ...] = (
    *(None, "", " ", "a", "1e400", "a\0b", "a" * 300, "é\n", "..", "~nobody/a", "${nowhere}", "???"),
    *(-1, 0, 1, 2**63, 10**30, 1.5, -1.5, 1e308, float("nan"), float("inf"), True, False),
    *([], {}, [1], [None], ["a"], [float("nan")], [[1]], {"a": 1}),
)

COMMON = {
    "eval": ("scenes.images=1", "limit=1", "logger=none"),
    "train": (
        "layer=1",
        "images=4",
        "held_out=2",
        "logger=none",
        "workers=0",
        "trainer.accelerator=cpu",
        "trainer.enable_progress_bar=false",
    ),
    "analyze": ("scenes.images=1", "samples=1"),
    "explain": ("image=picture.png", "question=Red?"),
    "score": ("bench=pope", "predictions=rows.jsonl"),
    "push": ("token_sr=modules", "repo=me/modules", "dry_run=true"),
    "serve": ("port=0",),
    **({"demo": ("port=0",)} if find_spec("gradio") else {}),
    "tune": ("scenes.images=2", "trials=1", "finalists=1", "space.layers=1", "space.method=interp"),
}
"""Overrides with which each command begins heavy work, or has none to do."""

NEEDED = {
    "data=local": ("data.root=pictures",),
    "data=hub": ("data.id=pictures",),
    "judge=grades": ("judge.file=grades.json", "bench=mmvet"),
    "judge=endpoint": ("judge.key_variable=null", "bench=mmvet"),
    "judge=local": ("bench=mmvet",),
    "figure=copy_radar": ("figure.runs=runs",),
    "figure=layer_range": ("figure.runs=runs",),
    "figure=thresholds": ("figure.runs=runs",),
}
"""What an option needs beside, or is read with."""

SHARED = ("model", "logger", "callbacks", "experiment", "trainer")
"""Groups whose options have the same keys, are refused with others, or whose keys are those of the libraries behind them."""

FAST = 2
"""How many of the values each key gets in the normal suite, beside null; others for each key. Groups get more."""


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in a folder with what the commands are given, quietly."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    refuse_heavy_work(monkeypatch)
    Path("pictures").mkdir()
    for seed in range(8):
        models.picture(seed, (48, 40)).save(f"pictures/{seed}.png")
    models.picture(0, (40, 30)).save("picture.png")
    row = {"id": "1", "response": "yes", "label": "yes", "split": "popular", "image": "a"}
    Path("rows.jsonl").write_text(json.dumps(row) + "\n")
    Path("grades.json").write_text("{}")
    save_token_sr({2: TokenSR(8)}, "modules", backbone="someone/backbone")
    finish(Path("runs/vanilla"), Rule(), samples(), method="vanilla")
    for layers in ((2, 3), (2, 4), (3, 4)):  # no range, so that nothing is drawn
        name = "-".join(map(str, layers))
        finish(Path("runs", name), Rule(), samples(), method="interp", policy=Policy(layers))
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


def options() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each command with its defaults, and with each option of each group whose options have keys of their own."""
    shared: set[str] = set()
    for command, overrides in COMMON.items():
        yield command, overrides
        defaults: Any = OmegaConf.to_container(OmegaConf.load(CONF_DIR / f"{command}.yaml").defaults)
        groups = [key for entry in defaults if isinstance(entry, dict) for key in entry]
        for group in groups:
            if "/" not in group and group not in SHARED:
                for file in sorted((CONF_DIR / group).glob("*.yaml")):
                    option = f"{group}={file.stem}"
                    if option in shared:
                        continue
                    if group != "data":  # of which training reads more than evaluation
                        shared.add(option)
                    more = NEEDED.get(option, ())
                    chosen = {key.partition("=")[0]: key for key in (*overrides, option, *more)}
                    yield command, tuple(chosen.values())


def name_of(part: Any) -> str:
    """Of a test: its command and the options that are not the default ones."""
    return part if isinstance(part, str) else " ".join(text for text in part if "/" not in text)[-60:]


def values_of(key: str, group: bool, everything: bool) -> list[Any]:
    """The values to try for a key: all, or null and some that follow from its name."""
    if everything:
        return list(VALUES)
    start = sum(key.encode())
    return [None, *(VALUES[(start + 11 * i) % len(VALUES)] for i in range(6 if group else FAST))]


@cache
def default_keys(command: str) -> set[str]:
    """Every key of a command with its defaults."""
    return set(dotted(composed(command, COMMON[command])))


@pytest.mark.slow
@pytest.mark.parametrize(("command", "overrides"), list(options()), ids=name_of)
def test_every_key_of_every_command(
    command: str,
    overrides: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    """Would catch a key whose wrong values end in a traceback, in several lines, or once the weights are there."""
    known = default_keys(command)
    config = composed(command, overrides)
    plain = overrides == COMMON[command]
    first = outcome(command, changed(config, "outputs", "first"))
    assert not plain or first in (HEAVY, FINISHED), first
    groups = {text.partition("=")[0] for text in overrides} - {
        text.partition("=")[0] for text in COMMON[command]
    }
    everything = request.config.getoption("--fuzz", default=None) is not None
    below = " ".join(dotted(config))
    for key in dotted(config):
        if not plain and key in known and key.partition(".")[0] not in groups:
            continue  # tried with the command's defaults
        for number, value in enumerate(values_of(key, f"{key}." in below, everything)):
            tried = changed(config, key, value)
            if key != "outputs":
                tried["outputs"] = f"out/{key}/{number}"
            try:
                outcome(command, tried)
            except AssertionError as failure:
                raise AssertionError(
                    f"{command} {' '.join(overrides)} {key}={value!r}: {failure}"
                ) from failure
    assert "Traceback" not in capsys.readouterr().err
