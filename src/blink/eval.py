"""`python -m blink.eval`: answer a benchmark with a backbone, score it, and report sweeps.

Thin: it reads the config, has all of it checked before any weight is read, and hands flat arguments on.
"""

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from blink import sweep, tracking
from blink.answerer import GreedyAnswerer
from blink.bench import Benchmark, Sample
from blink.checkpoints import TINY, LoadedBackbone, load_backbone, load_processor
from blink.compare import read_run, score_table, screen
from blink.evaluate import SCORES, evaluate, files_digest, resume
from blink.figures import example
from blink.outputs import CONF_DIR, one_line_errors, open_run, reject_added_keys
from blink.policy import Policy, check_layers, parse_layers
from blink.prepare import (
    check_fit,
    check_values,
    modules_folder,
    outlined,
    read_questions,
    training_differs,
)
from blink.presets import resolve
from blink.prompts import Template, template_named
from blink.views import ViewMaker

log = logging.getLogger(__name__)

EXAMPLE = "example.png"

_SCAN_KEYS = ("layer", "tau_exp", "tau_drop")
_OTHER_POLICY_KEYS = ("patches", "saliency", "interpolate", "selector", "schedule", "scale_tau", "seed")


class Plan(NamedTuple):
    """A run whose settings were checked.

    Attributes:
        policy: None for the backbone as it is.
        token_sr: folder or hub id of the modules; None for Blink-interp and the backbone as it is.
        inputs: what the answers follow from beyond the config, by which a changed file is noticed.
        about: what the result says of the run beside its scores.
    """

    benchmark: Benchmark
    samples: list[Sample]
    template: Template
    policy: Policy | None
    token_sr: str | None
    inputs: dict[str, Any]
    about: dict[str, Any]


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="eval")
def main(config: DictConfig) -> None:
    """Run one evaluation, or return it if it was finished before."""
    job = HydraConfig.get()
    overrides = list(job.overrides.task)
    with one_line_errors():
        plan = make_plan(config, overrides)
        folder = open_run(Path(config.outputs), "eval", overrides, _plain(config), fresh=config.fresh)
        rows = resume(folder, plan.samples, batch_size=config.batch_size, inputs=plan.inputs)
        finished = len(rows) == len(plan.samples) and (folder / SCORES).exists()
        logger = None if finished else instantiate(config.logger, folder=str(folder))
    log.info("%s: %d questions, files in %s", plan.about["method"], len(plan.samples), folder)
    try:
        with _answering(plan, config) as make_answerer:
            result = evaluate(
                plan.benchmark,
                plan.samples,
                rows,
                make_answerer,
                folder,
                batch_size=config.batch_size,
                about=plan.about,
            )
        if logger is not None:
            logger.log_hyperparams(_plain(config) | plan.about)
            logger.log_metrics(_numbers(result))
            logger.save()
    finally:
        tracking.close(logger)
    if not (folder / EXAMPLE).exists():
        _draw_example(plan, config.model, folder)
    for warning in result["warnings"]:
        log.warning("%s", warning)
    if job.mode == RunMode.MULTIRUN:
        sweep.note_job(Path(job.sweep.dir), job.job.num, overrides, folder)
    else:
        console = screen()
        console.print(score_table([read_run(folder)]))
        console.print(f"written to {folder}", soft_wrap=True)


class SweepCallback(Callback):
    """Checks every job of a multirun before the first one starts, and reports after the last one."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the settings of every job; other sweepers than Hydra's own choose them as they go.

        Hydra would turn what a callback raises into a warning and start the first job.
        """
        if not config.hydra.sweeper._target_.endswith("BasicSweeper"):
            return
        try:
            with one_line_errors():
                for overrides in jobs_of(config.hydra.overrides.task):
                    make_plan(hydra.compose("eval", overrides), overrides)
        except HydraException as error:
            sys.exit(f"error: {' '.join(str(error).split())}")
        except Exception:
            log.exception("the sweep's settings could not be checked; no job was started")
            sys.exit(1)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write and print the report; Hydra would turn what a callback raises into a warning."""
        try:
            sweep.report(Path(config.hydra.sweep.dir), screen())
        except Exception:
            log.exception("the sweep's report failed")
            sys.exit(1)


def make_plan(config: DictConfig, overrides: Sequence[str]) -> Plan:
    """Check all settings and read the questions, but no weights of the backbone.

    Raises:
        ValueError: what the user asked for cannot be run; says why.
    """
    reject_added_keys(overrides)
    check_values(_plain(config))
    model, method, data = config.model, config.method, config.data
    _note_unused(overrides, method)
    template = template_named(model.template)
    policy, sources = _policy(config) if method.scans else _no_policy(config)
    token_sr = None
    if policy is not None:
        if method.trained:
            token_sr = modules_folder(config.token_sr, model.path, tuple(policy.layers))
        check_fit(model.path, model.revision, tuple(policy.layers), policy.patches, token_sr)
    bench = {"prompt": config.prompt, **_plain(config.bench)}
    questions = read_questions(
        bench.pop("name"),
        tuple((key, tuple(value) if isinstance(value, list) else value) for key, value in bench.items()),
        source="local" if data.root else data.source,
        place=data.root or data.get("id"),
        scenes_split=config.scenes.split,
        scenes_images=config.scenes.images,
        limit=config.limit,
    )
    revision = getattr(outlined(model.path, model.revision).model.config, "_commit_hash", None)
    inputs = {
        "version": questions.benchmark.version,
        "revision": revision,
        "backbone": files_digest(TINY if model.path == "tiny" else Path(model.path)),
        "token_sr": files_digest(Path(token_sr)) if token_sr else None,
    }
    about = {
        "method": method.name,
        "data": questions.data,
        "policy": None if policy is None else asdict(policy),
        "sources": sources,
        "backbone": model.path,
        "revision": revision,
        "token_sr": token_sr,
        "batch_size": config.batch_size,
        "warnings": training_differs(token_sr, model.path, template.prefix) if token_sr else [],
    }
    return Plan(questions.benchmark, questions.samples, template, policy, token_sr, inputs, about)


def jobs_of(overrides: Sequence[str]) -> Iterator[list[str]]:
    """List the overrides of each job of a multirun, as Hydra's own sweeper makes them."""
    choices = [
        [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        if override.is_sweep_override()
        else [override.input_line]
        for override in OverridesParser.create().parse_overrides(list(overrides))
    ]
    return (list(job) for job in product(*choices))


def _note_unused(overrides: Sequence[str], method: DictConfig) -> None:
    """Say which overrides have no effect with this method; a sweep over methods gives them to all."""
    unread = set() if method.trained else {"token_sr"}
    unread |= set() if method.scans else {*_SCAN_KEYS, *_OTHER_POLICY_KEYS}
    given = [key for key in (override.partition("=")[0] for override in overrides) if key in unread]
    if given:
        log.info("method=%s does not use %s", method.name, ", ".join(given))


def _policy(config: DictConfig) -> tuple[Policy, dict[str, str]]:
    """The policy that the config and the presets make, and where its layers and thresholds come from."""
    model = config.model
    family = "unknown" if model.family == "tiny" and model.path != "tiny" else model.family
    given = _plain(config)
    scan = resolve(family, config.bench.name, **{key: given[key] for key in _SCAN_KEYS})
    others = {key: given[key] for key in _OTHER_POLICY_KEYS}
    return Policy(scan.layers, scan.tau_exp, scan.tau_drop, **others), scan.sources


def _no_policy(config: DictConfig) -> tuple[None, None]:
    """Check the policy's keys where none is used: a mistake should not wait for the method that reads them.

    Raises:
        ValueError: a value is out of range, or the backbone has no such layer.
    """
    given = _plain(config)
    thresholds = {key: given[key] for key in ("tau_exp", "tau_drop") if given[key] is not None}
    others = {key: given[key] for key in _OTHER_POLICY_KEYS}
    policy = Policy(parse_layers(0 if given["layer"] is None else given["layer"]), **thresholds, **others)
    check_layers(policy.layers, outlined(config.model.path, config.model.revision).num_layers)
    return None, None


@contextmanager
def _answering(plan: Plan, config: DictConfig) -> Iterator[Any]:
    """Inside, a function that loads the backbone and makes its answerer; after it the backbone is as it was."""
    made: list[GreedyAnswerer] = []

    def make_answerer() -> GreedyAnswerer:
        model = config.model
        backbone = _load(model.path, model.revision, model.dtype, model.device, model.attn_implementation)
        made.append(
            GreedyAnswerer(
                backbone,
                plan.template,
                policy=plan.policy,
                token_sr=plan.token_sr,
                max_new_tokens=plan.benchmark.max_new_tokens,
            )
        )
        return made[0]

    try:
        yield make_answerer
    finally:
        for answerer in made:
            answerer.close()


@lru_cache(maxsize=1)
def _load(
    path: str, revision: str | None, dtype: str, device: str, attn_implementation: str
) -> LoadedBackbone:
    """Load a backbone, or return the one that the job before used."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    log.info("loading the backbone %s on %s", path, device)
    return load_backbone(
        path, revision=revision, dtype=dtype, device=device, attn_implementation=attn_implementation
    )


def _draw_example(plan: Plan, model: DictConfig, folder: Path) -> None:
    """Draw one answer into the run folder."""
    seen = ViewMaker(load_processor(model.path, revision=model.revision)).seen
    figure = example(plan.samples, read_run(folder).rows(), plan.policy, seen)
    figure.savefig(folder / EXAMPLE, dpi=130)


def _numbers(result: Mapping[str, Any]) -> dict[str, float]:
    """What of a result is a number, for a logger."""
    costs = ("n", "expanded", "seconds", "questions_per_second", "peak_memory_mb")
    return result["metrics"] | {key: result[key] for key in costs if result[key] is not None}


def _plain(config: DictConfig) -> dict[str, Any]:
    """A config as plain containers."""
    container: Any = OmegaConf.to_container(config, resolve=True)
    return container


if __name__ == "__main__":
    # Run the module under its own name: Hydra imports the callback from there, and both share what was read.
    from blink.eval import main as command

    command()
