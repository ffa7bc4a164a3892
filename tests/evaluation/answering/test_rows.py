"""Predictions and timing of a run folder: what is read of them, and what of damaged ones."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from blink.evaluation.answering.rows import resume
from blink.evaluation.answering.timing import read_timing
from tests.finished_runs import Rule, finish, read_rows, samples


def test_other_inputs_are_refused(tmp_path: Path) -> None:
    """Catches answers of retrained modules mixed with those of the old ones under the same command."""
    resume(tmp_path, samples(), inputs={"token_sr": "old", "backbone": "b"})
    with pytest.raises(ValueError, match=r"begun with another token_sr.*old then, new now.*fresh=true"):
        resume(tmp_path, samples(), inputs={"token_sr": "new", "backbone": "b"})
    with pytest.raises(ValueError, match="begun with another samples"):
        resume(tmp_path, samples(3), inputs={"token_sr": "old", "backbone": "b"})
    relabelled = [replace(sample, details={**sample.details, "category": "other"}) for sample in samples()]
    with pytest.raises(ValueError, match="begun with another samples"):
        resume(tmp_path, relabelled, inputs={"token_sr": "old", "backbone": "b"})


def test_answers_to_other_questions_are_refused(tmp_path: Path) -> None:
    """Catches a file of another run copied into the folder."""
    finish(tmp_path / "a", Rule(), list(reversed(samples())))
    resume(tmp_path / "a", list(reversed(samples())), inputs={"backbone": "same"})
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "predictions.jsonl").write_bytes((tmp_path / "a" / "predictions.jsonl").read_bytes())
    with pytest.raises(ValueError, match="24 answers to other questions than these 24"):
        resume(tmp_path / "b", samples(), inputs={})


def test_damaged_line_is_named(tmp_path: Path) -> None:
    """Catches a damaged file repaired in silence: only the end can be cut by a kill."""
    asked = samples()
    finish(tmp_path, Rule(), asked)
    path = tmp_path / "predictions.jsonl"
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], lines[1][:20], *lines[2:]]))
    with pytest.raises(ValueError, match=r"predictions\.jsonl is damaged \(in line 2.*fresh=true"):
        resume(tmp_path, asked, inputs={"backbone": "same"})


DAMAGE = (b"\x00" * 300, b"\xff\xfe\n", b'{"id": 3}\n', b"[1]\n\n", b'{"id": "a", "image": 1}\n' * 3)
"""What a disk, a power failure or a hand leaves at the end of a file."""


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_at_the_end_is_asked_anew(damage: bytes, tmp_path: Path) -> None:
    """Would catch a run that cannot go on after a power failure, and rows that are half garbage."""
    asked = samples()
    finish(tmp_path, Rule(), asked)
    path = tmp_path / "predictions.jsonl"
    content = path.read_bytes()
    (tmp_path / "scores.json").unlink()
    path.write_bytes(content[: len(content) // 2] + damage)
    rule = Rule()
    finish(tmp_path, rule, asked)
    assert path.read_bytes() == content
    assert 0 < len(rule.batches) < 4


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\x00\x00",
        b"[]",
        b'{"id": "random/0no", "image": "picture0", "response": null, "correct": true}',
        b'{"id": "random/0no", "image": "picture0", "response": "Yes", "correct": "yes"}',
        b'{"id": "random/0no", "image": "picture0", "response": "Yes", "correct": true, "events": [{"layer": 2}]}',
        b'{"id": "random/0no", "image": "picture0", "response": "Yes", "correct": true, "flops": "many"}',
    ],
)
def test_damage_before_whole_rows_is_named(line: bytes, tmp_path: Path) -> None:
    """Would catch rows of a wrong type that are scored, or that end in a traceback, and good ones thrown away in silence."""
    asked = samples()
    finish(tmp_path, Rule(), asked)
    path = tmp_path / "predictions.jsonl"
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines[:3], line, *lines[4:]]))
    with pytest.raises(ValueError, match=r"predictions\.jsonl is damaged \(in line 4.*fresh=true"):
        resume(tmp_path, asked, inputs={"backbone": "same"})


def test_a_damaged_record_of_inputs(tmp_path: Path) -> None:
    """Would catch a run that can never begin since a power failure emptied a file before its first answer, and a traceback."""
    asked = samples()
    for content in ("", "null", "[]", "\0\0"):
        (tmp_path / "inputs.json").write_text(content)
        assert resume(tmp_path, asked, inputs={"backbone": "same"}) == []
    assert json.loads((tmp_path / "inputs.json").read_text())["backbone"] == "same"
    finish(tmp_path, Rule(), asked)
    for content in ("", "null", "[]", "\0\0"):
        (tmp_path / "inputs.json").write_text(content)
        with pytest.raises(ValueError, match=r"inputs\.json is damaged.*fresh=true"):
            resume(tmp_path, asked, inputs={"backbone": "same"})


def test_what_a_kill_left_of_shares_is_taken_over_once(tmp_path: Path) -> None:
    """Would catch shares that stay for ever, and their time lost, where the kill came behind the last of their rows."""
    asked = samples()
    finish(tmp_path, Rule(), asked)
    (tmp_path / "shares" / "1-of-1").mkdir(parents=True)
    (tmp_path / "shares" / "timing.json").write_text('{"answered": 24, "seconds": 7.5}')
    for _ in range(2):
        assert len(resume(tmp_path, asked, inputs={"backbone": "same"})) == 24
        assert read_timing(tmp_path) == (24, 7.5, 0.0)
        assert not (tmp_path / "shares").exists()


@pytest.mark.parametrize(
    "content", ["", "{", "null", "[]", "3", '{"answered": "x"}', '{"answered": 1, "seconds": null}', "\0"]
)
def test_damaged_timing_is_none(content: str, tmp_path: Path) -> None:
    """Would catch a run that cannot be scored for want of the time that it took."""
    asked = samples()
    finish(tmp_path, Rule(), asked[:12])
    (tmp_path / "timing.json").write_text(content)
    assert read_timing(tmp_path) == (0, 0.0, 0.0)
    (tmp_path / "scores.json").unlink()
    result = finish(tmp_path, Rule(), asked[:12])
    assert result.questions_per_second is None


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"[]", b"{}", b"\x00" * 9, b'{"n": "x"}', None])
def test_damaged_scores_are_made_anew(content: bytes | None, tmp_path: Path) -> None:
    """Would catch a finished run that is lost with its smallest file, and one whose scores have another type."""
    asked = samples()
    first = finish(tmp_path, Rule(), asked)
    path = tmp_path / "scores.json"
    if content is None:
        path.write_text(path.read_text().replace('"n": 24', '"n": "24"'))
    else:
        path.write_bytes(content)
    rule = Rule()
    second = finish(tmp_path, rule, asked)
    assert not rule.batches
    assert replace(second, peak_memory_mb=None) == replace(first, peak_memory_mb=None)
    assert json.loads(path.read_text())["n"] == 24
    assert len(read_rows(tmp_path)) == 24
