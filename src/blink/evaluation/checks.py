"""Checks of settings that several commands share: values, and whether backbone, layers and modules fit each other.

Of a backbone only the config is read, of TokenSR modules the config and the headers of their files: no weights.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial, reduce
from typing import Any

import torch

from blink.bench import PROMPTS, Sample
from blink.evaluation.presets import LAYER_STUDIES, OTHER
from blink.evaluation.questions import Questions, Size, check_sizes
from blink.inference.boxes import seen_box
from blink.inference.policy import Policy
from blink.inference.run import Run
from blink.model.backbone import Backbone
from blink.model.checkpoints import check_attention, check_device_map, outline
from blink.model.fingerprint import same_checkpoint
from blink.model.image_inputs import PictureShapes
from blink.model.processors import load_processor, picture_options
from blink.model.prompts import Template, template_of
from blink.model.token_sr_files import check_token_sr, token_sr_config, token_sr_digest
from blink.model.token_sr_source import SHIPPED
from blink.model.views import ViewMaker
from blink.runs.machine import launched_processes
from blink.runs.values import UserError, choice, number, text, whole_number
from blink.scenes.draw import DIFFICULTIES, SPLIT_SIZE

_TEXTS = (
    "model.path",
    "model.revision",
    "model.template",
    "model.device",
    "model.device_map",
    "bench.name",
    "bench.hub_id",
    "bench.revision",
    "bench.split",
    "data.source",
    "data.root",
    "data.id",
    "scenes.split",
    "token_sr",
    "outputs",
)

_MOST_WORKERS = _MOST_PROCESSES = 1024

_CHECKS: Mapping[str, Callable[[str, Any], object]] = {
    **dict.fromkeys(("limit", "scenes.images", "bench.max_new_tokens"), whole_number),
    **dict.fromkeys(("model.min_pixels", "model.max_pixels"), whole_number),
    **dict.fromkeys(_TEXTS, text),
    "model.dtype": partial(choice, choices=("float32", "bfloat16", "float16", "auto")),
    "model.attn_implementation": partial(choice, choices=("eager", "sdpa", "flash_attention_2")),
    "model.pad": partial(choice, choices=(True, False, None)),
    "model.family": partial(choice, choices=(*LAYER_STUDIES, OTHER)),
    "prompt": partial(choice, choices=PROMPTS),
    "scenes.difficulty": partial(choice, choices=[each.name for each in DIFFICULTIES]),
    "engine.reuse": partial(choice, choices=("full", "none")),
    "engine.memory_gb": partial(number, above=0),
    "engine.pictures": whole_number,
    "engine.workers": partial(whole_number, least=0, most=_MOST_WORKERS),
    "devices": lambda name, value: (
        value == "auto" or whole_number(name, value, most=_MOST_PROCESSES, hint="or auto, for one per GPU")
    ),
    "fresh": partial(choice, choices=(True, False)),
}
"""Key of the config -> check of its value."""

_OPTIONAL = (
    "limit",
    "model.revision",
    "model.template",
    "model.device_map",
    "model.min_pixels",
    "model.max_pixels",
    "bench.hub_id",
    "bench.revision",
    "bench.split",
    "data.root",
    "data.id",
    "token_sr",
    "scenes.difficulty",
    "engine.pictures",
    "engine.workers",
)
"""Keys that may be null."""

_DATA_KEYS = ("source", "root", "id", "exif", "allow_outside")
"""Keys of `data` that questions are read by."""

_TRAINING_KEYS = ("data.name", "data.split", "data.column")
_TRAINING_DEFAULTS = {"name": None, "split": "train", "column": None}

outlined = lru_cache(maxsize=4)(outline)
"""A backbone without weights, made from its config; the jobs of a sweep share it."""


processor_of = lru_cache(maxsize=4)(load_processor)
"""A checkpoint's processor; the template, the model and the pictures drawn of a run share it."""


@lru_cache(maxsize=4)
def prompt_template(path: str, name: str | None, *, revision: str | None, **pictures: Any) -> Template:
    """How a checkpoint is asked: see `template_of`; `pictures` are as for `load_processor`."""
    return template_of(processor_of(path, revision=revision, **pictures), name)


def check_values(settings: Mapping[str, Any]) -> None:
    """Check types and ranges of all settings but the policy's, which `Policy` checks itself.

    Args:
        settings: the composed config as plain containers. A group or top-level key that it lacks is not asked for.

    Raises:
        ValueError: a value is of the wrong type, out of range, or not available on this machine.
    """
    values = {key: _value(settings, key) for key in _CHECKS if key.partition(".")[0] in settings}
    for key, value in values.items():
        if not (value is None and key in _OPTIONAL):
            _CHECKS[key](key, value)
    for key, value in settings.get("bench", {}).items():
        parts = value if isinstance(value, list) else [value]
        if not all(part is None or isinstance(part, int | str) for part in parts):
            raise UserError(f"bench.{key}={value!r}: expected a text, a whole number or a list of these")
    if values.get("scenes.images", 0) > SPLIT_SIZE:
        raise UserError(f"scenes.images={values['scenes.images']}: a split has {SPLIT_SIZE:,} pictures")
    if "model" in settings:
        check_attention(values["model.attn_implementation"])
        _check_device(values["model.device"])
        check_device_map(values.get("model.device_map"))


def reject_training_keys(overrides: Sequence[str]) -> None:
    """Refuse keys of a hub data set that training alone reads: a benchmark knows its own parts and columns.

    Raises:
        ValueError: an override gives one of them.
    """
    given = [key for key in (override.partition("=")[0] for override in overrides) if key in _TRAINING_KEYS]
    if given:
        raise UserError(
            f"{', '.join(given)}: only blink.train reads that; a benchmark has a split and columns of its own "
            "(bench=; data.id= takes another data set of its layout, bench.revision= a revision)"
        )


def check_data_keys(data: Mapping[str, Any]) -> None:
    """Refuse keys of the group `data` that no question is read by, wherever they were given.

    Raises:
        UserError: there is one; the message names those that are read.
    """
    unread = [
        f"data.{key}={value}"
        for key, value in data.items()
        if key not in _DATA_KEYS and not (key in _TRAINING_DEFAULTS and value == _TRAINING_DEFAULTS[key])
    ]
    if unread:
        raise UserError(
            f"{', '.join(unread)}: not read for a benchmark, which has a split and columns of its own; read are "
            f"{', '.join(f'data.{key}' for key in _DATA_KEYS)}"
        )


def check_depth(family: str, backbone: Backbone) -> None:
    """Check that a backbone is as deep as the family whose preset layers it is to take.

    Args:
        family: row of the preset tables.

    Raises:
        ValueError: it has another number of layers, so that preset layer numbers do not apply.
    """
    layers, expected = backbone.num_layers, LAYER_STUDIES[family].num_layers
    if layers != expected:
        raise UserError(
            f"{backbone.name} has {layers} decoder layers, and the preset ones of model.family={family} are those of a "
            f"backbone with {expected}; say which to scan, such as layer={layers // 2}"
        )


def check_fit(backbone: Backbone, policy: Policy, token_sr: str | None) -> None:
    """Check a policy and modules against a backbone, with or without weights.

    Raises:
        ValueError: something does not fit; says what, and what to do.
    """
    Run(policy).resolve(backbone)
    if token_sr is not None:
        check_token_sr(token_sr, channels=backbone.hidden_size, layers=policy.layers)


def modules_folder(
    token_sr: str | None,
    path: str,
    layers: Sequence[int],
    *,
    needed_by: str = "method=blink",
    otherwise: str = ", or evaluate without training by method=interp",
) -> str:
    """Return the folder or hub id of the TokenSR modules: as given, or of those that ship with the tiny backbone.

    Args:
        needed_by: what of the command needs them, and how to do without, in the keys that it takes, for the message.

    Raises:
        ValueError: none are given for another backbone.
    """
    if token_sr is not None:
        return str(token_sr)
    if path == SHIPPED:
        return SHIPPED
    train = f"python -m blink.train model.path={path} layer=[{','.join(map(str, layers))}]"
    raise UserError(
        f"{needed_by} needs TokenSR modules for {path}, and none ship with it: train them with `{train}` and pass "
        f"token_sr=FOLDER{otherwise}"
    )


def training_differs(token_sr: str, path: str, prefix: str) -> list[str]:
    """Return warnings where TokenSR modules were trained on another backbone or prompt than this run's, by their own record.

    Args:
        token_sr: folder or hub id of the modules.
        path: the backbone's.
        prefix: the prompt before the picture.
    """
    recorded = token_sr_config(token_sr)
    found = []
    backbone = recorded.backbone
    if not same_checkpoint(path, backbone, recorded.backbone_weights):
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


def fingerprints(backbone: Backbone, token_sr: str | None) -> dict[str, str | None]:
    """Fingerprints of backbone and TokenSR modules, by which a run notices that their files have changed."""
    return {
        "revision": backbone.revision,
        "backbone": backbone.fingerprint.files,
        "token_sr": token_sr_digest(token_sr) if token_sr else None,
    }


def _check_device(name: str) -> None:
    """Raise ValueError unless this machine has the device; "auto" exists on every one."""
    try:
        device = torch.device("cpu" if name == "auto" else name)
    except RuntimeError as error:
        raise UserError(f"model.device={name!r}: expected auto, cpu, cuda or cuda:1") from error
    there = torch.cuda.device_count() if device.type == "cuda" else _count(device.type)
    if (device.index or 0) >= there:
        raise UserError(f"model.device={name}: this machine has {there} such devices")


def _count(kind: str) -> int:
    """How many devices of a kind that is not CUDA there are for torch; none of "meta", which holds no numbers."""
    if kind == "cpu":
        return 1
    module = getattr(torch, kind, None)
    available = getattr(module, "is_available", None)
    return int(module.device_count()) if module is not None and available is not None and available() else 0


def _value(settings: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key, None if there is none."""
    return reduce(lambda group, part: group.get(part, None), key.split("."), settings)


def process_count(devices: int | str, model: Mapping[str, Any]) -> int:
    """How many processes answer.

    Args:
        devices: a number, or "auto" for one per GPU.
        model: a config's group `model`.

    Raises:
        UserError: there are not so many GPUs, the backbone has been given a device of its own, or torchrun has started another number.
    """
    launched, device = launched_processes(), model["device"]
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    if launched > 1 and devices not in (1, "auto", launched):
        raise UserError(
            f"devices={devices}: {launched} processes were started, by torchrun or alike; leave devices= out"
        )
    count = launched if launched > 1 else max(gpus, 1) if devices == "auto" else int(devices)
    if count == 1:
        return 1
    device_map = model.get("device_map")
    if device_map is not None:
        raise UserError(
            f"devices={count} and model.device_map={device_map}: each process has a whole backbone on one device; "
            "give one of the two keys"
        )
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(
            f"devices={count} and model.device={device}: expected auto, cpu or cuda, of which each process has one"
        )
    if launched == 1 and gpus and count > gpus:
        raise UserError(f"devices={count}: this machine has {gpus} GPUs; model.device=cpu takes its cores")
    return count


def context_length(backbone: Backbone) -> int:
    """How many tokens a backbone's context has."""
    return int(backbone.model.config.get_text_config().max_position_embeddings)


def check_context(backbone: Backbone, answers: Mapping[str, int]) -> None:
    """Raise UserError where an answer may get longer than a backbone's context: its memory would be taken for nothing.

    Args:
        answers: key -> how many tokens an answer may have by it.
    """
    context = context_length(backbone)
    for key, tokens in answers.items():
        if tokens > context:
            raise UserError(f"{key}={tokens}: the backbone's context has {context:,} tokens; give fewer")


def check_taken(
    model: Mapping[str, Any],
    samples: Sequence[Sample],
    sizes: Mapping[str, Size],
    answers: Mapping[str, int] | None = None,
) -> None:
    """Check that a backbone takes the samples: their questions, their pictures as far as their sizes are known, their answers.

    Args:
        model: a config's group `model`.
        answers: key -> how many tokens an answer may have by it.

    Raises:
        UserError: a question holds what stands for a picture, the processor refuses a picture, or an answer may get longer
            than the backbone's context; names it.
    """
    path, revision, options = model["path"], model["revision"], picture_options(model)
    backbone = outlined(path, revision=revision)
    check_context(backbone, answers or {})
    template = prompt_template(path, model["template"], revision=revision, **options)
    for sample in samples:
        for token in template.reserved:
            if token in sample.question:
                raise UserError(
                    f"question {sample.id} holds {token!r}, which stands for a picture: take it out; the template "
                    "places the one picture itself"
                )
    check_sizes(
        samples, sizes, PictureShapes(Backbone.of(backbone, processor_of(path, revision=revision, **options)))
    )


def check_questions(model: Mapping[str, Any], questions: Questions) -> None:
    """Check that a backbone takes a benchmark's questions, and answers of the length that it asks for: see `check_taken`."""
    longest = {"bench.max_new_tokens": questions.benchmark.max_new_tokens}
    check_taken(model, questions.samples, questions.sizes, longest)


def check_boxes(
    policy: Policy | None,
    benchmark: str,
    samples: Sequence[Sample],
    sizes: Mapping[str, Size],
    model: Mapping[str, Any],
) -> list[str]:
    """Return a warning of boxes that the backbone sees nothing of, where a policy goes by boxes.

    Args:
        sizes: of the samples' pictures; those without are seen whole, as scenes are.
        model: a config's group `model`.

    Raises:
        ValueError: no question has a box.
    """
    if policy is None or policy.selector != "box":
        return []
    boxes = [(sample, sample.details.get("box")) for sample in samples]
    boxed = [(sample, box) for sample, box in boxes if box is not None]
    if not boxed:
        raise UserError(
            f"selector=box goes by the box of what a question is about, and none of the {len(samples):,} of {benchmark} has "
            "one: take data=scenes, bench=questions with boxes, or selector=saliency"
        )
    path, revision = model["path"], model["revision"]
    processor = processor_of(path, revision=revision, **picture_options(model))
    views = ViewMaker(processor, grid=outlined(path, revision=revision).grid)
    unseen = [
        sample.id
        for sample, box in boxed
        if sample.image in sizes and seen_box(box, views.window(sizes[sample.image])) is None
    ]
    if not unseen:
        return []
    return [
        f"selector=box: {len(unseen):,} of {len(boxed):,} boxes lie outside what the backbone sees of their pictures, such as "
        f"that of {unseen[0]}; nothing is expanded for these"
    ]
