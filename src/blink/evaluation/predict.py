"""From samples to `predictions.jsonl`, written as it grows, and on to `scores.json`.

A run that was killed goes on where it stopped and ends with the same file: samples are answered picture by picture,
and a picture that was not written whole is answered again. Several runs over the same samples can be answered in one
pass; each keeps its own files, as if it were alone. An answerer that raises stops the run with its cause; a
failure never becomes an empty answer. A benchmark that has to be judged is judged once all is answered, and the
judged rows replace the file as a whole. Knows nothing of models: an `Answerer` answers samples.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from blink.bench.base import Benchmark, Graded, Row, Sample
from blink.bench.judges import EndpointError
from blink.bench.scoring import make_row
from blink.evaluation.questions import samples_digest
from blink.evaluation.scores import Result, Setup, score_rows, total_flops
from blink.inference.engine import Answer
from blink.runs.files import append_text, json_lines, read_json, write_json, write_text
from blink.runs.folder import INPUTS, check_inputs
from blink.runs.machine import peak_memory_mb
from blink.runs.signals import Stopped, finishing_first
from blink.runs.values import DamagedError, UserError, fits

log = logging.getLogger(__name__)

PREDICTIONS = "predictions.jsonl"
SCORES = "scores.json"
TIMING = "timing.json"

_ROW: Mapping[str, Any] = {
    "id": str,
    "image": str,
    "response": str,
    "correct": bool | None,
    "events": Sequence[Mapping[str, Any]],
}
"""Columns that every row has, and their types."""


class Answerer(Protocol):
    """Answers samples under several runs (a policy and its modules each), which calls name by index."""

    def answer(
        self, image: Image.Image, samples: Sequence[Sample], runs: Sequence[int]
    ) -> list[list[Answer]]:
        """Answer samples about one picture: for each run, one answer per sample in their order."""
        ...

    def flops(self, size: tuple[int, int], sample: Sample, answer: Answer, run: int) -> int | None:
        """FLOPs of a question answered alone, about a picture of (width, height); None if not counted."""
        ...


class Evaluated(NamedTuple):
    """A finished evaluation: the content of its `scores.json`, and its rows, judged if need be."""

    result: Result
    rows: Sequence[Row]


class GradingError(RuntimeError):
    """All questions are answered, but the judge failed to grade the answers."""


class Task(NamedTuple):
    """One run to be answered: its folder, and its rows so far, to which more are appended."""

    folder: Path
    rows: list[Row]


class Timing(NamedTuple):
    """Time spent answering, over all processes that worked on the run and were not killed outright.

    Attributes:
        answered: how many questions were timed.
        seconds: wall-clock time, loading of the model left out; of a pass that several runs share, an equal share.
    """

    answered: int = 0
    seconds: float = 0.0


def resume(folder: Path, samples: Sequence[Sample], *, inputs: Mapping[str, Any]) -> list[Row]:
    """Return the rows that a run folder holds already, cut back to whole pictures; none in a new folder.

    Args:
        samples: those about one picture side by side.
        inputs: fingerprints of all that the answers depend on beyond the config, JSON values; recorded in a new folder.

    Raises:
        ValueError: the rows follow from other inputs, are about other questions, or cannot be read.
    """
    path = folder / PREDICTIONS
    content = path.read_bytes() if path.exists() else b""
    recorded = {**inputs, "samples": samples_digest(samples)}
    try:
        check_inputs(folder / INPUTS, recorded)
    except DamagedError:
        if content:
            raise
        check_inputs(folder / INPUTS, recorded, begun=False)
    lines = content.split(b"\n")[:-1]  # what follows the last newline is half a line, or nothing
    rows = readable_rows(path, lines)
    if len(rows) < len(lines):
        log.warning("%s: its last %d lines are damaged, and asked anew", path, len(lines) - len(rows))
    if [row["id"] for row in rows] != [sample.id for sample in samples[: len(rows)]]:
        raise UserError(
            f"{path} has {len(lines)} answers to other questions than these {len(samples)}; "
            "fresh=true starts a new run"
        )
    # a process may have been killed between the rows of one picture
    ends = (first + len(batch) for first, batch in pictures(samples))
    whole = max((end for end in ends if end <= len(rows)), default=0)
    keep = sum(len(line) + 1 for line in lines[:whole])
    if keep < len(content):
        with path.open("r+b") as file:
            file.truncate(keep)
    return rows[:whole]


def readable_rows(path: Path, lines: Sequence[bytes]) -> list[Row]:
    """Return the rows of a run's predictions, without damaged lines at the end, as a power failure leaves them.

    Raises:
        ValueError: a damaged line stands before whole ones; names the file and the line.
    """
    found = [_row(line) for line in lines]
    whole = next((number for number, row in enumerate(found) if row is None), len(found))
    if any(found[whole:]):
        raise DamagedError(path, f"in line {whole + 1}, with whole lines behind it")
    return [row for row in found if row is not None]


def _row(line: bytes) -> Row | None:
    """The row of a line; None if it is none."""
    try:
        row = json.loads(line)
    except ValueError:  # no JSON, or bytes that are no text
        return None
    if not isinstance(row, dict):
        return None
    columns = {"events": [], **row}  # rows of elsewhere have none
    return row if all(fits(columns.get(name, ...), kind) for name, kind in _ROW.items()) else None


def evaluate(
    benchmark: Benchmark,
    samples: Sequence[Sample],
    rows: Sequence[Row],
    make_answerer: Callable[[], Answerer],
    folder: Path,
    *,
    setup: Setup,
    edition: str | None = None,
    watch: Callable[[Sequence[Row]], None] | None = None,
) -> Evaluated:
    """Answer the samples that `rows` lacks, score all, and write the result to `scores.json`.

    Args:
        rows: what `resume` returned.
        make_answerer: called only if there is something left to answer; loads the model. The run has index 0.
        setup: goes into the result; its warnings come before those of the scores.
        edition: what the samples are, as in `score_rows`.
        watch: called after each picture with all rows so far.

    Returns:
        The result and all rows. A run that was finished before is returned as it was.

    Raises:
        GradingError: the judge failed.
    """
    finished = folder / SCORES
    if len(rows) == len(samples) and finished.exists():
        try:
            result = Result.read(finished)
            log.info("finished before: %s", folder)
            return Evaluated(result, rows)
        except UserError as damage:
            log.warning("%s; its answers are scored anew", damage)
    task = Task(folder, list(rows))
    predict(benchmark, samples, [task], make_answerer, None if watch is None else lambda: watch(task.rows))
    marked, timing = graded(benchmark, task.rows, folder), read_timing(folder)
    result = score_rows(
        benchmark,
        marked,
        setup,
        edition,
        flops=total_flops(marked),
        seconds=round(timing.seconds, 3),
        questions_per_second=timing.answered / timing.seconds if timing.answered else None,
        peak_memory_mb=peak_memory_mb(),
    )
    write_json(finished, result.written())
    return Evaluated(result, marked)


def predict(
    benchmark: Benchmark,
    samples: Sequence[Sample],
    tasks: Sequence[Task],
    make_answerer: Callable[[], Answerer],
    after_each: Callable[[], None] | None = None,
) -> None:
    """Answer, picture by picture, the samples that each task lacks; append the rows to its file and to it.

    Args:
        tasks: of different folders; they may have different numbers of rows.
        make_answerer: called only if there is something left to answer; its runs are numbered as the tasks.
        after_each: called when a picture's rows are written.

    Raises:
        Stopped: a signal asks for an end; after the picture that was being answered.
        OSError: rows cannot be written; names the file, which keeps whole pictures.
    """
    open_tasks = [number for number, task in enumerate(tasks) if len(task.rows) < len(samples)]
    if not open_tasks:
        return
    before = sum(len(tasks[number].rows) for number in open_tasks)
    if before:
        log.info("%d of %d questions are answered already, going on", before, len(open_tasks) * len(samples))
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    answerer = make_answerer()
    timings = dict.fromkeys(open_tasks, Timing())
    total, shared = len(open_tasks) * len(samples), f" of {len(open_tasks)} runs" * (len(open_tasks) > 1)
    with ExitStack() as stack:
        pending = stack.enter_context(finishing_first())  # the picture, once a signal asks for an end
        stack.callback(_add_timings, tasks, timings)
        progress = stack.enter_context(_progress(benchmark.name))
        bar = progress.add_task("answering", total=total, completed=before)
        for first, batch in pictures(samples):
            lacking = [number for number in open_tasks if len(tasks[number].rows) <= first]
            if not lacking:
                continue
            done = sum(len(tasks[number].rows) for number in open_tasks)
            pending.check(f"{done:,} of {total:,} questions{shared} are answered")
            started = time.perf_counter()
            for number, new in zip(lacking, _rows(benchmark, answerer, batch, lacking), strict=True):
                append_text(tasks[number].folder / PREDICTIONS, json_lines(new))
                tasks[number].rows.extend(new)
            # a pass of several runs answers each in an equal share of the time
            share = (time.perf_counter() - started) / len(lacking)
            for number in lacking:
                answered, seconds = timings[number]
                timings[number] = Timing(answered + len(batch), seconds + share)
            progress.update(bar, advance=len(lacking) * len(batch))
            if after_each is not None:
                after_each()
        pending.check(f"all {total:,} questions{shared} are answered")


def pictures(samples: Sequence[Sample]) -> Iterator[tuple[int, list[Sample]]]:
    """Yield the samples about each picture, which stand side by side, with the index of the first one."""
    first = 0
    for _, group in groupby(samples, key=lambda sample: sample.image):
        batch = list(group)
        yield first, batch
        first += len(batch)


def read_timing(folder: Path) -> Timing:
    """Read the time that answering a run has taken so far; none where the file is damaged."""
    path = folder / TIMING
    if not path.exists():
        return Timing()
    try:
        found = Timing(**read_json(path))
        if not fits(found.answered, int) or not fits(found.seconds, float):
            raise TypeError(found)
    except (TypeError, ValueError):
        log.warning("%s is damaged: the time that answering took so far is not known", path)
        return Timing()
    return found


def graded(benchmark: Benchmark, rows: list[Row], folder: Path) -> list[Row]:
    """Have the rows judged and written anew if the benchmark asks for it; else return them as they are.

    Raises:
        GradingError: the judge failed; says why, that the answers are kept, and how to go on.
    """
    if not isinstance(benchmark, Graded):
        return rows
    try:
        judged = benchmark.grade(rows, folder)
    except Stopped as stopped:
        stopped.reached = f"all {len(rows):,} questions are answered, and grades so far are kept"
        raise
    except (EndpointError, UserError) as cause:
        path = folder / PREDICTIONS
        raise GradingError(
            f"the judge failed: {cause}. All {len(rows):,} answers and what was graded are kept: the same command goes on "
            f"from them, and `python -m blink.score bench={benchmark.name} predictions={path}` grades them by any judge="
        ) from cause
    assert [row["id"] for row in judged] == [row["id"] for row in rows], "judging lost or moved rows"
    if judged != rows:
        write_text(folder / PREDICTIONS, json_lines(judged))
    return judged


def _rows(
    benchmark: Benchmark, answerer: Answerer, batch: Sequence[Sample], runs: Sequence[int]
) -> list[list[Row]]:
    """For each run the rows of samples about one picture, which is read once."""
    try:
        image = batch[0].load_image()
        answered = answerer.answer(image, batch, runs)
    except Exception as error:
        error.add_note(f"while answering {', '.join(sample.id for sample in batch)}")
        raise
    return [
        [
            make_row(
                sample,
                benchmark,
                answer.text.strip(),
                tokens=len(answer.ids),
                events=answer.events,
                flops=answerer.flops(image.size, sample, answer, run),
            )
            for sample, answer in zip(batch, answers, strict=True)
        ]
        for run, answers in zip(runs, answered, strict=True)
    ]


def _add_timings(tasks: Sequence[Task], timings: Mapping[int, Timing]) -> None:
    for number, timing in timings.items():
        earlier = read_timing(tasks[number].folder)
        total = Timing(earlier.answered + timing.answered, earlier.seconds + timing.seconds)
        write_json(tasks[number].folder / TIMING, total._asdict())


def _progress(name: str) -> Progress:
    return Progress(
        TextColumn(name),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
