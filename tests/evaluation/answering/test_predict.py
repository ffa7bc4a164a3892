"""Predictions survive a kill anywhere."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from PIL import Image

from blink.bench import Pope, Row, Sample
from blink.evaluation.answering.predict import Asked, Task, predict
from blink.evaluation.answering.rows import pictures, resume
from blink.evaluation.answering.timing import read_timing
from blink.inference.engine import Answer
from blink.runs.signals import ending_on_signals
from tests.finished_runs import Rule, finish, read_rows, samples


def test_killed_anywhere_ends_with_the_same_file(tmp_path: Path) -> None:
    """Catches half-written lines kept, answers doubled or lost, and a question answered apart from its picture's others.

    The file of a finished run is cut at many places, in the middle of characters and lines too; each time the run
    must go on picture by picture and end with the same bytes.
    """
    asked = samples()
    whole = Rule(wrong=["random/0yes"])
    finish(tmp_path, whole, asked)
    path, scores = tmp_path / "predictions.jsonl", tmp_path / "scores.json"
    content = path.read_bytes()
    assert len(whole.batches) == 4
    for cut in [*range(0, len(content), 97), len(content) - 1]:
        scores.unlink(missing_ok=True)
        path.write_bytes(content[:cut])
        again = Rule(wrong=["random/0yes"])
        finish(tmp_path, again, asked)
        assert path.read_bytes() == content
        assert again.batches == whole.batches[-len(again.batches) :]


def test_exception_stops_the_run_and_says_where(tmp_path: Path) -> None:
    """Catches failures scored as empty, wrong answers: the pictures before are kept, the cause comes through."""
    asked = samples()
    with pytest.raises(RuntimeError, match="out of memory") as caught:
        finish(tmp_path, Rule(fails_at=asked[7].id), asked)
    assert caught.value.__notes__ == [f"while answering {', '.join(sample.id for sample in asked[6:12])}"]
    assert [row["id"] for row in read_rows(tmp_path)] == [sample.id for sample in asked[:6]]
    assert not (tmp_path / "scores.json").exists()
    finish(tmp_path, Rule(), asked)
    assert len(read_rows(tmp_path)) == 24


def test_row_keeps_response_answer_and_events(tmp_path: Path) -> None:
    """Catches a schema that a scorer of the file alone could not use."""
    finish(tmp_path, Rule(wrong=["popular/1no"]), samples())
    row = next(row for row in read_rows(tmp_path) if row["id"] == "popular/1no")
    assert row == {
        "id": "popular/1no",
        "split": "popular",
        "image": "picture1",
        "question": "Is it no? 图",
        "response": "Yes, 是",
        "label": "no",
        "answer": "yes",
        "correct": False,
        "tokens": 2,
        "flops": 1000,
        "events": [
            {"layer": 2, "ratio": 0.25, "region": 1, "action": "drop"},
            {"layer": 3, "ratio": 0.123457, "region": 0, "action": "keep"},
        ],
    }


def test_runs_answered_together_are_as_if_alone(tmp_path: Path) -> None:
    """Would catch rows in another run's file, and a run asked again about pictures that it has answered.

    Of three runs one is finished, one half way and one new when they go on together.
    """
    asked, alone = samples(), tmp_path / "alone"
    finish(alone, Rule(), asked)
    content = (alone / "predictions.jsonl").read_bytes()
    tasks = []
    for name, share in (("done", 1.0), ("half", 0.6), ("new", 0.0)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "predictions.jsonl").write_bytes(content[: int(share * len(content))])
        tasks.append(Task(folder, resume(folder, asked, inputs={})))
    together = Together()
    predict(Pope(), asked, tasks, lambda: together)
    assert together.runs == [[2], [2], [1, 2], [1, 2]]
    for task in tasks:
        assert (task.folder / "predictions.jsonl").read_bytes() == content
        assert len(task.rows) == 24
    assert [read_timing(task.folder).answered for task in tasks] == [0, 12, 24]


class Together(Rule):
    """A rule that notes which runs it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[list[int]] = []

    def answer(self, image: Image.Image, batch: Sequence[Sample], runs: Sequence[int]) -> list[list[Answer]]:
        self.runs.append(list(runs))
        return super().answer(image, batch, runs)


def test_time_adds_up_over_processes(tmp_path: Path) -> None:
    """Would catch a rate that divides all questions by the time of the last process."""
    asked = samples()
    with pytest.raises(RuntimeError):
        finish(tmp_path, Rule(fails_at=asked[7].id), asked)
    first = read_timing(tmp_path)
    assert first.answered == 6
    result = finish(tmp_path, Rule(), asked)
    assert read_timing(tmp_path).answered == 24
    assert read_timing(tmp_path).seconds > first.seconds > 0
    assert result.seconds == pytest.approx(read_timing(tmp_path).seconds, abs=1e-3)


class Killed(Rule):
    """A rule whose process is killed while it answers the third picture."""

    def answer(self, image: Image.Image, batch: Sequence[Sample], runs: Sequence[int]) -> list[list[Answer]]:
        time.sleep(0.01)
        if len(self.batches) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().answer(image, batch, runs)


def test_a_kill_loses_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a rate of the last process alone, since one that is killed has no moment to write how long it took."""
    asked = samples()
    process = os.fork()  # what is killed need not import all anew
    if process == 0:
        try:
            monkeypatch.setattr("blink.evaluation.answering.timing._EVERY_SECONDS", 0)
            finish(tmp_path, Killed(), samples())
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(process, 0)[1]) == signal.SIGKILL
    assert len(read_rows(tmp_path)) == 12
    first = read_timing(tmp_path)
    assert (first.answered, first.seconds > 0.01) == (12, True)
    monkeypatch.setattr("blink.evaluation.answering.timing._EVERY_SECONDS", 1e9)
    result = finish(tmp_path, Rule(), asked)
    total = read_timing(tmp_path)
    assert (total.answered, total.seconds > first.seconds) == (24, True)
    assert result.questions_per_second == pytest.approx(24 / total.seconds)


class Signalled(Rule):
    """A rule that is asked to end while it answers one of the pictures."""

    def answer(self, image: Image.Image, batch: Sequence[Sample], runs: Sequence[int]) -> list[list[Answer]]:
        answered = super().answer(image, batch, runs)
        if len(self.batches) == 2:
            signal.raise_signal(signal.SIGTERM)
        return answered


def test_a_signal_ends_it_at_a_finished_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Would catch answers lost to a scheduler's warning, an exit code of success, and a line that does not say how far it came."""
    asked, rule = samples(), Signalled()
    with pytest.raises(SystemExit) as ended, ending_on_signals():
        finish(tmp_path, rule, asked)
    assert ended.value.code == 143
    assert len(rule.batches) == 2
    assert len(read_rows(tmp_path)) == 12
    assert (
        "stopped by SIGTERM: 12 of 24 questions are answered; the same command goes on"
        in capsys.readouterr().err
    )
    assert read_timing(tmp_path).answered == 12
    again = Rule()
    finish(tmp_path, again, asked)
    assert len(again.batches) == 2
    finish(tmp_path / "alone", Rule(), asked)
    assert (tmp_path / "predictions.jsonl").read_bytes() == (
        tmp_path / "alone" / "predictions.jsonl"
    ).read_bytes()


def test_a_full_disk_leaves_whole_pictures(tmp_path: Path, file_size_limit: Callable[[int], None]) -> None:
    """Would catch half a row that stays, an error without the file's name, and answers that have to be given again."""
    asked = samples()
    finish(tmp_path / "alone", Rule(), asked)
    whole = (tmp_path / "alone" / "predictions.jsonl").read_bytes()
    file_size_limit(len(whole) // 2 + 10)
    with pytest.raises(OSError, match=r"predictions\.jsonl"):
        finish(tmp_path, Rule(), asked)
    assert whole.startswith((tmp_path / "predictions.jsonl").read_bytes())
    assert len(read_rows(tmp_path)) == 12
    file_size_limit(2**40)
    rule = Rule()
    finish(tmp_path, rule, asked)
    assert len(rule.batches) == 2
    assert (tmp_path / "predictions.jsonl").read_bytes() == whole


class Waiting(Rule):
    """A rule that waits a second for each picture, as it says."""

    def answer(self, image: Image.Image, batch: Sequence[Sample], runs: Sequence[int]) -> list[list[Answer]]:
        self.waited += 1.0
        return super().answer(image, batch, runs)


def test_time_spent_waiting_for_pictures_is_written(tmp_path: Path) -> None:
    """Would catch a model that waits for pictures while nobody notices, and waiting before a kill that is forgotten."""
    asked = samples()
    with pytest.raises(RuntimeError):
        finish(tmp_path, Waiting(fails_at=asked[13].id), asked)
    assert read_timing(tmp_path).waited == 2
    result = finish(tmp_path, Waiting(), asked)
    assert read_timing(tmp_path).waited == result.seconds_waiting_for_pictures == 4
    written = json.loads((tmp_path / "scores.json").read_text())
    assert written["seconds_waiting_for_pictures"] == 4


class Alone:
    """A share of which this process answers all, and that notes whether it was gone through to its end."""

    ended = False

    def wait_until_ready(self) -> None:
        """Nobody else loads a model."""

    def rows(
        self, answer: Callable[[Sequence[Asked]], Iterator[list[list[Row]]]], stop: Callable[[], bool]
    ) -> Iterator[list[list[Row]]]:
        yield from answer([Asked(batch, [0]) for _, batch in pictures(samples())])
        self.ended = True


def test_what_others_say_last_is_taken(tmp_path: Path) -> None:
    """Would catch the last message of one pass that the next takes for its own, which then ends before all is answered."""
    share = Alone()
    predict(Pope(), samples(), [Task(tmp_path, [])], Rule, sharing=lambda asked: share)
    assert share.ended
