"""Answers in one pass over the pictures all jobs of a multirun that ask the same backbone the same questions.

Each job keeps its own folder, with the rows that it would have written alone; then it runs as ever, finds them, and
scores them. So a sweep that is killed anywhere goes on where it was, with this launcher or any other.
"""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf, open_dict

from blink.evaluation.answering.answerers import load_answerer
from blink.evaluation.answering.predict import Task, predict
from blink.evaluation.answering.rows import resume
from blink.evaluation.answering.shares import Settings, sharing
from blink.evaluation.planning.plan import Plan, make_plan, with_processes
from blink.evaluation.planning.settings import POLICY_KEYS
from blink.runs.command import one_line_errors
from blink.runs.config.settings import check_settings, plain
from blink.runs.folder import given_folder, lock_run, open_run, run_folder
from blink.runs.inputs.preset_file import with_preset
from blink.runs.parallel.ahead import ProcessError

log = logging.getLogger(__name__)

_OWN_KEYS = (
    *POLICY_KEYS,
    "method",
    "preset",
    "token_sr",
    "logger",
    "export",
    "export_name",
    "outputs",
    "fresh",
    "wait",
)
"""Keys in which the jobs of one pass may differ; whatever else there is, jobs that differ in it go apart."""


class Pass(NamedTuple):
    """Runs whose questions are answered in one pass over the pictures: overrides, plan, task and settings of each."""

    jobs: list[list[str]]
    plans: list[Plan]
    tasks: list[Task]
    settings: list[Settings]


def answer_together(
    configs: Sequence[DictConfig], elsewhere: Callable[[Sequence[Pass]], None] | None = None
) -> None:
    """Answer the questions of all jobs that share a pass with another; leave the rest to the jobs themselves.

    The folders of all jobs are locked until the scope ends in which this is called. A job with `engine.reuse=none` shares nothing. The settings of all jobs are checked before anything is done.

    Args:
        configs: the composed config of each job, Hydra's own part included.
        elsewhere: answers the questions of all passes by other means, those of a single job and of one with
            `engine.reuse=none` included; None: they are answered here.
    """
    passes: dict[str, dict[Path, tuple[list[str], Plan, Task, Settings]]] = {}
    answered: list[int] = []
    with one_line_errors():
        jobs = [
            (of_the_job(config), list(config.hydra.overrides.task), given_folder(config.hydra))
            for config in configs
        ]
        for config, overrides, _ in jobs:
            check_settings("eval", config, overrides)
        jobs = [(with_preset(config, overrides), overrides, given) for config, overrides, given in jobs]
        plans = [make_plan(config, overrides) for config, overrides, _ in jobs]
        # all, in one order, before any is opened: two sweeps that share jobs must not wait for each other
        for job in sorted(jobs, key=lambda job: run_folder(Path(job[0].outputs), "eval", *job[1:]).resolve()):
            lock_run(Path(job[0].outputs), "eval", *job[1:], wait=job[0].wait)
        for plan, (config, overrides, given) in zip(plans, jobs, strict=True):
            root, settings = Path(config.outputs), plain(config)
            folder = open_run(root, "eval", overrides, settings, fresh=config.fresh, given=given)
            rows = resume(folder, plan.samples, inputs=plan.inputs)
            answered.append(len(rows))
            shares = plan.reuse == "full"
            if (shares or elsewhere is not None) and len(rows) < len(plan.samples):
                with_processes(plan, folder, finished=False)
                of_pass = passes.setdefault(_shared(config) if shares else str(folder), {})
                of_pass[folder] = (overrides, plan, Task(folder, rows), Settings(settings, overrides))
    for line in _announced([overrides for _, overrides, _ in jobs], plans, answered):
        log.info("%s", line)
    with one_line_errors(ProcessError):
        found = [Pass(*map(list, zip(*runs.values(), strict=True))) for runs in passes.values()]
        if elsewhere is not None:
            elsewhere(found)
            return
        for one in found:
            if len(one.tasks) > 1:
                _answer(one.plans, one.tasks, one.settings)


def _announced(jobs: Sequence[Sequence[str]], plans: Sequence[Plan], answered: Sequence[int]) -> list[str]:
    """What is about to be run: the questions, and the points of the multirun by the overrides in which they differ."""
    values = [dict(override.partition("=")[::2] for override in overrides) for overrides in jobs]
    keys = list(dict.fromkeys(key for job in values for key in job))
    differing = [key for key in keys if len({job.get(key) for job in values}) > 1]
    asked: dict[str, list[str]] = {}
    for number, (job, plan, rows) in enumerate(zip(values, plans, answered, strict=True), start=1):
        count = len(plan.samples)
        where = f"{plan.benchmark.title} on {plan.setup.backbone}, {plan.setup.data}, {count:,} questions"
        named = " ".join(f"{key}={job[key]}" for key in differing if key in job) or str(plan.setup.method)
        done = "" if not rows else " (answered before)" if rows == count else f" ({rows:,} answered before)"
        asked.setdefault(where, []).append(f"  {number} of {len(jobs)}: {named}{done}")
    return [line for where, lines in asked.items() for line in (where, *lines)]


def without_fresh(overrides: Sequence[str]) -> list[str]:
    """A job's overrides for when it runs: `fresh=true` began a new run before its questions were answered."""
    return ["fresh=false" if override.startswith("fresh=") else override for override in overrides]


def _answer(plans: Sequence[Plan], tasks: Sequence[Task], settings: Sequence[Settings]) -> None:
    """Answer the questions of jobs that share a pass."""
    first = plans[0]
    log.info("%d runs over %d questions in one pass", len(tasks), len(first.samples))
    predict(
        first.benchmark, first.samples, tasks, lambda: load_answerer(plans), sharing=sharing(plans, settings)
    )


def of_the_job(config: DictConfig) -> DictConfig:
    """A composed config without Hydra's own part, as the job's function gets it."""
    copied = config.copy()
    with open_dict(copied):
        del copied["hydra"]
    OmegaConf.set_readonly(copied, False)
    return copied


def _shared(config: DictConfig) -> str:
    """The settings that jobs of one pass have in common, as a key."""
    settings: dict[str, Any] = {key: value for key, value in plain(config).items() if key not in _OWN_KEYS}
    return json.dumps(settings, sort_keys=True)
