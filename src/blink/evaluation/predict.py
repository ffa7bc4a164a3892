"""From samples to `predictions.jsonl`, written as it grows, and on to `scores.json`.

A run that was killed goes on where it stopped and ends with the same file: rows are written picture by picture, in the
order of the samples however many pictures were under way, and a picture that was not written whole is answered again. Several runs over the same samples can be answered in one
pass; each keeps its own files, as if it were alone. An answerer that raises stops the run with its cause; a
failure never becomes an empty answer. A benchmark that has to be judged is judged once all is answered, and the
judged rows replace the file as a whole. Knows nothing of models: an `Answerer` answers samples.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from blink.bench.base import Benchmark, Graded, Row, Sample
from blink.bench.judges import EndpointError
from blink.bench.scoring import make_row
from blink.evaluation.rows import (
    PREDICTIONS,
    SCORES,
    TIMING,
    Timing,
    drop_shares,
    pictures,
    read_timing,
    write_timing,
)
from blink.evaluation.scores import Result, Setup, score_rows, total_flops
from blink.inference.engine import Answer
from blink.runs.files import append_text, json_lines, write_json, write_text
from blink.runs.machine import peak_memory_mb
from blink.runs.signals import Stopped, finishing_first
from blink.runs.values import UserError

log = logging.getLogger(__name__)

_NAMED = 40
"""Questions under way that an error names at most."""


_EVERY_SECONDS = 1.0
"""How often the time that answers take is written at most."""


class Asked(NamedTuple):
    """Samples about one picture, and the numbers of the runs that are to answer them."""

    samples: Sequence[Sample]
    runs: Sequence[int]

    @property
    def questions(self) -> int:
        """How many answers it takes."""
        return len(self.samples) * len(self.runs)


class HasSamples(Protocol):
    """A picture that is asked about, in whatever state."""

    @property
    def samples(self) -> Sequence[Sample]: ...


class Answered(NamedTuple):
    """What came of an `Asked`.

    Attributes:
        size: (width, height) of the picture.
        answers: for each of the runs, one answer per sample in their order.
    """

    size: tuple[int, int]
    answers: list[list[Answer]]


class Answerer(Protocol):
    """Answers samples under several runs (a policy and its modules each), which calls name by index."""

    def answer_many(self, asked: Sequence[Asked], stop: Callable[[], bool]) -> Iterator[Answered]:
        """Answer samples about pictures, in their order.

        Args:
            asked: one item per picture.
            stop: asked before another picture is begun; once it says so, those that are under way are the last.
        """
        ...

    def flops(self, size: tuple[int, int], sample: Sample, answer: Answer, run: int) -> int | None:
        """FLOPs of a question answered alone, about a picture of (width, height); None if not counted."""
        ...

    def without_blink(self, size: tuple[int, int], run: int) -> str | None:
        """Why a run answers without Blink about pictures of (width, height), in words; None if it does not."""
        ...


class Share(Protocol):
    """Pictures shared out among several processes, of which this one is the first."""

    def wait_until_ready(self) -> None:
        """Wait until the others have loaded the model."""
        ...

    def rows(
        self, answer: Callable[[Sequence[Asked]], Iterator[list[list[Row]]]], stop: Callable[[], bool]
    ) -> Iterator[list[list[Row]]]:
        """The rows of all pictures in their order, whoever answers them.

        Args:
            answer: answers this process's own.
            stop: as in `Answerer.answer_many`.
        """
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
    sharing: Callable[[Sequence[Asked]], Share] | None = None,
) -> Evaluated:
    """Answer the samples that `rows` lacks, score all, and write the result to `scores.json`.

    Args:
        rows: what `resume` returned.
        make_answerer: called only if there is something left to answer; loads the model. The run has index 0.
        setup: goes into the result; its warnings come before those of the scores.
        edition: what the samples are, as in `score_rows`.
        watch: called when a picture's rows are written, with all rows so far.
        sharing: see `predict`.

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
    after_each = None if watch is None else lambda: watch(task.rows)
    predict(benchmark, samples, [task], make_answerer, after_each, sharing)
    drop_shares(folder)
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
    sharing: Callable[[Sequence[Asked]], Share] | None = None,
) -> None:
    """Answer, picture by picture, the samples that each task lacks; append the rows to its file and to it.

    Args:
        tasks: of different folders; they may have different numbers of rows.
        make_answerer: called only if there is something left to answer; its runs are numbered as the tasks.
        after_each: called when a picture's rows are written.
        sharing: shares the pictures out among several processes; None: this one answers all.

    Raises:
        Stopped: a signal asks for an end; after the pictures that were being answered.
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
    asked = [
        Asked(batch, lacking)
        for first, batch in pictures(samples)
        if (lacking := [number for number in open_tasks if len(tasks[number].rows) <= first])
    ]
    share = None if sharing is None else sharing(asked)  # others load the model meanwhile
    answerer = make_answerer()
    if share is not None:
        share.wait_until_ready()
    done, total = before, len(open_tasks) * len(samples)
    shared = f" of {len(open_tasks)} runs" * (len(open_tasks) > 1)
    with ExitStack() as stack:
        pending = stack.enter_context(finishing_first())  # what is under way, once a signal asks for an end
        clock = _Clock(tasks, open_tasks)
        stack.callback(clock.write)
        progress = stack.enter_context(_progress(benchmark.name))
        bar = progress.add_task("answering", total=total, completed=before)

        def stop() -> bool:
            return pending.requested

        def mine(pictures: Sequence[Asked]) -> Iterator[list[list[Row]]]:
            return rows_of(benchmark, answerer, pictures, stop)

        found = mine(asked) if share is None else share.rows(mine, stop)
        for picture, rows in zip(asked, found, strict=False):  # fewer, where it is stopped
            for number, new in zip(picture.runs, rows, strict=True):
                append_text(tasks[number].folder / PREDICTIONS, json_lines(new))
                tasks[number].rows.extend(new)
            clock.note(picture)
            done += picture.questions
            progress.update(bar, advance=picture.questions)
            if after_each is not None:
                after_each()
        answered = f"{done:,} of {total:,} questions{shared} are answered"
        pending.check(answered if done < total else f"all {total:,} questions{shared} are answered")
        assert done == total, f"{answered}, and nobody asked for an end"


def rows_of(
    benchmark: Benchmark, answerer: Answerer, asked: Sequence[Asked], stop: Callable[[], bool]
) -> Iterator[list[list[Row]]]:
    """For each picture, for each of its runs, the rows of its samples; as `Answerer.answer_many` answers them."""
    for picture, answered in zip(asked, answerer.answer_many(asked, stop), strict=False):
        yield [
            [
                make_row(
                    sample,
                    benchmark,
                    answer.text.strip(),
                    tokens=len(answer.ids),
                    events=answer.events,
                    flops=answerer.flops(answered.size, sample, answer, run),
                    without_blink=answerer.without_blink(answered.size, run),
                )
                for sample, answer in zip(picture.samples, answers, strict=True)
            ]
            for run, answers in zip(picture.runs, answered.answers, strict=True)
        ]


@contextmanager
def naming(under_way: Iterable[HasSamples]) -> Iterator[None]:
    """Context of answering: a note at any error says which questions were under way.

    Args:
        under_way: pictures; may change until there is an error.
    """
    try:
        yield
    except Exception as error:
        ids = [sample.id for picture in under_way for sample in picture.samples]
        if ids:
            more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
            error.add_note(f"while answering {', '.join(ids[:_NAMED])}{more}")
        raise


class _Clock:
    """The time that a pass takes up to the picture that was written last, shared out by answers among its runs.

    A kill leaves no moment to write it, so it is written as pictures are, and at most once a second.
    """

    def __init__(self, tasks: Sequence[Task], runs: Sequence[int]) -> None:
        self._tasks, self._answered = tasks, dict.fromkeys(runs, 0)
        self._before = {run: read_timing(tasks[run].folder) for run in runs}
        self._started, self._seconds, self._written = time.perf_counter(), 0.0, -math.inf
        for run in runs:
            if not (tasks[run].folder / TIMING).exists():
                write_timing(tasks[run].folder, [])

    def note(self, picture: Asked) -> None:
        """Note that a picture is written."""
        self._seconds = time.perf_counter() - self._started
        for run in picture.runs:
            self._answered[run] += len(picture.samples)
        if self._seconds - self._written >= _EVERY_SECONDS:
            self.write()

    def write(self) -> None:
        """Write it for each run, with the time of the processes before."""
        total = sum(self._answered.values())
        for run, answered in self._answered.items():
            now = Timing(answered, self._seconds * answered / total if total else 0.0)
            write_timing(self._tasks[run].folder, [self._before[run], now])
        self._written = self._seconds


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


def _progress(name: str) -> Progress:
    return Progress(
        TextColumn(name),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
