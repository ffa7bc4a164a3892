"""Read the questions of a benchmark from the hub, a folder or the embedded world, and decode every picture once.

Flat arguments in, plain values out; results are kept, since the jobs of a sweep ask for the same things.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from rich.progress import track

from blink.bench import BENCHMARKS, Benchmark, Judge, Sample
from blink.bench.base import Graded
from blink.bench.readers.sources import HUB_KEY
from blink.runs.files import short_digest
from blink.runs.inputs.pictures import AS_AUTHORS, Notes, Rules
from blink.runs.values import UserError

log = logging.getLogger(__name__)

Setting = tuple[str, int | str | tuple[str, ...] | Judge | None]
"""A key of a benchmark's config and its value, hashable."""


Size = tuple[int, int]
"""Width and height of a picture, in pixels."""


class Questions(NamedTuple):
    """A benchmark and the samples to ask.

    Attributes:
        samples: those about one picture side by side.
        data: where they come from, in words.
        edition: what they are where that is not a whole edition of the benchmark: generated, or the first few; or None.
        pictures: hash of the pictures' names and pixels; None where they are drawn from the data's description.
        sizes: (width, height) of each picture by its name; none where they are drawn.
    """

    benchmark: Benchmark
    samples: list[Sample]
    data: str
    edition: str | None
    pictures: str | None
    sizes: Mapping[str, Size]


class Checked(NamedTuple):
    """Pictures that were decoded.

    Attributes:
        digest: hash of their names, sizes and pixels.
        sizes: (width, height) of each by its name.
    """

    digest: str
    sizes: dict[str, Size]


@lru_cache(maxsize=4)
def read_questions(
    name: str,
    settings: tuple[Setting, ...],
    *,
    source: str,
    location: str | None,
    scenes_split: str,
    scenes_images: int,
    scenes_difficulty: str | None = None,
    limit: int | None,
    rules: Rules = AS_AUTHORS,
) -> Questions:
    """Read a benchmark's questions, and every picture once if it is not drawn here.

    Args:
        settings: arguments of the benchmark.
        source: "scenes", "hub" or "local".
        location: folder for "local"; data set id for "hub", None for the benchmark's own.
        scenes_split: which split of the generated world.
        scenes_images: how many pictures of it.
        scenes_difficulty: of all of them; None mixes easy, ordinary and hard ones.
        limit: ask only the first so many questions; None asks all.
        rules: how pictures of a folder are found and read.

    Raises:
        UserError: an unknown benchmark or source, a missing folder, an unreadable picture, or no question left.
    """
    if name not in BENCHMARKS:
        raise UserError(f"unknown benchmark {name!r}; choose one of {', '.join(BENCHMARKS)}")
    if source != "local" and rules != AS_AUTHORS:
        raise UserError(
            f"data.exif and data.allow_outside are for files in data.root, and the questions come from data={source}"
        )
    arguments: dict[str, Any] = dict(settings) | (
        {"hub_id": location} if source == "hub" and location else {}
    )
    benchmark = BENCHMARKS[name](**arguments)
    samples, data = _read(benchmark, source, location, scenes_split, scenes_images, scenes_difficulty, rules)
    chosen = samples if limit is None else samples[: max(0, limit)]
    if not chosen:
        raise UserError(
            f"{name} has no questions left: {len(samples)} in {data}, limit={limit}; raise the limit"
            if samples
            else f"{name} has no questions left: 0 in {data}, of which keys of bench may leave out some"
        )
    if isinstance(benchmark, Graded):
        benchmark.check_gradable([sample.id for sample in chosen])
    if source == "scenes":
        digest, sizes = None, dict[str, Size]()
    else:
        known = _trusted.get(samples_digest(chosen))
        digest, sizes = check_pictures(chosen, rules) if known is None else Checked(known, {})
    edition = f"generated: {data}" if source == "scenes" else None
    if len(chosen) < len(samples):
        edition = f"the first {len(chosen):,} of {len(samples):,} questions of {data}"
    return Questions(benchmark, chosen, data, edition, digest, sizes)


_trusted: dict[str, str] = {}
"""Digest of samples -> digest of their pictures, which another process has checked."""


def trust_pictures(samples: str, pictures: str | None) -> None:
    """Note that another process has decoded the pictures of some samples, so that this one need not.

    Args:
        samples: their `samples_digest`.
        pictures: digest of the pictures, as in `Questions`.
    """
    if pictures is not None:
        _trusted[samples] = pictures


def samples_digest(samples: Sequence[Sample]) -> str:
    """Return a hash of the samples without their pictures' pixels, by which a changed data set is noticed."""
    text = json.dumps(
        [(s.id, s.image, s.question, s.label, s.split, dict(s.details)) for s in samples], sort_keys=True
    )
    return short_digest(text)


def check_pictures(samples: Sequence[Sample], rules: Rules) -> Checked:
    """Decode every picture once; special ones are logged.

    Args:
        rules: that they are read by.

    Raises:
        UserError: one of them cannot be read; says which.
    """
    digest, notes, sizes = sha256(), Notes(), dict[str, Size]()
    pictures = {sample.image: sample for sample in samples}
    for name, sample in track(list(pictures.items()), "checking pictures", transient=True):
        image = sample.load_image()
        digest.update(f"{name} {image.size}\n".encode())
        digest.update(image.tobytes())
        notes.add(name, image)
        sizes[name] = image.size
    for line in notes.lines(rules.reading):
        log.warning("%s", line)
    return Checked(digest.hexdigest()[:16], sizes)


def check_sizes(
    samples: Sequence[Sample], sizes: Mapping[str, Size], shape: Callable[[Size], object]
) -> None:
    """Raise unless a processor takes pictures of all sizes. Those that stand out are tried; all of them if one is refused.

    Args:
        sizes: of the samples' pictures.
        shape: what the processor makes of a picture of one size; raises ValueError where it refuses that.

    Raises:
        UserError: it refuses one; names the first question about such a picture, the size, and how many there are.
    """
    every = sorted({sizes[sample.image] for sample in samples if sample.image in sizes})
    utmost = {pick(every, key=key) for pick in (min, max) for key in (_elongation, min, max) if every}
    if all(_refusal(shape, size) is None for size in utmost):
        return
    reasons = {size: _refusal(shape, size) for size in every}
    refused = [sample for sample in samples if reasons[sizes[sample.image]]]
    width, height = sizes[refused[0].image]
    raise UserError(
        f"question {refused[0].id}: the backbone's processor takes no picture of {width} x {height} pixels "
        f"({reasons[width, height]}), and {len(refused):,} of {len(samples):,} questions are about such; leave them out, "
        "or pad or cut their pictures"
    )


def _elongation(size: Size) -> float:
    """Width over height."""
    return size[0] / size[1]


def _refusal(shape: Callable[[Size], object], size: Size) -> str | None:
    """Why a processor takes no picture of a size; None if it does."""
    try:
        shape(size)
    except ValueError as error:
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return None


def _read(
    benchmark: Benchmark,
    source: str,
    location: str | None,
    scenes_split: str,
    scenes_images: int,
    scenes_difficulty: str | None,
    rules: Rules,
) -> tuple[list[Sample], str]:
    if source == "scenes":
        samples = benchmark.from_scenes(scenes_split, scenes_images, scenes_difficulty)
        which = f"{scenes_difficulty} pictures" if scenes_difficulty else "pictures"
        return samples, f"scenes {scenes_split}, {scenes_images} {which}"
    if source == "hub":
        return benchmark.from_hub("data.id" if location else HUB_KEY), f"hub {location or 'default'}"
    if source == "local":
        folder = None if location is None else Path(location).expanduser()
        if folder is None or not folder.is_dir():
            raise UserError(
                f"data.root={location} is not a folder; give the one that holds {benchmark.name} (data/README.md says what "
                "to put where, and data=hub fetches it)"
            )
        turned = ", turned by EXIF" if rules.reading.upright else ""
        return benchmark.from_folder(folder, rules), f"{location}{turned}"
    raise UserError(f"unknown data source {source!r}; choose scenes, hub or local")
