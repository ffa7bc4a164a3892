"""What an evaluation will do: its config, checked, as flat values.

Of the backbone only the config is read: no weights.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from blink.bench import Benchmark, Sample
from blink.evaluation.planning.checkpoint import Checkpoint
from blink.evaluation.planning.fit import check_questions
from blink.evaluation.planning.method import fingerprints, method_of
from blink.evaluation.planning.questions import questions_of, samples_digest
from blink.evaluation.planning.settings import (
    check_values,
    note_unused,
    process_count,
    reject_training_keys,
)
from blink.evaluation.result import Setup
from blink.inference.policy import Policy
from blink.model.processors import pads
from blink.model.prompts import Template
from blink.runs.config.settings import plain
from blink.runs.inputs.preset_file import preset_of
from blink.runs.provenance import mixed, note_process, provenance, read_processes
from blink.runs.values import UserError


class Plan(NamedTuple):
    """A run whose settings were checked.

    Attributes:
        backbone: what to load.
        reuse: "full" answers by the engine, "none" by `generate`.
        batch: questions in a call of `generate`.
        memory_gb: for the engine.
        pictures: most that the engine answers at once; None: as many as memory holds.
        processes: among which pictures are shared out.
        workers: processes that read pictures ahead; None: as the machine has cores.
        edition: what the samples are, where they are not a whole edition of the benchmark; else None.
        policy: None for the backbone as it is.
        token_sr: folder or hub id of the modules; None for Blink-interp and the backbone as it is.
        zooms: whether the policy decides about a second pass (`answering/zoom.py`), and not inside one.
        inputs: fingerprints of all that the answers depend on beyond the config, as for `resume`.
        setup: what the result says of the run beside its scores.
    """

    backbone: Checkpoint
    reuse: str
    batch: int
    memory_gb: float
    pictures: int | None
    processes: int
    workers: int | None
    benchmark: Benchmark
    samples: list[Sample]
    edition: str | None
    template: Template
    policy: Policy | None
    token_sr: str | None
    zooms: bool
    inputs: dict[str, Any]
    setup: Setup


def make_plan(config: DictConfig, overrides: Sequence[str]) -> Plan:
    """Check all settings and read the questions, but no weights of the backbone.

    Raises:
        ValueError: what the user asked for cannot be run; says why.
    """
    # each key and value by itself
    if "experiment" in config:
        raise UserError(
            "experiment= stands for several evaluations: add --multirun (with hydra/sweeper=rows, the default)"
        )
    if config.get("rerun") is not None:
        raise UserError(f"rerun={config.rerun}: a run is repeated by itself, without --multirun")
    settings = plain(config, complete=True)
    reject_training_keys(overrides)
    check_values(settings)
    model, engine = config.model, config.engine
    if config.data.root and config.data.get("id"):
        raise UserError(
            f"data.root={config.data.root} and data.id={config.data.id} are both given; questions come from one of them"
        )
    note_unused(config, overrides)
    processes = process_count(config.get("devices", 1), model)

    # backbone, method and questions against each other
    checkpoint = Checkpoint.of(model)
    backbone = checkpoint.outline()
    template = checkpoint.template(model.template)
    preset = preset_of(config)
    method = method_of(
        config,
        overrides,
        backbone,
        benchmark=config.bench.name,
        preset=preset,
        prefix=template.prefix,
    )
    questions = questions_of(config, config.limit)
    unseen = check_questions(questions, checkpoint, template, method.policy)

    # what is written beside the answers
    inputs = {
        "version": questions.benchmark.version,
        "pictures": questions.pictures,
        **fingerprints(backbone, method.token_sr),
    }
    recorded = inputs | {"samples": samples_digest(questions.samples)}
    if preset is not None:
        recorded["preset"] = preset.digest
    setup = Setup(
        method=config.method.name,
        data=questions.data,
        policy=method.policy,
        sources=method.sources,
        backbone=model.path,
        revision=backbone.revision,
        dtype=model.dtype,
        padded=pads(backbone.model.config, model.pad),
        token_sr=method.token_sr,
        reuse=engine.reuse,
        warnings=[*method.warnings, *unseen],
        provenance=provenance("eval", overrides, seed=config.seed, inputs=recorded),
    )
    return Plan(
        backbone=checkpoint,
        reuse=engine.reuse,
        batch=engine.get("batch") or 1,  # configs of an earlier version have none
        memory_gb=float(engine.memory_gb),
        pictures=engine.get("pictures"),
        workers=engine.get("workers"),
        processes=processes,
        benchmark=questions.benchmark,
        samples=questions.samples,
        edition=questions.edition,
        template=template,
        policy=method.policy,
        token_sr=method.token_sr,
        zooms=method.zooms,
        inputs=inputs,
        setup=setup,
    )


def with_processes(plan: Plan, folder: Path, *, finished: bool) -> Plan:
    """Return a plan whose result will say which processes answered, and warn where their software differed.

    Args:
        folder: of the run, in which this process is noted unless nothing is left to answer.
        finished: whether all questions are answered.
    """
    record = dict(plan.setup.provenance or {})
    processes = (read_processes(folder) or [record]) if finished else note_process(folder, record)
    record = processes[-1] | {"earlier": processes[:-1]}
    warnings = [*plan.setup.warnings, *mixed(processes)]
    return plan._replace(setup=replace(plan.setup, provenance=record, warnings=warnings))
