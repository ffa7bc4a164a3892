"""What an evaluation is to do: its config, checked, as flat values.

Of the backbone only the config is read: no weights.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache, reduce
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf
from transformers.utils import is_flash_attn_2_available

from blink.bench import JUDGED, PROMPTS, Benchmark, Sample, make_judge
from blink.evaluation.presets import LAYER_STUDIES, resolve
from blink.evaluation.questions import read_questions
from blink.evaluation.scores import Setup
from blink.inference.attach import attach
from blink.inference.policy import Policy, check_layers, parse_layers
from blink.model.backbone import Backbone
from blink.model.checkpoints import check_device_map, outline, pads
from blink.model.fingerprint import TINY
from blink.model.prompts import Template, template_named
from blink.model.token_sr_files import check_token_sr, token_sr_config, token_sr_digest
from blink.runs.command import reject_added_keys
from blink.scenes.draw import SPLIT_SIZE

log = logging.getLogger(__name__)

_SCAN_KEYS = ("layer", "tau_exp", "tau_drop")
_OTHER_POLICY_KEYS = ("patches", "saliency", "interpolate", "selector", "schedule", "scale_tau", "seed")


POLICY_KEYS = (*_SCAN_KEYS, *_OTHER_POLICY_KEYS)
"""Keys of the config that make the policy."""


_WHOLE_NUMBERS = ("limit", "scenes.images", "bench.max_new_tokens")

_TEXTS = (
    "model.path",
    "model.revision",
    "model.template",
    "model.device",
    "model.device_map",
    "bench.name",
    "bench.hub_id",
    "bench.revision",
    "data.source",
    "data.root",
    "data.id",
    "scenes.split",
    "token_sr",
    "outputs",
)

_OPTIONAL = (
    "limit",
    "model.revision",
    "model.device_map",
    "bench.revision",
    "data.root",
    "data.id",
    "token_sr",
)

_TRAINING_KEYS = ("data.name", "data.split", "data.column")

_CHOICES: Mapping[str, tuple[object, ...]] = {
    "model.dtype": ("float32", "bfloat16", "float16", "auto"),
    "model.attn_implementation": ("eager", "sdpa", "flash_attention_2"),
    "model.pad": (True, False, None),
    "model.family": tuple(LAYER_STUDIES),
    "prompt": PROMPTS,
    "engine.reuse": ("full", "none"),
    "fresh": (True, False),
}

_outline = lru_cache(maxsize=4)(outline)


class Checkpoint(NamedTuple):
    """Which backbone to load, and how; as for `load_backbone`, and device "auto" is a GPU if there is one."""

    path: str
    revision: str | None
    dtype: str
    device: str
    device_map: str | None
    attn_implementation: str
    pad: bool | None


class Plan(NamedTuple):
    """A run whose settings were checked.

    Attributes:
        backbone: what to load.
        reuse: "full" answers by the engine, "none" one question at a time.
        memory_gb: for the engine.
        edition: what the samples are, where they are not an edition of the benchmark.
        policy: None for the backbone as it is.
        token_sr: folder or hub id of the modules; None for Blink-interp and the backbone as it is.
        inputs: what the answers follow from beyond the config, by which a changed file is noticed.
        setup: what the result says of the run beside its scores.
    """

    backbone: Checkpoint
    reuse: str
    memory_gb: float
    benchmark: Benchmark
    samples: list[Sample]
    edition: str | None
    template: Template
    policy: Policy | None
    token_sr: str | None
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
        raise ValueError(
            "experiment= stands for several evaluations: add --multirun (with hydra/sweeper=rows, the default)"
        )
    check_values(plain(config))
    model, method, data = config.model, config.method, config.data
    backbone = outlined(model.path, model.revision)
    padded = pads(backbone.family, model.pad)
    if data.root and data.get("id"):
        raise ValueError(
            f"data.root={data.root} and data.id={data.id} are both given; questions come from one of them"
        )
    _note_unused(overrides, method, config.bench.name, "local" if data.root else data.source)
    template = template_named(model.template)
    policy, sources = policy_of(config, config.bench.name) if method.scans else _no_policy(config)
    token_sr = None
    if policy is not None:
        if method.trained:
            token_sr = modules_folder(config.token_sr, model.path, tuple(policy.layers))
        check_fit(model.path, model.revision, tuple(policy.layers), policy.patches, token_sr)
    bench = {"prompt": config.prompt, **plain(config.bench)}
    if config.bench.name in JUDGED:
        bench["judge"] = make_judge(plain(config.judge))
    questions = read_questions(
        bench.pop("name"),
        tuple((key, tuple(value) if isinstance(value, list) else value) for key, value in bench.items()),
        source="local" if data.root else data.source,
        place=data.root or data.get("id"),
        scenes_split=config.scenes.split,
        scenes_images=config.scenes.images,
        limit=config.limit,
    )
    inputs = {
        "version": questions.benchmark.version,
        "pictures": questions.pictures,
        "revision": backbone.revision,
        "backbone": backbone.fingerprint.files,
        "token_sr": token_sr_digest(token_sr) if token_sr else None,
    }
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
        warnings=training_differs(token_sr, model.path, template.prefix) if token_sr else [],
    )
    checkpoint = Checkpoint(**{key: model[key] for key in Checkpoint._fields})
    return Plan(
        backbone=checkpoint,
        reuse=config.engine.reuse,
        memory_gb=float(config.engine.memory_gb),
        benchmark=questions.benchmark,
        samples=questions.samples,
        edition=questions.edition,
        template=template,
        policy=policy,
        token_sr=token_sr,
        inputs=inputs,
        setup=setup,
    )


def family_of(config: DictConfig) -> str:
    """The row of the preset tables that the backbone is in; "tiny" is what nobody named, and fits tiny alone."""
    model = config.model
    return "unknown" if model.family == "tiny" and model.path != "tiny" else str(model.family)


def plain(config: DictConfig) -> dict[str, Any]:
    """A config as plain containers."""
    container: Any = OmegaConf.to_container(config, resolve=True)
    return container


def _note_unused(overrides: Sequence[str], method: DictConfig, bench: str, source: str) -> None:
    """Say which overrides have no effect here; a sweep over methods or benchmarks gives them to all."""
    unread = set() if method.trained else {"token_sr"}
    unread |= set() if method.scans else set(POLICY_KEYS)
    keys = [override.partition("=")[0] for override in overrides]
    if given := [key for key in keys if key in unread]:
        log.info("method=%s does not use %s", method.name, ", ".join(given))
    if bench not in JUDGED and (given := [key for key in keys if key.partition(".")[0] == "judge"]):
        log.info("bench=%s does not use %s", bench, ", ".join(given))
    unread = set() if source == "scenes" else {"scenes.split", "scenes.images"}
    unread |= set() if source == "hub" else {"bench.hub_id", "bench.revision"}
    if given := [key for key in keys if key in unread]:
        log.info("data from %s does not use %s", source, ", ".join(given))


def policy_of(config: DictConfig, benchmark: str) -> tuple[Policy, dict[str, str]]:
    """The policy that a config and the presets of a benchmark make, and where its layers and thresholds come from."""
    given = plain(config)
    family, model = family_of(config), config.model
    if given["layer"] is None and family in LAYER_STUDIES:
        check_depth(family, model.path, model.revision)
    scan = resolve(family, benchmark, **{key: given[key] for key in _SCAN_KEYS})
    others = {key: given[key] for key in _OTHER_POLICY_KEYS}
    return Policy(scan.layers, scan.tau_exp, scan.tau_drop, **others), scan.sources


def _no_policy(config: DictConfig) -> tuple[None, None]:
    """Check the policy's keys where none is used: a mistake should not wait for the method that reads them.

    Raises:
        ValueError: a value is out of range, or the backbone has no such layer.
    """
    given = plain(config)
    thresholds = {key: given[key] for key in ("tau_exp", "tau_drop") if given[key] is not None}
    others = {key: given[key] for key in _OTHER_POLICY_KEYS}
    policy = Policy(parse_layers(0 if given["layer"] is None else given["layer"]), **thresholds, **others)
    check_layers(policy.layers, outlined(config.model.path, config.model.revision).num_layers)
    return None, None


def check_values(settings: Mapping[str, Any]) -> None:
    """Check what is said of the run beside the policy, the composed config as plain containers: types and ranges.

    A group or top-level key that the command does not have is not asked for.

    Raises:
        ValueError: a value is of the wrong type, out of range, or not available on this machine.
    """
    known = [key for key in (*_WHOLE_NUMBERS, *_TEXTS, *_CHOICES) if key.partition(".")[0] in settings]
    values = {key: _value(settings, key) for key in known}
    values = {key: value for key, value in values.items() if not (value is None and key in _OPTIONAL)}
    for key, value in values.items():
        if key in _WHOLE_NUMBERS and (type(value) is not int or value < 1):
            raise ValueError(f"{key}={value!r}: expected a whole number of at least 1")
        if key in _TEXTS and (not isinstance(value, str) or not value):
            raise ValueError(
                f"{key}={value!r}: expected a text; put quotes around one that reads as a number"
            )
        if key in _CHOICES and (type(value), value) not in [(type(c), c) for c in _CHOICES[key]]:
            raise ValueError(f"{key}={value!r}: expected one of {', '.join(map(str, _CHOICES[key]))}")
    for key, value in settings.get("bench", {}).items():
        if not all(part is None or isinstance(part, int | str) for part in _listed(value)):
            raise ValueError(f"bench.{key}={value!r}: expected a text, a whole number or a list of these")
    if values["model.attn_implementation"] == "flash_attention_2" and not is_flash_attn_2_available():
        raise ValueError(
            "model.attn_implementation=flash_attention_2 needs a GPU and the package flash-attn; "
            "sdpa works everywhere"
        )
    if values.get("scenes.images", 0) > SPLIT_SIZE:
        raise ValueError(f"scenes.images={values['scenes.images']}: a split has {SPLIT_SIZE:,} pictures")
    memory = _value(settings, "engine.memory_gb") if "engine" in settings else 1
    if type(memory) not in (int, float) or not memory > 0:
        raise ValueError(f"engine.memory_gb={memory!r}: expected a number above 0")
    _check_device(values["model.device"])
    check_device_map(values.get("model.device_map"))


def check_depth(family: str, path: str, revision: str | None) -> None:
    """Check that a backbone is as deep as the family whose preset layers it is to take.

    Args:
        family: row of the preset tables.

    Raises:
        ValueError: it is not, so that these numbers mean other layers of it.
    """
    layers, expected = outlined(path, revision).num_layers, LAYER_STUDIES[family].num_layers
    if layers != expected:
        raise ValueError(
            f"{path} has {layers} decoder layers, and the preset ones of model.family={family} are those of a backbone "
            f"with {expected}; say which to scan, such as layer={layers // 2}"
        )


def reject_training_keys(overrides: Sequence[str]) -> None:
    """Refuse keys of a hub data set that training alone reads: a benchmark knows its own parts and columns.

    Raises:
        ValueError: an override gives one of them.
    """
    given = [key for key in (each.partition("=")[0] for each in overrides) if key in _TRAINING_KEYS]
    if given:
        raise ValueError(
            f"{', '.join(given)}: only blink.train reads that; a benchmark has a split and columns of its own "
            "(bench=; data.id= takes another data set of its layout, bench.revision= a revision)"
        )


@lru_cache(maxsize=16)
def check_fit(
    path: str, revision: str | None, layers: Sequence[int], patches: int, token_sr: str | None
) -> None:
    """Check scanned layers, regions and modules against a backbone, reading configs and file headers alone.

    Raises:
        ValueError: what does not fit; says what was found and what to do.
    """
    backbone = outlined(path, revision)
    attach(backbone, Policy(layers, patches=patches)).detach()
    if token_sr is not None:
        check_token_sr(token_sr, channels=backbone.hidden_size, layers=layers)


def outlined(path: str, revision: str | None) -> Backbone:
    """A backbone without weights, from its config.

    Raises:
        ValueError: there is no backbone at `path`, or it is of another kind.
    """
    return _outline(path, revision=revision)


def modules_folder(token_sr: str | None, path: str, layers: Sequence[int]) -> str:
    """Return where the TokenSR modules are: as given, or those that ship with the tiny backbone.

    Raises:
        ValueError: none are given for another backbone, or the tiny one's are not there.
    """
    if token_sr is not None:
        return str(token_sr)
    shipped = TINY / "token_sr"
    if path == "tiny" and shipped.is_dir():
        return str(shipped)
    train = f"python -m blink.train model.path={path} layer=[{','.join(map(str, layers))}]"
    raise ValueError(
        f"method=blink needs TokenSR modules for {path}, and none ship with it: train them with `{train}` and pass "
        "token_sr=FOLDER, or evaluate without training by method=interp"
    )


def training_differs(token_sr: str, path: str, prefix: str) -> list[str]:
    """Say in what TokenSR modules were trained for something else than this run, as far as they recorded it.

    Args:
        token_sr: folder or hub id of the modules.
        path: the backbone's.
        prefix: the prompt before the picture.
    """
    recorded = token_sr_config(token_sr)
    found = []
    backbone = recorded.backbone
    if Path(backbone).resolve() != Path(path).resolve():
        found.append(
            f"the modules in {token_sr} were trained on the backbone {backbone}, and this one is {path}: unless "
            "these are the same weights, scores of Blink mean little"
        )
    trained_behind = recorded.prompt_prefix
    if trained_behind is not None and trained_behind != prefix:
        found.append(
            f"the modules in {token_sr} were trained behind the prompt prefix {trained_behind!r}, and this run's is "
            f"{prefix!r}: visual tokens depend on it; choose the model.template of the training"
        )
    return found


def _check_device(name: str) -> None:
    """Raise ValueError unless this machine has the device; "auto" it always has."""
    try:
        device = torch.device("cpu" if name == "auto" else name)
    except RuntimeError as error:
        raise ValueError(f"model.device={name!r}: expected auto, cpu, cuda or cuda:1") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"model.device={name}: this machine has {torch.cuda.device_count()} such devices")


def _value(settings: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key, None if there is none."""
    return reduce(lambda group, part: group.get(part, None), key.split("."), settings)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
