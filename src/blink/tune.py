"""`python -m blink.tune`: layers and thresholds for a backbone that nobody has a preset for.

Thin: it reads the config, has all of it checked before any weight is read, and puts the steps together: the look, the
search, the finalists, the choice, the report. Heavy imports wait until they are needed, so that `--help` is quick.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from blink.runs.command import Job, hydra_command, one_line_errors
from blink.runs.config.settings import plain
from blink.runs.provenance import note_process, provenance

if TYPE_CHECKING:
    from blink.evaluation.tuning.passes import Passes
    from blink.evaluation.tuning.report import Found

log = logging.getLogger("blink.tune")  # not __main__, which `python -m` calls it


def serve() -> None:
    """What processes but the first do, where torchrun has started several."""
    from blink.evaluation.tuning.passes import serve_first

    serve_first()


@hydra_command("tune", further=serve)
def main(config: DictConfig, job: Job) -> float:
    """Search, or go on with a search, or return one.

    Returns:
        What the chosen setting gains over the backbone as it is on held-out questions, in percentage points.
    """
    from blink.evaluation.answering.shares import Settings
    from blink.evaluation.compare import screen
    from blink.evaluation.planning.questions import samples_digest
    from blink.evaluation.tuning.passes import Passes
    from blink.evaluation.tuning.plan import benches_of, make_plan
    from blink.evaluation.tuning.report import write_report
    from blink.runs.parallel.ahead import ProcessError

    plan = make_plan(config, job.overrides)
    benches = [plain(bench) for bench in benches_of(config, job.overrides)]
    folder = job.open_folder(config, bench=benches)
    for warning in plan.warnings:
        log.warning("%s", warning)
    samples = [sample for asked in plan.asked for sample in (*asked.search, *asked.held_out)]
    record = provenance(
        "tune", job.overrides, seed=plan.seed, inputs={**plan.inputs, "samples": samples_digest(samples)}
    )
    note_process(folder, record)
    with one_line_errors(ProcessError):
        found = _searched(Passes(plan, Settings(plain(config), job.overrides)), folder)
    files = write_report(plan, found, folder, record)
    console = screen()
    console.print(found.choice.reason, soft_wrap=True)
    for file in files:
        console.print(str(file), soft_wrap=True)
    return found.choice.chosen.gain.value


def check_job(config: DictConfig, overrides: list[str], *, here: bool) -> None:
    """Check a job of a multirun, its questions among the rest, but no weights; wherever it will run.

    Raises:
        UserError: something does not fit.
    """
    from blink.evaluation.tuning.plan import make_plan

    make_plan(config, overrides)


def _searched(passes: Passes, folder: Path) -> Found:
    """Go through the steps of a search; what is answered already is read."""
    from blink.evaluation.tuning.look import look_at, look_settings
    from blink.evaluation.tuning.measure import Measurer
    from blink.evaluation.tuning.plan import HELD_OUT, SEARCH
    from blink.evaluation.tuning.report import Found
    from blink.evaluation.tuning.rule import choose, pick_finalists
    from blink.evaluation.tuning.search import distinct, search
    from blink.evaluation.tuning.space import VANILLA

    plan, measure = passes.plan, Measurer(passes, folder)
    looking = look_settings(plan.space)
    log.info("looking at %d layers", len(plan.space.layers))
    rows = measure.rows([VANILLA, *looking], SEARCH)  # what never acts answers as vanilla: one pass
    [vanilla] = measure([VANILLA], SEARCH)
    samples = [sample for asked in plan.asked for sample in asked.search]
    seen = [[row for of_bench in rows for row in of_bench[number]] for number in range(1, len(looking) + 1)]
    looks = look_at(looking, seen, samples, plan.backbone.views())
    first = looks[plan.space.patches[0]]
    trials = search(
        plan.space,
        {patches: look.ratio_NL for patches, look in looks.items()},
        first.order(),
        lambda settings: measure(settings, SEARCH),
        trials=plan.trials,
        batch=plan.batch,
        seed=plan.seed,
    )
    finalists = pick_finalists(distinct(trials), vanilla, plan.finalists)
    log.info("measuring %d finalists on held-out questions", len(finalists))
    vanilla_held_out, *held_out = measure([VANILLA, *(one.setting for one in finalists)], HELD_OUT)
    choice = choose(finalists, held_out, vanilla_held_out)
    return Found(looks, trials, vanilla, vanilla_held_out, choice)


if __name__ == "__main__":
    main()
