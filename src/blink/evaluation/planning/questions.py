"""Read the questions of a benchmark from the hub, a folder or the embedded world, and decode every picture once.

What was read is kept, since the jobs of a sweep ask for the same things.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig
from rich.progress import track

from blink.bench import BENCHMARKS, JUDGED, Benchmark, Judge, Sample, make_judge
from blink.bench.base import Graded
from blink.bench.readers.sources import HUB_KEY
from blink.runs.config.settings import plain
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


def questions_of(config: DictConfig, limit: int | None = None) -> Questions:
    """Read the questions that `bench`, `data` and `scenes` of a config describe.

    Args:
        limit: ask only the first so many; None asks all.

    Raises:
        ValueError: as `read_questions` does.
    """
    data, bench = plain(config.data), {"prompt": config.prompt, **plain(config.bench)}
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
