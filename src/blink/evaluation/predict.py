"""From samples to `predictions.jsonl`, written as it grows, and on to `scores.json`.

A run that was killed goes on where it stopped and ends with the same file: samples are answered picture by picture,
and a picture that was not written whole is answered again. Several runs over the same samples can be answered in one
pass; each keeps its own files, as if it were alone. An answerer that raises stops the run with its cause; a
failure never becomes an empty answer. A benchmark that has to be judged is judged once all is answered, and the
judged rows replace the file as a whole. Knows nothing of models: an `Answerer` answers samples.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from blink.bench.base import Benchmark, Graded, Row, Sample
from blink.bench.judges import EndpointError
from blink.bench.scoring import make_row
from blink.evaluation.rows import PREDICTIONS, SCORES, Timing, add_timing, pictures, read_timing
from blink.evaluation.scores import Result, Setup, score_rows, total_flops
from blink.inference.engine import Answer
from blink.runs.files import append_text, json_lines, write_json, write_text
from blink.runs.machine import peak_memory_mb
from blink.runs.signals import Stopped, finishing_first
from blink.runs.values import UserError

log = logging.getLogger(__name__)


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

    def without_blink(self, size: tuple[int, int], run: int) -> str | None:
        """Why a run answers without Blink about pictures of (width, height), in words; None if it does not."""
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
                without_blink=answerer.without_blink(image.size, run),
            )
            for sample, answer in zip(batch, answers, strict=True)
        ]
        for run, answers in zip(runs, answered, strict=True)
    ]


def _add_timings(tasks: Sequence[Task], timings: Mapping[int, Timing]) -> None:
    for number, timing in timings.items():
        add_timing(tasks[number].folder, timing)


def _progress(name: str) -> Progress:
    return Progress(
        TextColumn(name),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
