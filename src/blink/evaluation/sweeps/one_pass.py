"""Answers in one pass over the pictures all jobs of a multirun that ask the same backbone the same questions.

Each job keeps its own folder, with the rows that it would have written alone; then it runs as ever, finds them, and
scores them. So a sweep that is killed anywhere goes on where it was, with this launcher or any other.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from blink.evaluation.answerers import load_answerer
from blink.evaluation.plan import POLICY_KEYS, Plan, make_plan, with_processes
from blink.evaluation.predict import Task, predict
from blink.evaluation.rows import resume
from blink.runs.command import one_line_errors, plain
from blink.runs.folder import given_folder, lock_run, open_run, run_folder
from blink.runs.inputs.preset_file import with_preset
from blink.runs.settings import check_settings

log = logging.getLogger(__name__)

_OWN_KEYS = (*POLICY_KEYS, "method", "preset", "token_sr", "logger", "outputs", "fresh", "wait")
"""Keys in which the jobs of one pass may differ; whatever else there is, jobs that differ in it go apart."""


def answer_together(configs: Sequence[DictConfig]) -> None:
    """Answer the questions of all jobs that share a pass with another; leave the rest to the jobs themselves.

    The folders of all jobs are locked until the scope ends in which this is called. A job with `engine.reuse=none` shares nothing. The settings of all jobs are checked before anything is done.

    Args:
        configs: the composed config of each job, Hydra's own part included.
    """
    passes: dict[str, dict[Path, tuple[Plan, Task]]] = {}
    with one_line_errors():
        jobs = [
            (_of_the_job(config), list(config.hydra.overrides.task), given_folder(config.hydra))
            for config in configs
        ]
        for config, _, _ in jobs:
            check_settings("eval", config)
        jobs = [(with_preset(config, overrides), overrides, given) for config, overrides, given in jobs]
        plans = [make_plan(config, overrides) for config, overrides, _ in jobs]
        # all, in one order, before any is opened: two sweeps that share jobs must not wait for each other
        for job in sorted(jobs, key=lambda job: run_folder(Path(job[0].outputs), "eval", *job[1:]).resolve()):
            lock_run(Path(job[0].outputs), "eval", *job[1:], wait=job[0].wait)
        for plan, (config, overrides, given) in zip(plans, jobs, strict=True):
            root, settings = Path(config.outputs), plain(config)
            folder = open_run(root, "eval", overrides, settings, fresh=config.fresh, given=given)
            rows = resume(folder, plan.samples, inputs=plan.inputs)
            if plan.reuse == "full" and len(rows) < len(plan.samples):
                with_processes(plan, folder, finished=False)
                passes.setdefault(_shared(config), {})[folder] = (plan, Task(folder, rows))
    with one_line_errors():
        for together in passes.values():
            if len(together) > 1:
                _answer(*zip(*together.values(), strict=True))


def without_fresh(overrides: Sequence[str]) -> list[str]:
    """A job's overrides for when it runs: `fresh=true` began a new run before its questions were answered."""
    return ["fresh=false" if override.startswith("fresh=") else override for override in overrides]


def _answer(plans: Sequence[Plan], tasks: Sequence[Task]) -> None:
    """Answer the questions of jobs that share a pass."""
    first = plans[0]
    log.info("%d runs over %d questions in one pass", len(tasks), len(first.samples))
    predict(first.benchmark, first.samples, tasks, lambda: load_answerer(plans))


def _of_the_job(config: DictConfig) -> DictConfig:
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
