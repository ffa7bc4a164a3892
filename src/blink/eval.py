"""`python -m blink.eval`: answer a benchmark with a backbone, score it, and report sweeps.

Thin: it reads the config, has all of it checked before any weight is read, and hands flat arguments on.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig

from blink import sweep, tracking
from blink.checkpoints import load_processor
from blink.compare import read_run, score_table, screen
from blink.evaluate import SCORES, evaluate, resume
from blink.figures import example
from blink.keys import hydra_command
from blink.outputs import one_line_errors, open_run, whole_file
from blink.plan import Plan, load_answerer, make_plan, plain
from blink.views import ViewMaker

log = logging.getLogger(__name__)

EXAMPLE = "example.png"


@hydra_command("eval")
def main(config: DictConfig) -> float | None:
    """Run one evaluation, or return it if it was finished before.

    Returns:
        Its main metric, which sweepers that search take as what to maximize; None if it has none.
    """
    job = HydraConfig.get()
    overrides = list(job.overrides.task)
    with one_line_errors():
        plan = make_plan(config, overrides)
        folder = open_run(Path(config.outputs), "eval", overrides, plain(config), fresh=config.fresh)
        rows = resume(folder, plan.samples, inputs=plan.inputs)
        finished = len(rows) == len(plan.samples) and (folder / SCORES).exists()
        logger = None if finished else instantiate(config.logger, folder=str(folder))
    log.info("%s: %d questions, files in %s", plan.about["method"], len(plan.samples), folder)
    try:
        result = evaluate(
            plan.benchmark,
            plan.samples,
            rows,
            lambda: load_answerer([plan]),
            folder,
            about=plan.about,
            edition=plan.edition,
        )
        if logger is not None:
            logger.log_hyperparams(plain(config) | plan.about)
            logger.log_metrics(_numbers(result))
            logger.save()
    finally:
        tracking.close(logger)
    if not (folder / EXAMPLE).exists():
        _draw_example(plan, folder)
    for warning in result["warnings"]:
        log.warning("%s", warning)
    if job.mode == RunMode.MULTIRUN:
        sweep.note_job(Path(job.sweep.dir), job.job.num, overrides, folder)
    else:
        console = screen()
        console.print(score_table([read_run(folder)]))
        console.print(f"written to {folder}", soft_wrap=True)
    return next((float(result["metrics"][name]) for name in result["headline"]), None)


def _draw_example(plan: Plan, folder: Path) -> None:
    """Draw one answer into the run folder."""
    backbone = plan.backbone
    seen = ViewMaker(load_processor(backbone.path, revision=backbone.revision, pad=backbone.pad)).seen
    picture = example(plan.samples, read_run(folder).rows(), plan.policy, seen)
    with whole_file(folder / EXAMPLE) as partial:
        picture.save(partial, "png")


def _numbers(result: Mapping[str, Any]) -> dict[str, float]:
    """What of a result is a number, for a logger."""
    costs = ("n", "expanded", "flops", "seconds", "questions_per_second", "peak_memory_mb")
    return result["metrics"] | {key: result[key] for key in costs if result[key] is not None}


if __name__ == "__main__":
    # Run the module under its own name: Hydra imports the callback from there, and both share what was read.
    from blink.eval import main as command

    command()
