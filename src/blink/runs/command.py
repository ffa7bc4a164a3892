"""The Hydra commands: what they do beside `hydra.main`, and mistakes in one line.

Knows nothing of models or training, and imports neither torch nor Lightning.
"""

import logging
import os
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from blink.runs.config.groups import CONF_DIR, as_typed
from blink.runs.config.overrides import check_overrides
from blink.runs.config.settings import check_settings, plain
from blink.runs.files import is_wrong_place, place_error
from blink.runs.folder import given_folder, open_run
from blink.runs.lock import lock_scope
from blink.runs.machine import RANK_VARIABLES, is_first_process, keep_freed_memory, launched_processes
from blink.runs.signals import Stopped, ending_on_signals
from blink.runs.values import UserError

log = logging.getLogger(__name__)

FAILURE, MISTAKE = 1, 2
"""Exit codes of commands that end with one line: because of something outside, or of what the user gave."""


@dataclass(frozen=True)
class Job:
    """What a command knows of its run beside the composed config.

    Attributes:
        command: "eval", for instance.
        overrides: of the run; in a multirun those of this job.
        given: the run's folder, where the user names it by Hydra's own keys; None where it lies below `outputs`.
        sweep: folder of the multirun that this is a job of; None where there is one run alone.
        number: of the job in its multirun, from 0.
    """

    command: str
    overrides: list[str]
    given: Path | None
    sweep: Path | None
    number: int

    @classmethod
    def now(cls, command: str) -> "Job":
        """The job that Hydra runs now."""
        hydra_config = HydraConfig.get()
        several = hydra_config.mode == RunMode.MULTIRUN
        return cls(
            command,
            list(hydra_config.overrides.task),
            given_folder(hydra_config),
            Path(hydra_config.sweep.dir) if several else None,
            hydra_config.job.num if several else 0,
        )

    def open_folder(self, config: DictConfig, **settings: Any) -> Path:
        """Open the run's folder as `open_run` does, which names the errors.

        Args:
            config: of the run; its `outputs`, `fresh` and `wait` count.
            settings: of the config that is saved there, in place of those in `config`.
        """
        return open_run(
            Path(config.outputs),
            self.command,
            self.overrides,
            plain(config) | settings,
            fresh=config.fresh,
            wait=config.wait,
            given=self.given,
        )

    def refuse_several(self, why: str) -> None:
        """Refuse to be a job of a multirun.

        Raises:
            UserError: it is one.
        """
        if self.sweep is not None:
            raise UserError(f"--multirun: {why}")


def check_installed(extra: str, *modules: str) -> None:
    """Import the modules that an extra of this package brings.

    Raises:
        UserError: one is missing; says what installs it.
    """
    try:
        for name in modules:
            import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is missing: pip install 'blink-mllm[{extra}]'") from error


def refuse_several_processes(name: str) -> None:
    """Refuse to be one of several processes of a command that is for one, as each would write the same files.

    Args:
        name: of the command, "analyze" for instance.

    Raises:
        UserError: torchrun, srun or alike has started several.
    """
    if launched_processes() > 1 or not is_first_process():
        given = [f"{key}={os.environ[key]}" for key in (*RANK_VARIABLES, "WORLD_SIZE") if key in os.environ]
        raise UserError(
            as_typed(
                f"python -m blink.{name} works in one process, and this is one of several ({', '.join(given)}): start it "
                "without torchrun or srun"
            )
        )


def hydra_command(
    name: str, further: Callable[[], None] | None = None, *, together: bool = False
) -> Callable[[Callable[[DictConfig, Job], Any]], Callable[[], None]]:
    """Make a function of a composed config and its job a command: `hydra.main`, with names of keys checked before, and
    `one_line_errors`.

    Heavy imports belong inside that function: `--help`, `--cfg` and tab completion do not call it.

    Args:
        name: of the config in `conf/`, "train" for instance.
        further: what processes but the first do in place of the command, where torchrun has started several.
        together: whether all of several processes do the same. With neither, several are refused.
    """

    def decorate(task: Callable[[DictConfig, Job], Any]) -> Callable[[], None]:
        @wraps(task)
        def run_job(config: DictConfig) -> Any:
            job = Job.now(name)
            try:
                with one_line_errors(), lock_scope():
                    check_settings(name, config, job.overrides)
                    return task(config, job)
            except Stopped as stopped:
                if job.sweep is not None:
                    before = f"{stopped.reached}, " if stopped.reached else ""
                    stopped.reached = f"{before}in job {job.number + 1} of the multirun"
                raise
            finally:
                if job.given is not None:
                    # Hydra made it before anything was checked: nothing stays there empty
                    with suppress(OSError):
                        job.given.rmdir()

        run = hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=name)(run_job)

        @wraps(run_job)
        def command() -> None:
            keep_freed_memory()
            if further is None and not together:
                with one_line_errors():
                    refuse_several_processes(name)
            if further is not None and not is_first_process():
                further()
                return
            sys.argv[1:] = _multirun_last(sys.argv[1:])
            given = get_args(sys.argv[1:])  # parsed as Hydra will parse them
            with one_line_errors():
                _check_own_options(given)
            if given.shell_completion:
                _name_console_script(name)
            elif not (given.config_path or given.config_name or given.config_dir):  # of our config only
                with one_line_errors():
                    check_overrides(name, given.overrides, multirun=given.multirun)
            with ending_on_signals(), nullcontext() if further is None else _team_scope(), lock_scope():
                run()

        return command

    return decorate


def _check_own_options(given: Namespace) -> None:
    """Check Hydra's own options that name files and folders.

    Raises:
        UserError: one names none.
    """
    if given.experimental_rerun is not None:
        raise UserError(
            "--experimental-rerun repeats what Hydra has noted, and no run has such notes; rerun=FOLDER repeats an evaluation"
        )
    for option, folder in (("--config-dir", given.config_dir), ("--config-path", given.config_path)):
        if folder is not None and not Path(folder).is_dir():
            raise UserError(f"{option} {folder}: expected a folder of configs, and there is none")
    if given.config_path is not None and not Path(given.config_path).is_absolute():
        raise UserError(f"--config-path {given.config_path}: expected the whole path, from / on")
    name = given.config_name
    folders = [Path(folder) for folder in (given.config_dir, given.config_path or CONF_DIR) if folder]
    if name is not None and not any(
        (folder / f"{name.removesuffix('.yaml')}.yaml").is_file() for folder in folders
    ):
        raise UserError(f"--config-name {name}: there is no {name}.yaml in {' or '.join(map(str, folders))}")


@contextmanager
def _team_scope() -> Iterator[None]:
    """Context of a command whose other processes end with it; without torch where there are none."""
    try:
        yield
    finally:
        if launched_processes() > 1 or "blink.runs.parallel.team" in sys.modules:
            from blink.runs.parallel.team import end_teams

            end_teams()


def _name_console_script(command: str) -> None:
    """Complete for `blink-eval`, however this process was started: Hydra's script for shells knows no `python -m`."""
    script = f"blink-{command}"
    if sys.argv[0].endswith(".py"):
        sys.argv[0] = script
    line = os.environ.get("COMP_LINE")
    if line is not None:
        os.environ["COMP_LINE"] = re.sub(r"^\s*\S+\s+-m\s+\S+", script, line)


def _multirun_last(arguments: Sequence[str]) -> list[str]:
    """The arguments with the flag of a multirun behind all overrides: Hydra's parser takes no overrides on both sides."""
    flags = ("-m", "--multirun")
    return sorted(arguments, key=lambda argument: argument in flags)


class Ended(SystemExit):
    """Ends the process with an exit code; its one line is on stderr already, and its text here."""

    def __init__(self, line: str, code: int) -> None:
        super().__init__(line)
        self.code = code


def end(line: str, code: int = MISTAKE) -> NoReturn:
    """Say one line on stderr and end the process.

    Raises:
        Ended: always; it is a SystemExit.
    """
    line = " ".join(line.split())
    with suppress(OSError, ValueError):  # stderr in a file on the full disk, or closed
        print(line, file=sys.stderr, flush=True)
    raise Ended(line, code)


@contextmanager
def one_line_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turn a user's mistake (UserError, or a config that does not resolve) into one line and exit code 2.

    A place that cannot be written or read (`place_error`: a full disk, no permission) is one line and exit code 1; one that
    never could be, such as a folder where a file is to be, is a mistake like others.
    Whatever else is raised, a ValueError included, is a bug or a failing machine and keeps its traceback. With Hydra's
    own switch HYDRA_FULL_ERROR=1 the traceback is shown in any case.

    Args:
        kinds: exception types that are reported in one line, too, with exit code 1.
    """
    caught: tuple[type[Exception], ...] = (UserError, OmegaConfBaseException, *kinds)
    try:
        yield
    except caught as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        end(f"error: {_in_one_line(error)}", FAILURE if isinstance(error, kinds) else MISTAKE)
    except OSError as error:
        place = place_error(error)
        if place is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        end(f"error: {place}", MISTAKE if is_wrong_place(error) else FAILURE)


@contextmanager
def before_jobs() -> Iterator[None]:
    """Context of what is done before the first job of a multirun: an error ends the command.

    Hydra would turn what its callbacks raise into a warning, and start the first job.
    """
    try:
        with one_line_errors():
            yield
    except HydraException as error:
        end(f"error: {error}")
    except Exception:
        log.exception("the settings of the jobs could not be checked; no job was started")
        raise Ended("the settings of the jobs could not be checked", FAILURE) from None


def _in_one_line(error: Exception) -> str:
    """What an error says; of a value that does not resolve also which key has it."""
    key = error.full_key if isinstance(error, OmegaConfBaseException) else None
    if not key:
        return str(error)
    said = (str(error).splitlines() or [type(error).__name__])[0]
    return said if key in said else f"{key}: {said}"
