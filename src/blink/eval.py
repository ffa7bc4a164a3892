"""`python -m blink.eval`: answer a benchmark with a backbone, score it, and report sweeps.

Thin: it reads the config, has all of it checked before any weight is read, and hands flat arguments on. Heavy imports
wait until they are needed, so that `--help` is quick.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from blink.runs.command import FAILURE, Job, end, hydra_command, one_line_errors
from blink.runs.config.settings import made, plain
from blink.runs.files import short_digest, whole_file
from blink.runs.inputs.preset_file import with_preset
from blink.runs.lock import lock
from blink.runs.values import optional, path, text

if TYPE_CHECKING:
    from blink.bench import Row
    from blink.evaluation.planning.plan import Plan
    from blink.evaluation.result import Result
    from blink.runs.boards.board import Board

log = logging.getLogger("blink.eval")  # not __main__, which `python -m` calls it

EXAMPLE = "example.png"


def serve() -> None:
    """What processes but the first do, where torchrun has started several."""
    from blink.evaluation.answering.shares import serve_first

    serve_first()


@hydra_command("eval", further=serve)
def main(config: DictConfig, job: Job) -> float | None:
    """Run one evaluation, or return it if it was finished before.

    Returns:
        Its main metric, which sweepers that search take as what to maximize; None if it has none.
    """
    from blink.bench.results.vlmevalkit import check_folder, check_name
    from blink.bench.results.vlmevalkit import export as export_rows
    from blink.evaluation.answering.rows import resume
    from blink.evaluation.compare import FinishedRun, score_table, screen
    from blink.evaluation.evaluate import GradingError
    from blink.evaluation.planning.plan import make_plan, with_processes
    from blink.evaluation.rerun import (
        ChangedError,
        agreement,
        check_unchanged,
        inputs_of,
        new_folder,
        repeated_config,
    )
    from blink.evaluation.sweeps import report as sweep
    from blink.runs.boards.board import Board
    from blink.runs.boards.marks import note_logged
    from blink.runs.parallel.ahead import ProcessError

    overrides = job.overrides
    group = None if job.sweep is None else job.sweep.name
    first = None
    with one_line_errors(ChangedError):
        if config.rerun is not None and job.sweep is None:
            first, config = repeated_config(config, overrides)
            job = replace(job, given=job.given or new_folder(first))
        else:
            config = with_preset(config, overrides)
        plan = make_plan(config, overrides)
        export = optional(path, "export", config.get("export"))  # configs of an earlier version have none
        export_name = optional(text, "export_name", config.get("export_name"))
        name = export_name or f"{Path(plan.backbone.path).name}-{plan.setup.method}"
        if export is not None:
            check_folder(export)
            check_name(name)
        if first is not None:
            check_unchanged(first, inputs_of(plan))
        folder = job.open_folder(config)
        rows = resume(folder, plan.samples, inputs=plan.inputs)
        if export is not None:
            export = export if job.sweep is None else export / folder.name
            lock(export, wait=config.wait)
        plan = with_processes(plan, folder, finished=len(rows) == len(plan.samples))
        board: Board = (
            Board()
            if _logged(config, folder, group)
            else made("logger", config.logger, Board, folder=str(folder), kind="evaluation", group=group)
        )
    log.info("%s: %d questions, files in %s", plan.setup.method, len(plan.samples), folder)
    with one_line_errors(GradingError, ProcessError), board:
        result, answered = _run(plan, rows, folder, board, plain(config), overrides)
        exported = None if export is None else export_rows(plan.benchmark, answered, export, name)
    if board.logger is not None:
        note_logged(folder, config.logger._target_, group, _digest(folder))
    for warning in (*result.warnings, *(exported.warnings if exported else ())):
        log.warning("%s", warning)
    if job.sweep is not None:
        sweep.note_job(job.sweep, job.number, overrides, folder)
    else:
        console = screen()
        console.print(score_table([FinishedRun(str(result.method), folder, result)]))
        log.info("written to %s", ", ".join(map(str, [folder, *(exported.files if exported else ())])))
    if first is not None:
        found = agreement(first, folder)
        if not found.holds:
            end(f"{folder} against {first}: {found}", FAILURE)
        console.print(f"{folder} against {first}: {found}", soft_wrap=True)
    return next((result.metrics[name] for name in result.headline), None)


def _run(
    plan: Plan,
    rows: Sequence[Row],
    folder: Path,
    board: Board,
    config: dict[str, Any],
    overrides: Sequence[str],
) -> tuple[Result, Sequence[Row]]:
    """Answer what is left, draw one answer into the folder, and log the result; return it and all rows."""
    from PIL import Image

    from blink.evaluation.answering.answerers import load_answerer
    from blink.evaluation.answering.shares import Settings, sharing
    from blink.evaluation.dashboard import Progress, log_result
    from blink.evaluation.evaluate import evaluate
    from blink.evaluation.example import example, is_picture

    if board.logger is not None:
        board.settings(config | plan.setup.written())
    result, rows = evaluate(
        plan.benchmark,
        plan.samples,
        rows,
        lambda: load_answerer([plan]),
        folder,
        setup=plan.setup,
        edition=plan.edition,
        watch=None if board.logger is None else Progress(board),
        sharing=sharing([plan], [Settings(config, overrides)]),
    )
    drawn = is_picture(folder / EXAMPLE)
    if drawn and board.logger is None:
        return result, rows
    views = plan.backbone.views()
    if not drawn:
        picture = example(plan.samples, rows, plan.policy, views)
        with whole_file(folder / EXAMPLE) as partial:
            picture.save(partial, "png")
    if board.logger is not None:
        with board.spared(), Image.open(folder / EXAMPLE) as shown:
            log_result(board, result, plan.samples, rows, views)
            board.pictures({"predictions/example": shown})
    return result, rows


def _logged(config: DictConfig, folder: Path, group: str | None) -> bool:
    """Whether the run is finished and was logged already by this logger in this group of runs."""
    from blink.evaluation.result import SCORES
    from blink.runs.boards.marks import already_logged

    return (folder / SCORES).exists() and already_logged(
        folder, config.logger._target_, group, _digest(folder)
    )


def _digest(folder: Path) -> str:
    from blink.evaluation.result import SCORES

    return short_digest((folder / SCORES).read_bytes())


if __name__ == "__main__":
    main()
