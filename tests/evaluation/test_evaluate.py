"""Scores say what was done, and are made once."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from blink.bench import Graded, Pope, Row
from blink.evaluation.result import Result
from blink.inference.policy import Policy
from tests.finished_runs import Rule, finish, read_rows, samples


def test_killed_before_the_scores_answers_nothing_again(tmp_path: Path) -> None:
    """Catches a finished file answered once more because its scores are missing."""
    first = finish(tmp_path, Rule(), samples())
    (tmp_path / "scores.json").unlink()
    rule = Rule()
    second = finish(tmp_path, rule, samples())
    assert rule.batches == []
    assert second.metrics == first.metrics
    assert (second.seconds, second.questions_per_second) == (
        first.seconds,
        first.questions_per_second,
    )


def test_finished_run_is_returned_as_it_was(tmp_path: Path) -> None:
    """Catches timings of a run overwritten by a look at it."""
    first = finish(tmp_path, Rule(), samples())
    rule = Rule(wrong=["random/0yes"])
    assert finish(tmp_path, rule, samples()) == first
    assert rule.batches == []


def test_pictures_too_narrow_are_counted(tmp_path: Path) -> None:
    """Catches questions that were answered without Blink and look like the others: in rows, scores and warnings."""
    asked = [
        replace(sample, open_image=lambda: Image.new("RGB", (1, 99)))
        if sample.image == "picture1"
        else sample
        for sample in samples()
    ]
    result = finish(tmp_path, Rule(narrow=[(1, 99)]), asked)
    reasons = [row.get("without_blink") for row in read_rows(tmp_path)]
    assert reasons == [None] * 6 + ["it is too narrow"] * 6 + [None] * 12
    assert result.without_blink == json.loads((tmp_path / "scores.json").read_text())["without_blink"] == 6
    said = "answered without Blink: 6 of 24 questions, whose pictures are too narrow (the first: it is too narrow)"
    assert said in result.warnings
    assert finish(tmp_path / "wide", Rule(), samples()).without_blink == 0


def test_scores_say_what_was_done(tmp_path: Path) -> None:
    """Catches events counted per question instead of per layer, and a share of events instead of samples.

    Of four pictures two expand; one of 24 answers is wrong, a "yes" of the random split taken for "no".
    """
    result = finish(
        tmp_path, Rule(wrong=["random/0yes"]), samples(), policy=Policy([2, 3], patches=3), warnings=["mind"]
    )
    assert json.loads((tmp_path / "scores.json").read_text()) == result.written()
    assert Result.read(tmp_path / "scores.json") == result
    assert (result.benchmark, result.version, result.n, result.images) == (
        "pope",
        "pope-1",
        24,
        4,
    )
    assert result.metrics["random_accuracy"] == 87.5
    assert result.metrics["random_recall"] == 75
    assert result.metrics["accuracy"] == pytest.approx((100 + 100 + 87.5) / 3)
    low, high = result.intervals["random_accuracy"] or ()
    assert low < 87.5 < high <= 100
    assert result.expanded == 0.5
    assert result.events == {
        "2": {"expand": 0, "keep": 0, "drop": 24},
        "3": {"expand": 12, "keep": 12, "drop": 0},
    }
    assert result.policy == Policy([2, 3], patches=3)
    assert (result.flops, read_rows(tmp_path)[0]["flops"]) == (24_000, 1000)
    assert result.questions_per_second is not None
    assert result.seconds == pytest.approx(24 / result.questions_per_second, abs=1e-3)
    assert result.peak_memory_mb is not None
    assert result.peak_memory_mb > 10
    assert result.warnings == ["mind"]


def test_one_picture_has_scores_without_intervals(tmp_path: Path) -> None:
    """Catches NaN in JSON, which other readers refuse."""
    result = finish(tmp_path, Rule(), samples(1))
    assert result.metrics["f1"] == 100
    assert result.intervals["f1"] is None
    assert "NaN" not in (tmp_path / "scores.json").read_text()


def test_split_left_out_is_a_warning_in_the_result(tmp_path: Path) -> None:
    """Catches a mean over fewer splits that looks like POPE's."""
    asked = [sample for sample in samples() if sample.split != "popular"]
    result = finish(tmp_path, Rule(), asked)
    assert result.warnings == Pope().warnings(read_rows(tmp_path))
    assert "adversarial, random only" in result.warnings[0]


class JudgedPope(Pope, Graded):
    """POPE whose answers are judged one by one, each judgement kept in the run's folder; it may die on the way."""

    def __init__(self, dies_at: int | None = None) -> None:
        super().__init__()
        self.dies_at = dies_at
        self.graded_ids: list[str] = []

    def check_gradable(self, ids: Sequence[str]) -> None:
        """It grades anything."""

    def grade(self, rows: Sequence[Row], folder: Path) -> list[Row]:
        kept = folder / "judged.txt"
        done = set(kept.read_text(encoding="utf-8").split() if kept.exists() else ())
        for row in rows:
            if len(self.graded_ids) == self.dies_at:
                raise RuntimeError("killed")
            if row["id"] not in done and "grade" not in row:
                self.graded_ids.append(row["id"])
                with kept.open("a", encoding="utf-8") as file:
                    file.write(f"{row['id']}\n")
        return [row | {"grade": 1.0} for row in rows]


def test_killed_while_judging_goes_on_judging(tmp_path: Path) -> None:
    """Would catch answers asked again or judged twice after a kill, and judgements that never reach the file."""
    asked = samples()
    with pytest.raises(RuntimeError, match="killed"):
        finish(tmp_path, Rule(), asked, benchmark=JudgedPope(dies_at=10))
    assert len(read_rows(tmp_path)) == 24
    assert not (tmp_path / "scores.json").exists()
    rule, judge = Rule(), JudgedPope()
    finish(tmp_path, rule, asked, benchmark=judge)
    assert (len(rule.batches), len(judge.graded_ids)) == (0, 14)
    assert [row["grade"] for row in read_rows(tmp_path)] == [1.0] * 24
    (tmp_path / "scores.json").unlink()
    (tmp_path / "judged.txt").unlink()
    again = JudgedPope()
    finish(tmp_path, Rule(), asked, benchmark=again)
    assert again.graded_ids == []
