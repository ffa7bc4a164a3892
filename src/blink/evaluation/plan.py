"""What an evaluation will do: its config, checked, as flat values.

Of the backbone only the config is read: no weights.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Self

from omegaconf import DictConfig

from blink.bench import JUDGED, Benchmark, Sample, make_judge
from blink.evaluation.answering.zoom import check_zoom
from blink.evaluation.checks import (
    check_boxes,
    check_data_keys,
    check_depth,
    check_fit,
    check_questions,
    check_values,
    fingerprints,
    modules_folder,
    outlined,
    process_count,
    prompt_template,
    reject_training_keys,
    training_differs,
)
from blink.evaluation.presets import LAYER_STUDIES, OTHER, resolve
from blink.evaluation.questions import Questions, read_questions, samples_digest
from blink.evaluation.scores import Setup
from blink.inference.policy import Policy, check_layers, parse_layers
from blink.model.backbone import Backbone
from blink.model.processors import check_picture_options, pads, picture_options
from blink.model.prompts import Template
from blink.runs.command import plain
from blink.runs.inputs.pictures import Rules
from blink.runs.inputs.preset_file import preset_of, preset_sources
from blink.runs.overrides import reject_added_keys
from blink.runs.provenance import mixed, note_process, provenance, read_processes
from blink.runs.values import UserError

log = logging.getLogger(__name__)

_SCAN_KEYS = ("layer", "tau_exp", "tau_drop")
_OTHER_POLICY_KEYS = (
    "patches",
    "saliency",
    "interpolate",
    "selector",
    "schedule",
    "positions",
    "scale_tau",
    "seed",
)


POLICY_KEYS = (*_SCAN_KEYS, *_OTHER_POLICY_KEYS)
"""Keys of the config that make the policy."""


class Checkpoint(NamedTuple):
    """Which backbone to load, and how; as for `load_backbone`, and device "auto" is a GPU if there is one."""

    path: str
    revision: str | None
    dtype: str
    device: str
    device_map: str | None
    attn_implementation: str
    pad: bool | None
    min_pixels: int | None
    max_pixels: int | None

    @property
    def pictures(self) -> dict[str, Any]:
        """What its processor is to do with pictures."""
        return picture_options(self._asdict())

    @classmethod
    def of(cls, model: Mapping[str, Any]) -> Self:
        """The checkpoint that a config's group `model` describes."""
        settings: dict[str, Any] = {key: model.get(key) for key in cls._fields}
        return cls(**settings)


class Plan(NamedTuple):
    """A run whose settings were checked.

    Attributes:
        backbone: what to load.
        reuse: "full" answers by the engine, "none" one question at a time.
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
    reject_added_keys(overrides)
    reject_training_keys(overrides)
    if "experiment" in config:
        raise UserError(
            "experiment= stands for several evaluations: add --multirun (with hydra/sweeper=rows, the default)"
        )
    if config.get("rerun") is not None:
        raise UserError(f"rerun={config.rerun}: a run is repeated by itself, without --multirun")
    check_values(plain(config, complete=True))
    model, method, data = config.model, config.method, config.data
    backbone = outlined(model.path, revision=model.revision)
    check_picture_options(backbone.model.config, **picture_options(model))
    padded = pads(backbone.model.config, model.pad)
    if data.root and data.get("id"):
        raise UserError(
            f"data.root={data.root} and data.id={data.id} are both given; questions come from one of them"
        )
    _note_unused(overrides, method, config.bench.name, "local" if data.root else data.source)
    template = prompt_template(model.path, model.template, revision=model.revision, **picture_options(model))
    policy, sources = (
        policy_of(config, config.bench.name, backbone) if method.scans else _no_policy(config, backbone)
    )
    chosen = preset_of(config)
    if sources is not None:
        sources |= preset_sources(chosen, config, overrides)
    # whether layers, regions and modules fit the backbone shows from configs and file headers
    token_sr = None
    if policy is not None:
        if method.trained:
            token_sr = modules_folder(config.token_sr, model.path, tuple(policy.layers))
        check_fit(backbone, policy, token_sr)
    zooms = policy is not None and method.get("passes") == 2
    if policy is not None and zooms:
        check_zoom(policy)
    questions = questions_of(config, config.limit)
    unseen = check_boxes(policy, config.bench.name, questions.samples, questions.sizes, model)
    check_questions(model, questions)
    inputs = {
        "version": questions.benchmark.version,
        "pictures": questions.pictures,
        **fingerprints(backbone, token_sr),
    }
    recorded = inputs | {"samples": samples_digest(questions.samples)}
    if chosen is not None:
        recorded["preset"] = chosen.digest
    setup = Setup(
        method=method.name,
        data=questions.data,
        policy=policy,
        sources=sources,
        backbone=model.path,
        revision=backbone.revision,
        dtype=model.dtype,
        padded=padded,
        token_sr=token_sr,
        reuse=config.engine.reuse,
        warnings=[
            *(chosen.warnings(model.path) if chosen and policy else []),
            *(training_differs(token_sr, model.path, template.prefix) if token_sr else []),
            *unseen,
        ],
        provenance=provenance("eval", overrides, seed=config.seed, inputs=recorded),
    )
    return Plan(
        backbone=Checkpoint.of(model),
        reuse=config.engine.reuse,
        memory_gb=float(config.engine.memory_gb),
        pictures=config.engine.get("pictures"),  # configs of an earlier version have none
        workers=config.engine.get("workers"),
        processes=process_count(config.get("devices", 1), model),
        benchmark=questions.benchmark,
        samples=questions.samples,
        edition=questions.edition,
        template=template,
        policy=policy,
        token_sr=token_sr,
        zooms=zooms,
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
    if not finished:
        note_process(folder, record)
    processes = read_processes(folder) or [record]
    record = processes[-1] | {"earlier": processes[:-1]}
    warnings = [*plan.setup.warnings, *mixed(processes)]
    return plan._replace(setup=replace(plan.setup, provenance=record, warnings=warnings))


def questions_of(config: DictConfig, limit: int | None = None) -> Questions:
    """Read the questions that `bench`, `data` and `scenes` of a config describe.

    Args:
        limit: ask only the first so many; None asks all.

    Raises:
        ValueError: as `read_questions` does.
    """
    data, bench = plain(config.data), {"prompt": config.prompt, **plain(config.bench)}
    check_data_keys(data)
    if config.bench.name in JUDGED and "judge" in config:
        bench["judge"] = make_judge(plain(config.judge))
    return read_questions(
        bench.pop("name"),
        tuple((key, tuple(value) if isinstance(value, list) else value) for key, value in bench.items()),
        source="local" if data["root"] else data["source"],
        location=data["root"] or data.get("id"),
        scenes_split=config.scenes.split,
        scenes_images=config.scenes.images,
        scenes_difficulty=config.scenes.get("difficulty"),  # configs of an earlier version have none
        limit=limit,
        rules=Rules.of(data, scaled=False),
    )


def family_of(config: DictConfig) -> str:
    """The backbone's family in the preset tables. "tiny" is the config's default and says nothing about another backbone."""
    model = config.model
    return OTHER if model.family == "tiny" and model.path != "tiny" else str(model.family)


def _note_unused(overrides: Sequence[str], method: DictConfig, bench: str, source: str) -> None:
    """Log which overrides have no effect here; no error, since a sweep over methods or benchmarks gives them to all jobs."""
    unread = set() if method.trained else {"token_sr"}
    unread |= set() if method.scans else set(POLICY_KEYS)
    unread |= {"tau_drop", "interpolate"} if method.get("passes") == 2 else set()
    keys = [override.partition("=")[0] for override in overrides]
    if given := [key for key in keys if key in unread]:
        log.info("method=%s does not use %s", method.name, ", ".join(given))
    if bench not in JUDGED and (given := [key for key in keys if key.partition(".")[0] == "judge"]):
        log.info("bench=%s does not use %s", bench, ", ".join(given))
    unread = set() if source == "scenes" else {"scenes.split", "scenes.images", "scenes.difficulty"}
    unread |= set() if source == "hub" else {"bench.hub_id", "bench.revision"}
    if given := [key for key in keys if key in unread]:
        log.info("data from %s does not use %s", source, ", ".join(given))


def policy_of(config: DictConfig, benchmark: str, backbone: Backbone) -> tuple[Policy, dict[str, str]]:
    """The policy that a config and the presets of a benchmark make, and where its layers and thresholds come from.

    Raises:
        ValueError: a value is out of range, or the preset layers are those of a deeper or shallower backbone.
    """
    given = plain(config)
    family = family_of(config)
    if given["layer"] is None and family in LAYER_STUDIES:
        check_depth(family, backbone)
    scan = resolve(
        family, benchmark, num_layers=backbone.num_layers, **{key: given[key] for key in _SCAN_KEYS}
    )
    return Policy(scan.layers, scan.tau_exp, scan.tau_drop, **_others(given)), scan.sources


def _no_policy(config: DictConfig, backbone: Backbone) -> tuple[None, None]:
    """Check the policy's keys although the method uses none: a mistake should not wait for a method that does.

    Raises:
        ValueError: a value is out of range, or the backbone has no such layer.
    """
    given = plain(config)
    thresholds = {key: given[key] for key in ("tau_exp", "tau_drop") if given[key] is not None}
    layers = parse_layers(0 if given["layer"] is None else given["layer"])
    policy = Policy(layers, **thresholds, **_others(given))
    check_layers(policy.layers, backbone.num_layers)
    return None, None


def _others(given: Mapping[str, Any]) -> dict[str, Any]:
    """The policy's fields beside layers and thresholds; a config of an earlier version may lack some, which are defaults."""
    others = {key: given[key] for key in _OTHER_POLICY_KEYS if key in given}
    return others | {"source": given["method"].get("source", "coarse")}
