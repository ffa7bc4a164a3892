"""The passes of a multirun by jobs elsewhere: each answers a share of a pass's pictures, for all of its runs.

Whichever launcher starts the jobs (Slurm, processes of this machine, ...), they need the same files as the command that
starts them, under the same names. A job writes into `shares/2-of-4/` below the folder of each run; the command then puts the
rows into the runs' own files, in the order of the questions, and removes that folder. What a killed job has written is kept:
the command given again answers the rest.
"""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from blink.bench.base import Row, Sample
from blink.evaluation.answering.answerers import load_answerer
from blink.evaluation.answering.predict import Task, predict
from blink.evaluation.answering.rows import PREDICTIONS, SHARES, drop_shares, pictures, readable_rows
from blink.evaluation.answering.shares import Settings, sharing
from blink.evaluation.answering.timing import read_timing, write_timing
from blink.evaluation.planning.plan import make_plan
from blink.evaluation.planning.questions import samples_digest
from blink.evaluation.sweeps.one_pass import Pass, of_the_job
from blink.runs.config.settings import plain
from blink.runs.files import append_text, json_lines
from blink.runs.inputs.preset_file import with_preset
from blink.runs.lock import lock_scope
from blink.runs.values import UserError

log = logging.getLogger(__name__)


class Share(NamedTuple):
    """What one job is to do.

    Attributes:
        name: of the job.
        number, shares: which of how many; of the pictures each takes every `shares`-th.
        jobs: overrides of each run of the pass, whose job in the multirun it is.
        folders: of each run.
        inputs: what each run's answers depend on, by which a job notices that it finds other files.
    """

    name: str
    number: int
    shares: int
    jobs: list[list[str]]
    folders: list[str]
    inputs: list[dict[str, Any]]

    def folder(self, run: str) -> Path:
        """Where the rows of a run lie that this share is for."""
        return Path(run) / SHARES / f"{self.number + 1}-of-{self.shares}"

    def samples(self, samples: Sequence[Sample]) -> list[Sample]:
        """Its samples, those about one picture together."""
        batches = [batch for _, batch in pictures(samples)]
        return [sample for batch in batches[self.number :: self.shares] for sample in batch]


class OneOfSeveral:
    """A command's function, for jobs that a launcher starts as several processes each, or in a program of its own.

    Args:
        module: that the command is, such as "blink.train": Lightning starts further processes of a job by the name of the
            program that runs, which is the launcher's there.
        task: the function, of a job's config.
    """

    def __init__(self, module: str, task: Callable[[DictConfig], Any]) -> None:
        self._module, self._task = module, task

    def __call__(self, config: DictConfig) -> Any:
        """Run the job; processes of one job on the same machine find each other by submitit's names for them."""
        with suppress(ImportError, RuntimeError):  # of another launcher, or not a job of submitit's
            import submitit

            job = submitit.JobEnvironment()
            if job.num_tasks > 1 and "SLURM_JOB_ID" not in os.environ:
                submitit.helpers.TorchDistributedEnvironment().export()
        program: Any = sys.modules["__main__"]
        program.__spec__ = find_spec(self._module)
        with lock_scope():
            return self._task(config)


class ShareTask:
    """What a job runs: the share that its name says. Made by the command, and sent to all jobs.

    Args:
        loader, config: Hydra's loader and the sweep's config, of which the configs of single runs are composed.
        shares: of all jobs.
    """

    def __init__(self, loader: Any, config: DictConfig, shares: Sequence[Share]) -> None:
        self._loader, self._config = loader, config
        self._shares = {share.name: share for share in shares}

    def __call__(self, _: DictConfig) -> None:
        """Answer the share; the argument, the config of a job, is that of one of its runs."""
        share = self._shares[HydraConfig.get().job.name]
        configs = [self._loader.load_sweep_config(self._config, list(job)) for job in share.jobs]
        with lock_scope():
            answer_share(configs, share)


def answer_elsewhere(
    passes: Sequence[Pass], shares: int, launch: Callable[[Sequence[Share]], object]
) -> None:
    """Have all passes answered by jobs elsewhere, and put their rows into the runs' own files.

    Args:
        passes: with something left to answer, each.
        shares: jobs per pass, at most one per picture.
        launch: starts a job for each share and waits for all.

    Raises:
        ValueError: a job has ended without an error and without all its answers.
        Exception: the first error of a job; what the others have answered is kept.
    """
    todo: list[list[Share]] = []
    for number, (jobs, plans, tasks, _) in enumerate(passes):
        count = min(shares, sum(1 for _ in pictures(plans[0].samples)))
        todo.append(
            [
                Share(
                    f"blink_eval_{number + 1}_{share + 1}_of_{count}",
                    share,
                    count,
                    [list(job) for job in jobs],
                    [str(task.folder.resolve()) for task in tasks],
                    [{**plan.inputs, "samples": samples_digest(plan.samples)} for plan in plans],
                )
                for share in range(count)
            ]
        )
    runs = sum(len(one.tasks) for one in passes)
    log.info("%d runs in %d passes by %d jobs", runs, len(passes), sum(map(len, todo)))
    try:
        launch([share for of_pass in todo for share in of_pass])
    finally:
        for one, of_pass in zip(passes, todo, strict=True):
            for plan, task in zip(one.plans, one.tasks, strict=True):
                merge(plan.samples, task, of_pass)
    for one in passes:
        for plan, task in zip(one.plans, one.tasks, strict=True):
            if len(task.rows) < len(plan.samples):
                raise UserError(
                    f"{task.folder}: {len(task.rows)} of {len(plan.samples)} questions are answered, though no job failed; "
                    "the jobs have to see the same files as this command, under the same names"
                )


def answer_share(configs: Sequence[DictConfig], share: Share) -> None:
    """Answer a share, in a job; goes on where an earlier job of the same share stopped.

    Args:
        configs: of its runs, Hydra's part included.

    Raises:
        ValueError: questions, pictures, modules or backbone are not those that the command found.
    """
    plans, settings = [], []
    for config, job in zip(configs, share.jobs, strict=True):
        composed = with_preset(of_the_job(config), job)
        plans.append(make_plan(composed, job))
        settings.append(Settings(plain(composed), job))
    for plan, expected in zip(plans, share.inputs, strict=True):
        found = {**plan.inputs, "samples": samples_digest(plan.samples)}
        differing = [key for key in expected if found.get(key) != expected[key]]
        if differing:
            raise UserError(
                f"{share.name} finds another {', '.join(differing)} than the command that started it; they need the same files"
            )
    samples = share.samples(plans[0].samples)
    tasks = [Task(share.folder(folder), _answered(samples, folder, share)) for folder in share.folders]
    predict(
        plans[0].benchmark, samples, tasks, lambda: load_answerer(plans), sharing=sharing(plans, settings)
    )


def merge(samples: Sequence[Sample], task: Task, shares: Sequence[Share]) -> None:
    """Put what shares of a run hold into its own files, up to the first question that is not answered; once all are, the shares go."""
    folders = [share.folder(str(task.folder)) for share in shares]
    found = {row["id"]: row for folder in folders for row in _rows(folder)}
    new: list[Row] = []
    for sample in samples[len(task.rows) :]:
        if sample.id not in found:
            break
        new.append(found[sample.id])
    if len(task.rows) + len(new) < len(samples):
        return  # the shares go on where they are
    # beside the shares before the rows, so that a kill in between neither loses it nor adds it twice
    write_timing(task.folder / SHARES, [read_timing(folder) for folder in (task.folder, *folders)])
    append_text(task.folder / PREDICTIONS, json_lines(new))
    task.rows.extend(new)
    drop_shares(task.folder)


def _answered(samples: Sequence[Sample], run: str, share: Share) -> list[Row]:
    """The rows of a share that its run holds, or an earlier job of it; whole pictures from the first one on."""
    folder = share.folder(run)
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {sample.id for sample in samples}
    before = [row for row in _rows(Path(run)) if row["id"] in wanted]
    rows = [*before, *_rows(folder)]
    ends = (first + len(batch) for first, batch in pictures(samples))
    whole = max((end for end in ends if end <= len(rows)), default=0)
    same = [row["id"] for row in rows[:whole]] == [sample.id for sample in samples[:whole]]
    kept = rows[:whole] if same else before
    (folder / PREDICTIONS).write_text(json_lines(kept[len(before) :]), encoding="utf-8")
    return kept


def _rows(folder: Path) -> list[Row]:
    path = folder / PREDICTIONS
    return readable_rows(path, path.read_bytes().split(b"\n")[:-1]) if path.exists() else []
