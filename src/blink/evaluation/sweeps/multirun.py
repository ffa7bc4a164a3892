"""The multirun of `python -m blink.eval`: which jobs it has, that all can run, and the report at its end.

Hydra's callback and sweeper, in `hydra_plugins/blink_sweeps.py`, call what is here.
"""

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import hydra
from omegaconf import DictConfig

from blink.evaluation.compare import screen
from blink.evaluation.planning.checkpoint import Checkpoint
from blink.evaluation.planning.method import family_of
from blink.evaluation.planning.plan import make_plan
from blink.evaluation.planning.presets import LAYER_STUDIES
from blink.evaluation.planning.questions import questions_of
from blink.evaluation.planning.settings import check_values
from blink.evaluation.sweeps import experiment_report as tables
from blink.evaluation.sweeps import report as sweep
from blink.evaluation.sweeps.dashboard import log_sweep
from blink.evaluation.sweeps.experiments import Experiment, Line, Names, lines_of, names, read_experiment
from blink.runs.boards.board import Board
from blink.runs.boards.marks import already_logged, note_logged
from blink.runs.command import before_jobs, one_line_errors
from blink.runs.config.settings import (
    check_settings,
    composed_job,
    jobs_are_known,
    jobs_of,
    made,
    plain,
    searched_by,
)
from blink.runs.files import short_digest
from blink.runs.inputs.preset_file import with_preset
from blink.runs.values import UserError

log = logging.getLogger(__name__)

_EXPERIMENT, _BENCH = "experiment", "bench"
_BY_BOX = "selector=box"
_CHECKING_LAUNCHERS = ("OnePassLauncher", "RemoteLauncher")


class Sweep(NamedTuple):
    """The jobs of a multirun.

    Attributes:
        jobs: overrides of each job, in the order in which they run.
        experiment: None for a plain multirun.
        lines: rows of the experiment's table; several may show the run of one job.
        left_out: names of rows that the user's overrides made the same as others.
        boxless: names of rows that go by boxes, of benchmarks none of whose questions has one.
    """

    jobs: list[list[str]]
    experiment: Experiment | None = None
    lines: tuple[Line, ...] = ()
    left_out: tuple[str, ...] = ()
    boxless: tuple[str, ...] = ()


def check_jobs(config: DictConfig) -> None:
    """Check the settings of every job, where these are known and the launcher does not check all of them itself."""
    if not jobs_are_known(config):
        return
    with before_jobs():
        planned = sweep_of(tuple(config.hydra.overrides.task), searched_by(config.hydra))
        for overrides in [] if _checked_by_launcher(config) else planned.jobs:
            composed = composed_job("eval", config, overrides)
            make_plan(with_preset(composed, overrides), overrides)
    if planned.left_out:
        log.info("your overrides make these rows the same as others: %s", "; ".join(planned.left_out))
    if planned.boxless:
        log.info("no question has a box, so these rows are left out: %s", "; ".join(planned.boxless))
    if planned.experiment is not None:
        log.info("%s: %d evaluations", planned.experiment.title, len(planned.jobs))


def report_sweep(config: DictConfig) -> None:
    """Write and print the report; Hydra would turn what a callback raises into a warning."""
    folder = Path(config.hydra.sweep.dir)
    try:
        with one_line_errors():
            task = tuple(config.hydra.overrides.task)
            planned = sweep_of(task, searched_by(config.hydra)) if jobs_are_known(config) else Sweep([])
            if planned.experiment is None:
                sweep.report(folder, screen())
            else:
                tables.report(folder, planned.experiment, planned.lines, screen())
    except Exception:
        log.exception("the sweep's report failed")
        sys.exit(1)
    try:
        _log(config, folder)
    except Exception as error:  # client libraries raise what they like, and all results are written
        log.warning(
            "the dashboard of the sweep fails: %s: %s", type(error).__name__, " ".join(str(error).split())
        )


@lru_cache(maxsize=2)
def sweep_of(overrides: tuple[str, ...], searched: tuple[str, ...] = ()) -> Sweep:
    """Return the jobs of a multirun with these overrides.

    An experiment's rows are multiplied with whatever else is swept. Jobs that several rows share run once.

    Args:
        searched: of `searched_by`.

    Raises:
        ValueError: the experiment cannot be read, or needs what is not known of the backbone.
    """
    wanted = [text for text in overrides if _key(text) == _EXPERIMENT]
    if not wanted:
        return Sweep(list(jobs_of(overrides)))
    others = [text for text in overrides if _key(text) not in (_EXPERIMENT, _BENCH)]
    chosen = [text for text in overrides if _key(text) == _BENCH]
    if len(list(jobs_of(wanted))) > 1:
        raise UserError(f"{', '.join(wanted)}: one experiment at a time, since each has a table of its own")
    experiment = read_experiment(plain(hydra.compose("eval", [*searched, *wanted[-1:]])[_EXPERIMENT]))
    benches = [job[0].partition("=")[2] for job in jobs_of(chosen[-1:])] if chosen else experiment.bench
    combinations = [_values(job) for job in jobs_of(others)]
    swept = [key for key in combinations[0] if len({values[key] for values in combinations}) > 1]
    jobs: dict[frozenset[str], list[str]] = {}  # by their set of overrides, since rows may share a run
    lines: list[Line] = []
    left_out: list[str] = []
    boxless: list[str] = []
    known = [
        _names(hydra.compose("eval", [*searched, *(f"{key}={value}" for key, value in given.items())]))
        for given in combinations
    ]
    for bench, (given, named) in product(benches, zip(combinations, known, strict=True)):
        suffix = "".join(f", {key}={given[key]}" for key in swept)
        rows, without = lines_of(experiment, bench, given, named, suffix)
        left_out += [f"{name} on {bench}" for name in without]
        by_box = [] if "selector" in given else [line for line in rows if _BY_BOX in line.overrides]
        if by_box and not _has_boxes(bench, given, searched):
            boxless += [f"{line.label} on {bench}" for line in by_box]
            rows = [line for line in rows if line not in by_box]
        lines += rows
        for line in rows:
            jobs.setdefault(frozenset(line.overrides), list(line.overrides))
    return Sweep(list(jobs.values()), experiment, tuple(lines), tuple(left_out), tuple(boxless))


def _has_boxes(bench: str, given: Mapping[str, str], searched: Sequence[str]) -> bool:
    """Whether any question of a benchmark has a box, which selector=box needs; they are read once for all jobs."""
    overrides = [f"bench={bench}", *(f"{key}={value}" for key, value in given.items())]
    config = hydra.compose("eval", [*searched, *overrides])
    check_settings("eval", config, overrides)
    check_values(plain(config, complete=True))
    return any(sample.details.get("box") is not None for sample in questions_of(config, config.limit).samples)


def _names(config: DictConfig) -> Names:
    """What the names in an experiment stand for on the backbone of a config; its depth is read where no table lists it."""
    family = family_of(config)
    if family in LAYER_STUDIES:
        return names(family)
    return names(family, Checkpoint.of(config.model).outline().num_layers)


def _log(config: DictConfig, folder: Path) -> None:
    """Log the sweep as a whole by the logger that its jobs have, unless that was done before."""
    jobs = sweep.read_jobs(folder)
    logger, group = config.logger._target_, folder.name
    digest = short_digest("".join(json.dumps(job.run.result.written()) for job in jobs))
    if already_logged(folder, logger, group, digest):
        return
    board = made("logger", config.logger, Board, folder=str(folder), kind="summary", group=group)
    with board, board.spared():
        log_sweep(board, jobs, folder)
    if board.logger is not None:
        note_logged(folder, logger, group, digest)


def _checked_by_launcher(config: DictConfig) -> bool:
    """Whether the launcher gets all jobs at once, and checks them before it answers any question."""
    hydra_config = config.hydra
    return (
        hydra_config.launcher._target_.endswith(_CHECKING_LAUNCHERS)
        and not hydra_config.sweeper.max_batch_size
    )


def _values(job: Sequence[str]) -> dict[str, str]:
    """Overrides of one job as key -> value; added and deleted keys keep their sign."""
    return {text.partition("=")[0]: text.partition("=")[2] for text in job}


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+")
