"""Hydra's hooks for multiruns: sweeper, launchers and callbacks, named in `conf/`.

Hydra finds plugins in packages called `hydra_plugins` alone, and imports them at the start of every command. So these
classes are thin and this file imports nothing heavy; the work is done in `blink.evaluation.sweeps`.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import HydraContext
from omegaconf import DictConfig

_ELSEWHERE = ("SlurmLauncher", "RayLauncher")
"""Launchers whose jobs run on other machines, of which nothing is known here."""


class OwnLaunchers(SearchPathPlugin):
    """Lets our files of launchers stand where other plugins have registered settings under the same names.

    Hydra would take those for the schema of our files, which wrap the other plugins' launchers. Other programs, to which
    Hydra shows this plugin as well, keep them.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called once all plugins are known, and before a config is composed."""
        for part in search_path.get_path():
            folder = Path(str(part.path).removeprefix("file://")) / "hydra" / "launcher"
            if part.provider == "main" and (folder / "one_pass.yaml").is_file():
                launchers: Any = ConfigStore.instance().repo.get("hydra", {}).get("launcher", {})
                for file in folder.glob("*.yaml"):
                    launchers.pop(file.name, None)


class LockCallback(Callback):
    """Locks the folder of a multirun while its jobs run; each of them locks its own. Notes the command there."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Lock the folder until the command ends; its name may not say all of the command, which `provenance.json` does."""
        from blink.runs.command import one_line_errors
        from blink.runs.files import make_folder
        from blink.runs.lock import lock
        from blink.runs.provenance import note_process, provenance
        from blink.runs.values import flag

        folder, hydra = Path(config.hydra.sweep.dir), config.hydra
        with one_line_errors():  # Hydra would turn what a callback raises into a warning
            lock(folder, wait=flag("wait", config.wait))
            make_folder(folder)
            note_process(folder, provenance(hydra.job.config_name, [*hydra.overrides.task, "--multirun"]))


@contextmanager
def _without_notes() -> Iterator[None]:
    """Context in which nothing is logged: each job will say the same when it runs."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


class JobsCallback(Callback):
    """Checks every job of a multirun before the first one starts, where it is known which there will be."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Have each job's settings checked by `check_job` of its command."""
        from blink.runs.command import before_jobs
        from blink.runs.config.settings import composed_job, jobs_are_known, jobs_of

        command = config.hydra.job.config_name
        if not jobs_are_known(config):
            return
        with before_jobs(), _without_notes():
            check: Any = import_module(f"blink.{command}").check_job
            here = not str(config.hydra.launcher.get("through", "")).endswith(_ELSEWHERE)
            for overrides in jobs_of(list(config.hydra.overrides.task)):
                check(composed_job(command, config, overrides), overrides, here=here)


class SweepCallback(Callback):
    """Checks every job of a multirun before the first one starts, and reports after the last one."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the settings of every job."""
        from blink.evaluation.sweeps.multirun import check_jobs

        check_jobs(config)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write and print the report."""
        from blink.evaluation.sweeps.multirun import report_sweep

        report_sweep(config)


class RowSweeper(BasicSweeper):
    """Runs the product of the swept values; with experiment= the rows of the experiment's table on each benchmark."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Nothing: `SweepCallback` or the launcher has composed and checked every job."""

    def split_arguments(  # Hydra calls it by the instance, whose config tells more
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        """Return the jobs in batches, each job a list of overrides."""
        from blink.evaluation.sweeps.multirun import searched_by, sweep_of

        assert self.config is not None, "Hydra sets a sweeper up before it runs"
        given = tuple(str(override.input_line) for override in overrides)
        jobs = sweep_of(given, searched_by(self.config.hydra)).jobs
        return list(BasicSweeper.split_overrides_to_chunks(jobs, max_batch_size))


class OnePassLauncher(BasicLauncher):
    """Hydra's own launcher, once the questions of all its jobs are answered in one pass over the pictures."""

    hydra_context: HydraContext | None
    elsewhere: Any = None  # as `answer_together` takes it

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Answer, then run the jobs one after another: each finds its answers and scores them."""
        from blink.evaluation.sweeps.one_pass import answer_together, without_fresh
        from blink.runs.command import end
        from blink.runs.lock import lock_scope

        context = self.hydra_context
        assert context is not None, "Hydra sets a launcher up before it launches"
        folder = Path(
            self.config.hydra.sweep.dir
        )  # resolved here, or each job would name a sweep after itself
        folder.mkdir(parents=True, exist_ok=True)
        try:
            configs = [
                context.config_loader.load_sweep_config(self.config, list(job)) for job in job_overrides
            ]
        except HydraException as error:
            end(f"error: {error}")
        with lock_scope():
            answer_together(configs, self.elsewhere)
            composed = _Composed(context.config_loader, job_overrides, configs)
            self.hydra_context = HydraContext(composed, context.callbacks)
            told = logging.getLogger(BasicLauncher.__module__)
            told.setLevel(logging.WARNING)  # it names the jobs once more, which were named before the pass
            try:
                returned: Sequence[JobReturn] = super().launch(
                    [without_fresh(job) for job in job_overrides], initial_job_idx
                )
            finally:
                self.hydra_context = context
                told.setLevel(logging.NOTSET)
        return returned


class RemoteLauncher(OnePassLauncher):
    """Starts jobs by another launcher: each trains one run, or answers a share of a pass over the pictures.

    Args:
        through: class of the launcher that starts them.
        extra: of the project, with which it is installed.
        shares: of an evaluation, jobs that each pass is split into.
        settings: of the other launcher.
    """

    def __init__(self, through: str, extra: str, shares: int = 1, **settings: Any) -> None:
        super().__init__()
        self._through, self._extra, self._shares, self._settings = through, extra, shares, settings

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Launch trainings as they are; evaluations once their questions are answered, which is what other jobs do."""
        from blink.evaluation.sweeps.remote import OneOfSeveral
        from blink.runs.command import one_line_errors
        from blink.runs.values import whole_number

        assert self.config is not None, "Hydra sets a launcher up before it launches"
        Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)  # resolved here, as above
        command = str(self.config.hydra.job.config_name)
        with one_line_errors():
            whole_number("hydra.launcher.shares", self._shares)
            self._check_processes(command)
            self._launcher(None)  # refused before anything is done
        if command == "eval":
            return super().launch(job_overrides, initial_job_idx)
        assert self.task_function is not None
        module = f"blink.{command}"
        launcher = self._launcher(OneOfSeveral(module, self.task_function))
        returned: Sequence[JobReturn] = launcher.launch(job_overrides, initial_job_idx)
        return returned

    def _check_processes(self, command: str) -> None:
        """Check that one process starts jobs, and that those but trainings are one process each.

        Raises:
            UserError: otherwise several would do the same in the same folder.
        """
        from blink.runs.machine import launched_processes
        from blink.runs.values import UserError

        launched = launched_processes()
        if launched > 1:
            raise UserError(
                f"hydra/launcher: {launched} processes were started, by torchrun or alike, and one is to start the jobs: "
                "leave out torchrun or hydra/launcher="
            )
        for key in ("tasks_per_node", "nodes"):
            count = self._settings.get(key)
            if command != "train" and count not in (None, 1):
                raise UserError(
                    f"hydra.launcher.{key}={count}: expected 1, as several processes share out jobs of blink.train alone"
                )

    def elsewhere(self, passes: Any) -> None:
        """Answer passes by jobs of the other launcher."""
        from blink.evaluation.sweeps.remote import ShareTask, answer_elsewhere

        assert self.hydra_context is not None

        def start(shares: Any) -> None:
            loader = self.hydra_context.config_loader  # type: ignore[union-attr]
            launcher = self._launcher(ShareTask(loader, self.config, shares))
            named = [[*share.jobs[0], f"hydra.job.name={share.name}"] for share in shares]
            for job in launcher.launch(named, 0):
                job.return_value  # noqa: B018 (raises what the job has raised)

        answer_elsewhere(passes, self._shares, start)

    def _launcher(self, task: Any) -> Any:
        """The other launcher, for jobs that run a function.

        Raises:
            UserError: it is not installed.
        """
        from blink.runs.values import UserError

        module, _, name = str(self._through).rpartition(".")
        try:
            kind: Any = getattr(import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise UserError(
                f"hydra/launcher: {self._through} is not installed; pip install 'blink-mllm[{self._extra}]'"
            ) from error
        launcher = kind(**self._settings)
        launcher.setup(hydra_context=self.hydra_context, task_function=task, config=self.config)
        return launcher


class _Composed:
    """A config loader that has the configs of some jobs already: composing one takes Hydra a fifth of a second."""

    def __init__(self, loader: Any, jobs: Sequence[Sequence[str]], configs: Sequence[DictConfig]) -> None:
        self._loader = loader
        self._known = {tuple(job): config for job, config in zip(jobs, configs, strict=True)}

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """The config of a job; each is given away once, since whoever runs a job writes into it."""
        known = self._known.pop(tuple(sweep_overrides), None)
        if known is not None:
            return known
        composed: DictConfig = self._loader.load_sweep_config(master_config, sweep_overrides)
        return composed
