"""`python -m blink.score`: score an existing predictions file with no model, and write submissions.

Heavy imports wait until they are needed, so that `--help` is quick.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from blink.runs.command import FAILURE, Job, end, hydra_command
from blink.runs.config.settings import plain
from blink.runs.files import short_digest, write_json
from blink.runs.lock import lock
from blink.runs.provenance import provenance
from blink.runs.values import UserError, about, flag, optional, path, text

if TYPE_CHECKING:
    from blink.bench import Benchmark, Judge, Row

log = logging.getLogger("blink.score")  # not __main__, which `python -m` calls it


@hydra_command("score")
def main(config: DictConfig, job: Job) -> None:
    """Score a file, write and print the scores."""
    from blink.bench.judges import EndpointError
    from blink.bench.results.given_rows import complete, judged, read_rows
    from blink.bench.results.vlmevalkit import check_folder, check_name
    from blink.bench.results.vlmevalkit import export as export_rows
    from blink.evaluation.compare import FinishedRun, score_table, screen
    from blink.evaluation.planning.settings import check_values
    from blink.evaluation.scores import score_file

    settings = plain(config, complete=True)
    check_values(settings)
    rows_file, output, export = (
        optional(path, key, settings[key]) for key in ("predictions", "output", "export")
    )
    export_name = optional(text, "export_name", settings["export_name"]) or "blink"
    check_name(export_name)
    if export is not None:
        check_folder(export)
    wait = flag("wait", settings["wait"])
    if rows_file is None:
        raise UserError("say which rows to score with predictions=FILE.jsonl")
    name = f"{rows_file.name.removesuffix('.gz').removesuffix('.jsonl')}.scores.json"
    output = output or (job.given or rows_file.parent) / name
    if output.is_dir():
        raise UserError(f"output={output} is a folder: expected a file for the scores")
    if output.exists() and rows_file.exists() and output.samefile(rows_file):
        raise UserError(
            f"output={output} is the file of predictions, which scores would replace; give another one"
        )
    rows = read_rows(rows_file)
    benchmark = make_benchmark(settings, rows)
    with about(rows_file):
        completed = complete(benchmark, rows)
    for target in (output, export):
        if target is not None:
            lock(target, wait=wait)
    _make_folder(output.parent)
    try:
        with about(rows_file):
            completed = judged(benchmark, completed, output.parent)
    except EndpointError as error:
        end(f"error: {error}; replies so far are kept, and the same command goes on from them", FAILURE)
    record = provenance(
        "score",
        job.overrides,
        inputs={"version": benchmark.version, "predictions": short_digest(rows_file.read_bytes())},
    )
    result = replace(score_file(benchmark, completed, rows_file), provenance=record)
    write_json(output, result.written())
    written = [output]
    if export is not None:
        with about(rows_file):
            exported = export_rows(benchmark, completed.rows, export, export_name)
        written += exported.files
        result = replace(result, warnings=[*result.warnings, *exported.warnings])
    for warning in result.warnings:
        log.warning("%s", warning)
    console = screen()
    console.print(score_table([FinishedRun("score", rows_file.parent, result)]))
    console.print(f"edition: {result.edition or 'unknown'}")
    console.print(f"written to {', '.join(map(str, written))}", soft_wrap=True)


def make_benchmark(settings: Mapping[str, Any], rows: Sequence[Row]) -> Benchmark:
    """Return the benchmark that the config describes, with its judge if it has one.

    Raises:
        ValueError: none is given, or its settings or judge do not fit.
    """
    from blink.bench import BENCHMARKS, JUDGED, make_judge

    if "bench" not in settings:
        raise UserError(f"say whose rows these are with bench=, one of {', '.join(BENCHMARKS)}")
    arguments = dict(settings["bench"])
    name: str = arguments.pop("name")
    if name in JUDGED:
        given = settings["judge"].get("kind") == "given"
        arguments["judge"] = _given_judge(rows) if given else make_judge(settings["judge"])
    return BENCHMARKS[name](prompt=settings["prompt"], **arguments)


def _given_judge(rows: Sequence[Row]) -> Judge:
    """Who gave the rows their scores; the local judge if they have none.

    Raises:
        ValueError: only some have, or several judges gave them.
    """
    from blink.bench.judges import UNNAMED, GivenScores, LocalJudge

    names = {str(row.get("judge", UNNAMED)) for row in rows if row.get("score") is not None}
    without = [row for row in rows if row.get("score") is None]
    if not names:
        return LocalJudge()
    if without:
        raise UserError(
            f"{len(rows) - len(without)} rows have a score and {len(without)} have none; choose a judge= to grade all"
        )
    if len(names) > 1:
        raise UserError(
            f"the scores are of several judges ({', '.join(sorted(names))}); choose a judge= to grade all"
        )
    name = names.pop()
    return LocalJudge() if name == LocalJudge.name else GivenScores(name)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as cause:
        raise UserError(f"cannot write into {folder}: {cause}") from cause


if __name__ == "__main__":
    main()
