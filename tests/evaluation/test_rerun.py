"""Runs that are repeated: what may change between them, and what is said of the outcome."""

import json
from pathlib import Path
from typing import Any

import pytest

from blink.evaluation.rerun import agreement, new_folder
from tests.eval_runs import command
from tests.finished_runs import Rule, finish, samples

SMALL = ("scenes.images=1", "scenes.split=validation", "bench.max_new_tokens=2", "logger=none", "layer=1")


@pytest.fixture
def first(llava_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run."""
    monkeypatch.chdir(tmp_path)
    command(monkeypatch, f"model.path={llava_folder}", *SMALL, "method=interp", "tau_exp=0.3", "seed=4")
    [folder] = Path("outputs/eval").iterdir()
    return folder


def edit(path: Path, **values: Any) -> None:
    """Change values of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_run_is_repeated(
    first: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches defaults of today in place of the stored settings, a run that is returned instead of repeated, and files of
    the first run written over."""
    before = {path.name: path.read_bytes() for path in first.iterdir()}
    command(monkeypatch, f"rerun={first}", "logger=none")
    again = first.with_name(f"{first.name}.rerun1")
    assert "scores agree, responses of all 18 questions agree, events of all 18 questions agree" in (
        " ".join(capsys.readouterr().out.split())
    )
    assert (again / "predictions.jsonl").read_bytes() == before["predictions.jsonl"]
    results = [json.loads((folder / "scores.json").read_text()) for folder in (first, again)]
    assert results[0]["policy"] == results[1]["policy"]
    assert results[1]["policy"]["tau_exp"] == 0.3
    assert results[1]["provenance"]["command"] == f"python -m blink.eval rerun={first} logger=none"
    command(monkeypatch, f"rerun={first}", "logger=none", "outputs=elsewhere")
    assert (first.with_name(f"{first.name}.rerun2") / "scores.json").exists()
    assert {path.name: path.read_bytes() for path in first.iterdir()} == before


def test_a_run_that_does_not_come_out_again_fails(
    first: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches other scores, or other answers under the same scores, told with exit code 0."""
    scores, rows = json.loads((first / "scores.json").read_text()), (first / "predictions.jsonl").read_text()
    edit(first / "scores.json", metrics=scores["metrics"] | {"f1": 12.5})
    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, f"rerun={first}", "logger=none")
    assert stopped.value.code == 1
    assert "scores differ (f1 12.5000 then, " in capsys.readouterr().err
    edit(first / "scores.json", metrics=scores["metrics"])
    row, *others = rows.splitlines()
    (first / "predictions.jsonl").write_text(
        "\n".join([json.dumps(json.loads(row) | {"response": "?"}), *others, ""])
    )
    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, f"rerun={first}", "logger=none", "hydra.run.dir=mine")
    assert stopped.value.code == 1
    assert "mine against " in (said := capsys.readouterr().err)
    assert "scores agree, responses differ in 1 of 18 questions" in said


@pytest.mark.parametrize("key", ["pictures", "samples", "backbone"])
def test_a_run_whose_inputs_changed_is_not_repeated(
    key: str, first: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches scores of other weights or other pictures held against the first ones, after an hour of answering."""
    edit(first / "inputs.json", **{key: "0123"})
    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, f"rerun={first}", "logger=none")
    assert stopped.value.code == 1
    assert f"({key}: 0123 then, " in capsys.readouterr().err
    assert len(list(first.parent.iterdir())) == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("rerun=nowhere",), r"rerun=nowhere holds no scores.json"),
        (("rerun=12",), r"rerun=12: expected the folder of a finished run"),
        (("rerun=nowhere", "tau_exp=0.5"), r"rerun=nowhere repeats a run .*; tau_exp would change them"),
        (("rerun=nowhere", "method=vanilla,interp", "--multirun"), r"rerun=nowhere: .*without --multirun"),
    ],
)
def test_mistakes(
    overrides: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches settings that are silently the stored ones, and a traceback."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message) as stopped:
        command(monkeypatch, *overrides)
    assert stopped.value.code == 2


def test_a_repetition_that_was_killed_goes_on(tmp_path: Path) -> None:
    """Catches a new folder for each attempt."""
    assert new_folder(tmp_path / "run") == tmp_path / "run.rerun1"
    (tmp_path / "run.rerun1").mkdir()
    assert new_folder(tmp_path / "run") == tmp_path / "run.rerun1"
    (tmp_path / "run.rerun1" / "scores.json").touch()
    assert new_folder(tmp_path / "run") == tmp_path / "run.rerun2"


def test_ratios_may_round_otherwise(tmp_path: Path) -> None:
    """Catches a last digit of a ratio, which the batch decides, taken for another event, and a lost question unseen."""
    finish(tmp_path / "a", Rule(), samples())
    finish(tmp_path / "b", Rule(), samples())
    path = tmp_path / "b" / "predictions.jsonl"
    path.write_text(path.read_text().replace("0.123457", "0.123458"))
    assert agreement(tmp_path / "a", tmp_path / "b").holds
    path.write_text(path.read_text().replace('"action": "expand"', '"action": "keep"', 1))
    found = agreement(tmp_path / "a", tmp_path / "b")
    assert not found.holds
    assert len(found.events) == 1
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match="has 23 whole rows, and the scores beside it are of 24"):
        agreement(tmp_path / "a", tmp_path / "b")
