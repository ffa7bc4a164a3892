"""Commands on a disk that is full: one line that names the place, and the same command goes on."""

import sys
from pathlib import Path

import pytest

from blink.eval import main
from tests.crash.kills import command, files_in, said_in_one_line
from tests.training_runs import common, folder_of, run, same_weights

ARGUMENTS = ("scenes.images=2", "limit=12", "bench.max_new_tokens=2", "logger=none", "method=vanilla")


def evaluate(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> None:
    """`python -m blink.eval` in this process."""
    monkeypatch.setattr(sys, "argv", ["blink.eval", *ARGUMENTS, *overrides])
    main()


def test_an_evaluation_goes_on_once_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a traceback, half a row that is read again, and answers that are lost or asked twice."""
    whole, full = (f"outputs={tmp_path / name}" for name in ("whole", "full"))
    evaluate(monkeypatch, whole)
    [expected] = (tmp_path / "whole").rglob("predictions.jsonl")
    size = expected.stat().st_size
    ended = command("-m", "blink.eval", *ARGUMENTS, full, limit_bytes=size * 3 // 4)
    assert ended.code == 1, ended.said
    assert "File too large; make room there, and the same command goes on" in said_in_one_line(ended.said)
    evaluate(monkeypatch, full)
    [found] = (tmp_path / "full").rglob("predictions.jsonl")
    assert found.read_bytes() == expected.read_bytes()
    assert files_in(tmp_path / "full") == files_in(tmp_path / "whole")


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning")
def test_a_training_goes_on_once_there_is_room(llava_folder: Path, pictures: Path, tmp_path: Path) -> None:
    """Would catch a traceback, a torn checkpoint on which later starts die, and other weights in the end."""
    short = [*common(llava_folder, pictures), "layer=1", "token_sr.hidden=[256,256]", "trainer.max_steps=6"]
    expected = Path(run(*short, f"outputs={tmp_path / 'whole'}").token_sr)
    full = [*short, f"outputs={tmp_path / 'full'}"]
    folder = folder_of(*full, outputs=tmp_path / "full")
    ended = command("-m", "blink.train", *full, limit_bytes=2**20)
    assert ended.code == 1, ended.said
    last = ended.said.strip().splitlines()[-1]
    assert "checkpoints" in last
    assert last.endswith("File too large; make room there, and the same command goes on")
    assert "Traceback" not in ended.said
    run(*full)
    same_weights(folder / "token_sr", expected)
