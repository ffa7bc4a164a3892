"""Checks and reads what an evaluation needs before any weight is read: questions, pictures, modules, fit.

Flat arguments in, plain values out; results are kept, since the jobs of a sweep ask for the same things.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache, reduce
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.progress import track
from transformers.utils import is_flash_attn_2_available

from blink.bench import BENCHMARKS, PROMPTS, Benchmark, Judge, Sample
from blink.bench.base import Graded, side_by_side
from blink.evaluation.presets import LAYER_STUDIES
from blink.inference.attach import attach
from blink.inference.policy import Policy
from blink.model.backbone import Backbone
from blink.model.checkpoints import TINY, check_device_map, outline
from blink.model.token_sr import token_sr_config
from blink.scenes.draw import SPLIT_SIZE

Setting = tuple[str, int | str | tuple[str, ...] | Judge | None]
"""A key of a benchmark's config and its value, hashable."""

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


class Questions(NamedTuple):
    """A benchmark and the samples to ask.

    Attributes:
        samples: those about one picture side by side.
        data: where they come from, in words.
        edition: what they are where that is not a whole edition of the benchmark: generated, or the first few; or None.
        pictures: hash of the pictures' names and pixels; None where they are drawn from the data's description.
    """

    benchmark: Benchmark
    samples: list[Sample]
    data: str
    edition: str | None
    pictures: str | None


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


@lru_cache(maxsize=4)
def read_questions(
    name: str,
    settings: tuple[Setting, ...],
    *,
    source: str,
    place: str | None,
    scenes_split: str,
    scenes_images: int,
    limit: int | None,
) -> Questions:
    """Read a benchmark's questions, and every picture once if it is not drawn here.

    Args:
        settings: arguments of the benchmark.
        source: "scenes", "hub" or "local".
        place: folder for "local"; data set id for "hub", None for the benchmark's own.
        scenes_split: which split of the generated world.
        scenes_images: how many pictures of it.
        limit: ask only the first so many questions; None asks all.

    Raises:
        ValueError: an unknown benchmark or source, a missing folder, an unreadable picture, or no question left.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"unknown benchmark {name!r}; choose one of {', '.join(BENCHMARKS)}")
    arguments = dict(settings) | ({"hub_id": place} if source == "hub" and place else {})
    benchmark = BENCHMARKS[name](**arguments)
    samples, data = _read(benchmark, source, place, scenes_split, scenes_images)
    asked = side_by_side(samples if limit is None else samples[: max(0, limit)])
    if not asked:
        raise ValueError(
            f"{name} has no questions left: {len(samples)} in {data}, limit={limit}; raise the limit, or loosen the "
            "benchmark's filters"
        )
    if isinstance(benchmark, Graded):
        benchmark.check_gradable([sample.id for sample in asked])
    digest = None if source == "scenes" else _check_pictures(asked)
    edition = f"generated: {data}" if source == "scenes" else None
    if len(asked) < len(samples):
        edition = f"the first {len(asked):,} of {len(samples):,} questions of {data}"
    return Questions(benchmark, asked, data, edition, digest)


@lru_cache(maxsize=16)
def check_fit(
    path: str, revision: str | None, layers: Sequence[int], patches: int, token_sr: str | None
) -> None:
    """Check scanned layers, regions and modules against a backbone, of which only the config is read.

    Raises:
        ValueError: what does not fit; says what was found and what to do.
    """
    attach(outlined(path, revision), Policy(layers, patches=patches), token_sr).detach()


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
    backbone = str(recorded["backbone"])
    if Path(backbone).resolve() != Path(path).resolve():
        found.append(
            f"the modules in {token_sr} were trained on the backbone {backbone}, and this one is {path}: unless "
            "these are the same weights, scores of Blink mean little"
        )
    trained_behind = recorded.get("prompt_prefix")
    if trained_behind is not None and trained_behind != prefix:
        found.append(
            f"the modules in {token_sr} were trained behind the prompt prefix {trained_behind!r}, and this run's is "
            f"{prefix!r}: visual tokens depend on it; choose the model.template of the training"
        )
    return found


def _check_pictures(samples: Sequence[Sample]) -> str:
    """Decode every picture once, and return a hash of their names, sizes and pixels.

    Raises:
        ValueError: one of them cannot be read; says which.
    """
    digest = sha256()
    pictures = {sample.image: sample for sample in samples}
    for name, sample in track(list(pictures.items()), "checking pictures", transient=True):
        image = sample.load_image()
        digest.update(f"{name} {image.size}\n".encode())
        digest.update(image.tobytes())
    return digest.hexdigest()[:16]


def _read(
    benchmark: Benchmark, source: str, place: str | None, scenes_split: str, scenes_images: int
) -> tuple[list[Sample], str]:
    if source == "scenes":
        samples = benchmark.from_scenes(scenes_split, scenes_images)
        return samples, f"scenes {scenes_split}, {scenes_images} pictures"
    if source == "hub":
        return benchmark.from_hub(), f"hub {place or 'default'}"
    if source == "local":
        folder = None if place is None else Path(place).expanduser()
        if folder is None or not folder.is_dir():
            raise ValueError(
                f"data.root={place} is not a folder; give the one that holds {benchmark.name} (data/README.md says what "
                "to put where, and data=hub fetches it)"
            )
        try:
            return benchmark.from_folder(folder), str(place)
        except (KeyError, TypeError, AttributeError) as cause:  # as when a list stands where names should
            raise ValueError(
                f"a file in {place} is not as the authors of {benchmark.name} write it: {cause!r}; data/README.md says "
                "what belongs there"
            ) from cause
    raise ValueError(f"unknown data source {source!r}; choose scenes, hub or local")


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
