"""From samples to `predictions.jsonl`, written as it grows.

A run that was killed goes on where it stopped and ends with the same file: rows are written picture by picture, in the
order of the samples however many pictures were under way, and a picture that was not written whole is answered again.
Several runs over the same samples can be answered in one pass; each keeps its own files, as if it were alone. An answerer
that raises stops the run with its cause; a failure never becomes an empty answer. Knows nothing of models: an `Answerer`
answers samples.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, Protocol

import torch

from blink.bench.base import Benchmark, Row, Sample
from blink.bench.results.scoring import make_row
from blink.evaluation.answering.rows import PREDICTIONS, pictures
from blink.evaluation.answering.timing import Clock
from blink.inference.engine import Answer
from blink.runs.files import append_text, json_lines
from blink.runs.progress import progress
from blink.runs.signals import finishing_first

log = logging.getLogger(__name__)


class Asked(NamedTuple):
    """Samples about one picture, and the numbers of the runs that are to answer them."""

    samples: Sequence[Sample]
    runs: Sequence[int]


class Reply(NamedTuple):
    """An answer to one question.

    Attributes:
        flops: of the question answered alone; None if they are not counted.
        without_blink: why the backbone alone answered, although a policy was asked for, in words; None if it did not.
    """

    answer: Answer
    flops: int | None = None
    without_blink: str | None = None


class Answerer(Protocol):
    """Answers samples under several runs (a policy and its modules each), which calls name by index."""

    @property
    def waited(self) -> float:
        """Seconds that the model has waited for pictures, in the last call of `answer_many` so far."""
        ...

    def answer_many(
        self, asked: Sequence[Asked], stop: Callable[[], bool]
    ) -> Iterator[Sequence[Sequence[Reply]]]:
        """Answer samples about pictures, in their order: for each of a picture's runs, one reply per sample.

        Args:
            asked: one item per picture.
            stop: asked before another picture is begun; once it says so, those that are under way are the last.
        """
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


class Task(NamedTuple):
    """One run to be answered: its folder, and its rows so far, to which more are appended."""

    folder: Path
    rows: list[Row]


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
        clock = Clock({number: tasks[number].folder for number in open_tasks})
        stack.callback(clock.write)
        advance = stack.enter_context(progress(benchmark.name, total, before))

        def stop() -> bool:
            return pending.requested

        def mine(pictures: Sequence[Asked]) -> Iterator[list[list[Row]]]:
            return rows_of(benchmark, answerer, pictures, stop)

        found = mine(asked) if share is None else share.rows(mine, stop)
        # fewer, where it is stopped; `found` comes first, so that it is gone through to its end, where others say that they are done
        for rows, picture in zip(found, asked, strict=False):
            for number, new in zip(picture.runs, rows, strict=True):
                append_text(tasks[number].folder / PREDICTIONS, json_lines(new))
                tasks[number].rows.extend(new)
            clock.note(picture.runs, len(picture.samples), answerer.waited)
            answered = len(picture.samples) * len(picture.runs)
            done += answered
            advance(answered)
            if after_each is not None:
                after_each()
        log.info("%s", clock)
        reached = f"{done:,} of {total:,} questions{shared} are answered"
        pending.check(reached if done < total else f"all {total:,} questions{shared} are answered")
        assert done == total, f"{reached}, and nobody asked for an end"


def rows_of(
    benchmark: Benchmark, answerer: Answerer, asked: Sequence[Asked], stop: Callable[[], bool]
) -> Iterator[list[list[Row]]]:
    """For each picture, for each of its runs, the rows of its samples; as `Answerer.answer_many` answers them."""
    for by_run, picture in zip(answerer.answer_many(asked, stop), asked, strict=False):
        yield [
            [
                make_row(
                    sample,
                    benchmark,
                    reply.answer.text.strip(),
                    tokens=len(reply.answer.ids),
                    events=reply.answer.events,
                    flops=reply.flops,
                    without_blink=reply.without_blink,
                )
                for sample, reply in zip(picture.samples, replies, strict=True)
            ]
            for replies in by_run
        ]
