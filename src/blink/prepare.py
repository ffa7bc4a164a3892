"""Checks and reads what an evaluation needs before any weight is read: questions, pictures, modules, fit.

Flat arguments in, plain values out; results are kept, since the jobs of a sweep ask for the same things.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from rich.progress import track

from blink.backbone import Backbone
from blink.bench import BENCHMARKS, Benchmark, Sample
from blink.checkpoints import TINY, outline
from blink.handle import attach
from blink.policy import Policy

Setting = tuple[str, int | str | tuple[str, ...] | None]
"""A key of a benchmark's config and its value, hashable."""

_outline = lru_cache(maxsize=4)(outline)


class Questions(NamedTuple):
    """A benchmark, the samples to ask, and where they come from in words."""

    benchmark: Benchmark
    samples: list[Sample]
    data: str


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
    asked = samples if limit is None else samples[: max(0, limit)]
    if not asked:
        raise ValueError(
            f"{name} has no questions left: {len(samples)} in {data}, limit={limit}; raise the limit, or loosen the "
            "benchmark's filters"
        )
    if source != "scenes":
        pictures = {sample.image: sample for sample in asked}
        for sample in track(list(pictures.values()), "checking pictures", transient=True):
            sample.load_image()
    return Questions(benchmark, asked, data)


@lru_cache(maxsize=16)
def check_fit(
    path: str, revision: str | None, layers: Sequence[int], patches: int, token_sr: str | None
) -> None:
    """Check scanned layers, regions and modules against a backbone, of which only the config is read.

    Raises:
        ValueError: what does not fit; says what was found and what to do.
    """
    attach(outlined(path, revision).model, Policy(layers, patches=patches), token_sr).detach()


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


def _read(
    benchmark: Benchmark, source: str, place: str | None, scenes_split: str, scenes_images: int
) -> tuple[list[Sample], str]:
    if source == "scenes":
        samples = benchmark.from_scenes(scenes_split, scenes_images)
        return samples, f"scenes {scenes_split}, {scenes_images} pictures"
    if source == "hub":
        return benchmark.from_hub(), f"hub {place or 'default'}"
    if source == "local":
        if place is None or not Path(place).is_dir():
            raise ValueError(
                f"data.root={place} is not a folder; give the folder that holds {benchmark.name}"
            )
        return benchmark.from_folder(Path(place)), str(place)
    raise ValueError(f"unknown data source {source!r}; choose scenes, hub or local")
