"""One evaluation from its first answer to `scores.json`: answer what is left, have it judged if need be, score it.

A benchmark that has to be judged is judged once all is answered, and the judged rows replace the file as a whole.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from blink.bench.base import Benchmark, Graded, Row, Sample
from blink.bench.judges import EndpointError
from blink.evaluation.answering.predict import Answerer, Asked, Share, Task, predict
from blink.evaluation.answering.rows import PREDICTIONS, drop_shares
from blink.evaluation.answering.timing import read_timing
from blink.evaluation.result import SCORES, Result, Setup
from blink.evaluation.scores import score_rows, total_flops
from blink.runs.files import json_lines, write_json, write_text
from blink.runs.machine import peak_memory_mb
from blink.runs.signals import Stopped
from blink.runs.values import UserError

log = logging.getLogger(__name__)


class GradingError(RuntimeError):
    """All questions are answered, but the judge failed to grade the answers."""


class Evaluated(NamedTuple):
    """A finished evaluation: the content of its `scores.json`, and its rows, judged if need be."""

    result: Result
    rows: Sequence[Row]


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
        seconds_waiting_for_pictures=round(timing.waited, 3),
        questions_per_second=timing.answered / timing.seconds if timing.answered else None,
        peak_memory_mb=peak_memory_mb(),
    )
    write_json(finished, result.written())
    return Evaluated(result, marked)


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
