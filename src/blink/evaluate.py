"""From samples to `predictions.jsonl`, written as it grows, and on to `scores.json`.

A run that was killed goes on where it stopped and ends with the same file: samples are answered in fixed batches,
and a batch that was not written whole is answered again. An answerer that raises stops the run with its cause; a
failure never becomes an empty answer. A benchmark that has to be judged is judged once all is answered, and the
judged rows replace the file as a whole. Knows nothing of models: an answerer is any function from samples to answers.
"""

import json
import logging
import math
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from blink.bench.base import Answer, Benchmark, Graded, Row, Sample, make_row, score, units
from blink.outputs import write_json, write_text

log = logging.getLogger(__name__)

Answerer = Callable[[Sequence[Sample]], list[Answer]]
"""Answers a batch of samples, one answer each, in their order."""

PREDICTIONS = "predictions.jsonl"
SCORES = "scores.json"
INPUTS = "inputs.json"


class Session(NamedTuple):
    """What one process added to a run.

    Attributes:
        rows: all rows of the run, earlier ones included.
        answered: how many of them this process answered.
        seconds: wall-clock time that took, loading of the model left out.
    """

    rows: list[Row]
    answered: int
    seconds: float


def resume(
    folder: Path, samples: Sequence[Sample], *, batch_size: int, inputs: Mapping[str, Any]
) -> list[Row]:
    """Return the rows that a run folder holds already, cut back to whole batches; none in a new folder.

    Args:
        inputs: what the answers follow from beyond the config, JSON values; recorded in a new folder.

    Raises:
        ValueError: the rows follow from other inputs, are about other questions, or cannot be read.
    """
    _check_inputs(folder / INPUTS, {**inputs, "samples": samples_digest(samples)})
    path = folder / PREDICTIONS
    if not path.exists():
        return []
    content = path.read_bytes()
    lines = content.split(b"\n")[:-1]  # what follows the last newline is half a line, or nothing
    whole = len(lines) if len(lines) == len(samples) else len(lines) // batch_size * batch_size
    rows = [_parse(path, number, line) for number, line in enumerate(lines[:whole], start=1)]
    if [row["id"] for row in rows] != [sample.id for sample in samples[:whole]]:
        raise ValueError(
            f"{path} has {len(lines)} answers to other questions than these {len(samples)}; "
            "fresh=true starts a new run"
        )
    keep = sum(len(line) + 1 for line in lines[:whole])
    if keep < len(content):
        with path.open("r+b") as file:
            file.truncate(keep)
    return rows


def evaluate(
    benchmark: Benchmark,
    samples: Sequence[Sample],
    rows: Sequence[Row],
    make_answerer: Callable[[], Answerer],
    folder: Path,
    *,
    batch_size: int,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Answer the samples that `rows` lacks, score all, and write the result to `scores.json`.

    Args:
        rows: what `resume` returned.
        make_answerer: called only if there is something left to answer; loads the model.
        batch_size: samples answered at once, as given to `resume`.
        about: further entries of the result, JSON values; its `warnings`, if any, come before those of the scores.

    Returns:
        The content of `scores.json`. A run that was finished before is returned as it was.
    """
    finished = folder / SCORES
    if len(rows) == len(samples) and finished.exists():
        log.info("finished before: %s", folder)
        earlier: dict[str, Any] = json.loads(finished.read_text(encoding="utf-8"))
        return earlier
    session = predict(benchmark, samples, rows, make_answerer, folder / PREDICTIONS, batch_size=batch_size)
    session = session._replace(rows=graded(benchmark, session.rows, folder))
    result = {**about, **summary(benchmark, session)}
    result["warnings"] = [*about.get("warnings", ()), *result["warnings"]]
    write_json(finished, result)
    return result


def predict(
    benchmark: Benchmark,
    samples: Sequence[Sample],
    rows: Sequence[Row],
    make_answerer: Callable[[], Answerer],
    path: Path,
    *,
    batch_size: int,
) -> Session:
    """Append a row to `path` for each sample that `rows` lacks, batch by batch."""
    all_rows = list(rows)
    todo = len(samples) - len(rows)
    if not todo:
        return Session(all_rows, 0, 0.0)
    if rows:
        log.info("%d of %d questions are answered already, going on", len(rows), len(samples))
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    answerer = make_answerer()
    started = time.perf_counter()
    with path.open("a", encoding="utf-8") as file, _progress(benchmark.name) as progress:
        task = progress.add_task("answering", total=len(samples), completed=len(rows), expanded="")
        for start in range(len(rows), len(samples), batch_size):
            batch = samples[start : start + batch_size]
            new = [make_row(sample, answer, benchmark) for sample, answer in _answers(answerer, batch)]
            file.write(json_lines(new))
            file.flush()
            all_rows += new
            progress.update(
                task, advance=len(new), expanded=f"{100 * expanded_share(all_rows):.0f} % expanded"
            )
    return Session(all_rows, todo, time.perf_counter() - started)


def graded(benchmark: Benchmark, rows: list[Row], folder: Path) -> list[Row]:
    """Have the rows judged and written anew if the benchmark asks for it; else return them as they are."""
    if not isinstance(benchmark, Graded):
        return rows
    judged = benchmark.grade(rows, folder)
    assert [row["id"] for row in judged] == [row["id"] for row in rows], "judging lost or moved rows"
    if judged != rows:
        write_text(folder / PREDICTIONS, json_lines(judged))
    return judged


def json_lines(rows: Sequence[Row]) -> str:
    """Rows as the lines of a JSONL file."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def summary(benchmark: Benchmark, session: Session) -> dict[str, Any]:
    """Return the scores of a session's rows as JSON values, nan as None; metrics without a unit are percentages."""
    found = score(benchmark, session.rows)
    rate = session.answered / session.seconds if session.answered else None
    return {
        "benchmark": benchmark.name,
        "version": benchmark.version,
        "n": found.n,
        "images": found.images,
        "metrics": {name: estimate.value for name, estimate in found.metrics.items()},
        "intervals": {
            name: None if math.isnan(estimate.low) else [estimate.low, estimate.high]
            for name, estimate in found.metrics.items()
        },
        "units": units(benchmark),
        "headline": [name for name in benchmark.headline if name in found.metrics],
        "expanded": expanded_share(session.rows),
        "events": events_per_layer(session.rows),
        "seconds": round(session.seconds, 3),
        "questions_per_second": rate,
        "peak_memory_mb": peak_memory_mb(),
        "warnings": found.warnings,
    }


def expanded_share(rows: Sequence[Row]) -> float:
    """Return the share of rows with at least one expansion, in [0, 1]."""
    return sum(any(event["action"] == "expand" for event in row["events"]) for row in rows) / len(rows)


def events_per_layer(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    """Count the actions at each scanned layer: layer -> action -> number of samples."""
    counts = Counter((event["layer"], event["action"]) for row in rows for event in row["events"])
    layers = sorted({layer for layer, _ in counts})
    return {
        str(layer): {action: counts[layer, action] for action in ("expand", "keep", "drop")}
        for layer in layers
    }


def peak_memory_mb() -> float:
    """Return the most memory held, in MiB: of the GPU since `predict` began, or of the host where no GPU is used.

    The host's figure is the process's since its start and never falls: of a sweep's jobs only the first has its own.
    """
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def samples_digest(samples: Sequence[Sample]) -> str:
    """Return a hash of ids, questions and labels, by which a changed data set is noticed."""
    text = json.dumps([(sample.id, sample.question, sample.label) for sample in samples])
    return sha256(text.encode()).hexdigest()[:16]


def files_digest(folder: Path, pattern: str = "*.safetensors") -> str:
    """Return a hash by which changed weights in a folder are noticed: names, sizes, first and last MiB of each file.

    The whole of a large checkpoint would take minutes to read.
    """
    digest = sha256()
    for path in sorted(folder.glob(pattern)):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(2**20))
            file.seek(max(0, size - 2**20))
            digest.update(file.read())
    return digest.hexdigest()[:16]


def _answers(answerer: Answerer, batch: Sequence[Sample]) -> list[tuple[Sample, Answer]]:
    try:
        answers = answerer(batch)
    except Exception as error:
        error.add_note(f"while answering {', '.join(sample.id for sample in batch)}")
        raise
    return list(zip(batch, answers, strict=True))


def _parse(path: Path, number: int, line: bytes) -> Row:
    try:
        row: Row = json.loads(line)
    except ValueError as cause:
        raise ValueError(
            f"{path}, line {number} is damaged ({cause}); fresh=true starts a new run"
        ) from cause
    return row


def _check_inputs(path: Path, inputs: Mapping[str, Any]) -> None:
    """Record what the answers follow from; refuse to go on from anything else."""
    now = json.loads(json.dumps(inputs))
    if not path.exists():
        write_json(path, now)
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    if changed:
        raise ValueError(
            f"{path.parent} was begun with another {', '.join(changed)} "
            f"({'; '.join(f'{key}: {before.get(key)} then, {now.get(key)} now' for key in changed)}); "
            "fresh=true keeps it under another name and starts anew"
        )


def _progress(name: str) -> Progress:
    return Progress(
        TextColumn(name),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[expanded]}"),
    )
