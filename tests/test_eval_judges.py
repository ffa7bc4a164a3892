"""Answers that a judge grades, by the command as a user gives it."""

import json
from pathlib import Path

import pytest

from tests.bench.judges.server import Act, reply, serving
from tests.eval_runs import SMALL, command, responses, scores

pytestmark = pytest.mark.usefixtures("in_empty_folder")


def test_free_answers_are_graded_and_the_judge_is_named(
    backbone: str,
    in_empty_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Would catch answers left ungraded, a judge that the table does not name, and graded rows that do not come back."""
    overrides = (backbone, *SMALL, "bench=mmvet", "method=vanilla")
    command(monkeypatch, *overrides)
    [result] = scores(in_empty_folder)
    assert result["version"] == "mmvet-1, judge local-1"
    assert result["edition"] == "generated: scenes validation, 2 pictures"
    assert "mmvet-1, judge local-1" in capsys.readouterr().out
    [path] = (in_empty_folder / "outputs" / "eval").glob("*/predictions.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert {row["judge"] for row in rows} == {"local-1"}
    assert all(type(row["correct"]) is bool for row in rows)
    (path.parent / "scores.json").unlink()
    command(monkeypatch, *overrides)
    assert scores(in_empty_folder)[0]["metrics"] == result["metrics"]


def test_judge_without_its_key_stops_before_any_answer(
    backbone: str, in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a key that is missed only after hours of answering, and one asked for where nobody judges."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(SystemExit, match="error: the judge needs a key"):
        command(monkeypatch, backbone, *SMALL, "bench=mmvet", "method=vanilla", "judge=endpoint")
    assert not (in_empty_folder / "outputs").exists()
    command(monkeypatch, backbone, *SMALL, "limit=2", "method=vanilla", "judge=endpoint")
    assert scores(in_empty_folder)[0]["edition"].startswith("the first 2 of 36 questions of scenes")


def test_grades_of_other_questions_stop_before_any_answer(
    backbone: str, in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a file of grades that does not fit and is read only after hours of answering."""
    grades = in_empty_folder / "grades.json"
    grades.write_text('{"v1_0": {"model": ["gpt"], "content": ["1.0"], "score": [1.0]}}', encoding="utf-8")
    judge = ("judge=grades", f"judge.file={grades}")
    with pytest.raises(SystemExit, match=r"error: .*grades.json has no grade for \d+ of \d+ answers"):
        command(monkeypatch, backbone, *SMALL, "bench=mmvet", "method=vanilla", *judge)
    assert not (in_empty_folder / "outputs").exists()


def test_judge_that_stays_away_costs_no_answer(
    backbone: str, in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a traceback where the judge fails for good, and questions answered again once it is back."""
    settings = (backbone, *SMALL, "bench=mmvet", "method=vanilla", "limit=2", "judge=endpoint")
    patience = ("judge.key_variable=null", "judge.attempts=1", "judge.first_wait=0.01")
    with serving(lambda seen, number: Act(503)) as server:
        asked = (*settings, *patience, f"judge.base_url={server.url}")
        with pytest.raises(SystemExit, match=r"error: the judge failed: .*HTTP 503.*All 2 answers.*are kept"):
            command(monkeypatch, *asked)
    [path] = (in_empty_folder / "outputs" / "eval").glob("*/predictions.jsonl")
    before = responses(path)
    port = int(server.url.split(":")[2].split("/")[0])
    monkeypatch.setattr(
        "blink.evaluation.answering.answerers.load_answerer",
        lambda plans: pytest.fail("questions are answered again"),
    )
    with serving(lambda seen, number: reply("0.5"), port):
        command(monkeypatch, *asked)
    assert responses(path) == before
    assert scores(in_empty_folder)[0]["metrics"]["total"] == 50
