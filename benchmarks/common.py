"""What the measurements share: backbones, interleaved repetitions, and rows that say what was found.

Both sides of a comparison run in one process, one after the other, again and again; the ratio of a repetition is that
of its two neighbours. Only ratios mean something beyond the machine they were measured on.
"""

import argparse
import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import nn

from benchmarks.shared_cost import Asked, shared
from blink import Policy, Run, TokenSR
from blink.bench.base import Benchmark
from blink.bench.pope import Pope
from blink.evaluation.answering.cost import token_sr as token_sr_cost
from blink.evaluation.planning.presets import resolve
from blink.inference.engine import Answer
from blink.model.backbone import Backbone
from blink.model.checkpoints import load_backbone
from blink.model.dimensions import Dimensions
from blink.model.fingerprint import TINY
from blink.model.prompts import Template, template_named
from blink.runs.machine import has_bfloat16
from tests import models

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Options(NamedTuple):
    """The command line of a measurement.

    Attributes:
        layers: decoder layers of the wide backbone; None is the measurement's own choice.
        repeats: of each side; None is the measurement's own choice.
        quick: small stand-ins, to see that it works.
        dtypes: of the wide backbone; None is the measurement's own choice.
        hidden: width of the wide backbone.
    """

    layers: int | None = None
    repeats: int | None = None
    quick: bool = False
    dtypes: tuple[str, ...] | None = None
    hidden: int = 4096

    @classmethod
    def of(cls, read: argparse.Namespace) -> "Options":
        """The options among what a parser of `command_line` has read."""
        return cls(
            read.layers, read.repeats, read.quick, tuple(read.dtypes) if read.dtypes else None, read.hidden
        )


class Times(NamedTuple):
    """Seconds of both sides, repetition by repetition."""

    ours: list[float]
    theirs: list[float]

    @property
    def ratios(self) -> list[float]:
        return [a / b for a, b in zip(self.ours, self.theirs, strict=True)]

    @property
    def ratio(self) -> float:
        """Of the medians."""
        return statistics.median(self.ours) / statistics.median(self.theirs)


class Row(NamedTuple):
    """One line of the table.

    Attributes:
        what: the two sides.
        where: backbone, layers, dtype.
        value: what is held against the bar; `low` and `high` are the extremes over repetitions.
        bar: in words, such as "<= 1.03".
        holds: whether `value` meets it.
        floor: the same ratio in FLOPs on paper; None where it says nothing.
        note: what else to know.
    """

    what: str
    where: str
    value: float
    low: float
    high: float
    bar: str
    holds: bool
    floor: float | None = None
    note: str = ""

    @classmethod
    def at_most(
        cls,
        bar: float,
        what: str,
        where: str,
        times: Times,
        *,
        floor: float | None = None,
        over_floor: bool = False,
        note: str = "",
    ) -> "Row":
        """A ratio of times that must not exceed `bar`; with `over_floor` that ratio divided by the one in FLOPs."""
        unit = floor if over_floor and floor else 1.0
        low, value, high = (ratio / unit for ratio in (min(times.ratios), times.ratio, max(times.ratios)))
        return cls(what, where, value, low, high, f"<= {bar:g}", value <= bar, floor, note)


class Picture(NamedTuple):
    """A picture and the prompts about it."""

    image: Image.Image
    prompts: list[str]


class Bench(NamedTuple):
    """A backbone to measure on.

    Attributes:
        name: for the table.
        wide: whether it has LLaVA-1.5's width (or the quick stand-in for it), with random weights.
    """

    name: str
    wide: bool
    backbone: Backbone
    template: Template
    dims: Dimensions

    @property
    def model(self) -> Any:
        return self.backbone.model

    @property
    def processor(self) -> Any:
        return self.backbone.processor

    def inputs(self, question: str = "Is there a dog in the image?", seed: int = 0) -> Any:
        """What the processor makes of a picture and a question."""
        made = self.processor(
            images=models.noise(seed), text=self.template.prompt(question), return_tensors="pt"
        )
        return made.to(self.model.device, self.model.dtype)

    def lengths(self, prompts: Sequence[str]) -> tuple[int, list[int]]:
        """Tokens of the trunk (prefix and picture), which all prompts share, and of each prompt behind it."""
        ids = [self.processor.tokenizer(prompt)["input_ids"] for prompt in prompts]
        prefix = ids[0].index(self.model.config.image_token_id)
        return prefix + self.dims.visual, [len(row) - prefix - 1 for row in ids]


def interleave(
    ours: Callable[[], object], theirs: Callable[[], object], repeats: int, *, warm_up: bool = True
) -> Times:
    """Time two functions in turn, after one unmeasured call of each."""
    return Times(*in_turn((ours, theirs), repeats, warm_up=warm_up))


def in_turn(
    sides: Sequence[Callable[[], object]], repeats: int, *, warm_up: bool = True
) -> list[list[float]]:
    """Time several functions in turn, after one unmeasured call of each: the seconds of each, by repetition.

    Every other turn is backwards, so that none is always the one that runs behind a certain other.
    """
    now = clock()
    times: list[list[float]] = [[] for _ in sides]
    for repeat in range(-1 if warm_up else 0, repeats):
        turn = list(zip(sides, times, strict=True))
        for side, seconds in reversed(turn) if repeat % 2 else turn:
            started = now()
            side()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if repeat >= 0:
                seconds.append(now() - started)
    return times


def clock() -> Callable[[], float]:
    """What seconds are counted by: on one thread of a CPU those that it ran, which other programs hardly disturb."""
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    return time.process_time if alone else time.perf_counter


def load_average() -> float:
    """Of the last minute: how many threads of any program wanted a core; -1 where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else -1.0


def tiny(dtype: str = "float32") -> Bench:
    """The backbone that ships with the project."""
    backbone = load_backbone("tiny", device=_device(), dtype=dtype)
    dims, name = Dimensions.of(backbone.model, dtype), f"tiny, {dtype}"
    return Bench(name, False, backbone, template_named("vicuna_v1"), dims)


def wide(options: Options, *, layers: int, dtypes: tuple[str, ...] | None = None) -> Iterator[Bench]:
    """LLaVA-1.5's width with a few decoder layers and two of the vision tower, one dtype at a time.

    Args:
        dtypes: unless the options name others; None: float32, and bfloat16 where the machine multiplies it.
    """
    layers = options.layers or layers
    hidden = 256 if options.quick else options.hidden
    capable = tuple(DTYPES) if has_bfloat16() else ("float32",)
    for dtype in options.dtypes or dtypes or capable:
        model: Any = models.true_width(layers=layers, vision_layers=2, hidden=hidden, dtype=DTYPES[dtype])
        model.to(_device())
        width = "LLaVA-1.5's width" if hidden == 4096 else f"width {hidden}"
        yield Bench(
            name=f"{width}, {layers} layers, {dtype}",
            wide=True,
            backbone=Backbone(model, models.processor(model)),
            template=template_named("vicuna_v1"),
            dims=Dimensions.of(model, dtype),
        )
        del model
        gc.collect()


def pope_pictures(bench: Bench, count: int) -> list[Picture]:
    """The first `count` test scenes, each with its 18 questions of POPE."""
    return pictures_of(bench, Pope(), count)


def pictures_of(
    bench: Bench, benchmark: Benchmark, count: int, questions: int | None = None
) -> list[Picture]:
    """The first `count` test scenes, each with the first `questions` of a benchmark's, or all of them."""
    pictures: dict[str, Picture] = {}
    for sample in benchmark.from_scenes("test", count):
        picture = pictures.setdefault(sample.image, Picture(sample.load_image(), []))
        picture.prompts.append(bench.template.prompt(sample.question))
    return [Picture(image, prompts[:questions]) for image, prompts in pictures.values()]


def shipped_run() -> Run:
    """The tiny backbone's policy for POPE, with the modules that ship with the project."""
    scan = resolve("tiny", "pope")
    return Run(Policy(scan.layers, scan.tau_exp, scan.tau_drop), str(TINY / "token_sr"))


def shared_flops(bench: Bench, picture: Picture, answers: Sequence[Sequence[Answer]]) -> int:
    """FLOPs on paper of what an engine answered about one picture, each distinct piece of work once.

    Args:
        answers: per run, one for each prompt.
    """
    trunk, texts = bench.lengths(picture.prompts)
    asked = [
        Asked(number, text, answer.events, len(answer.ids))
        for of_run in answers
        for number, (text, answer) in enumerate(zip(texts, of_run, strict=True))
    ]
    return shared(bench.dims, trunk, asked, expander=token_sr_cost(bench.dims)).flops


def token_sr(bench: Bench, layers: tuple[int, ...]) -> dict[int, nn.Module]:
    """One random TokenSR of the backbone's width that serves all layers: what it says does not matter here."""
    with torch.device(bench.model.device):
        module = TokenSR(bench.dims.hidden).to(bench.model.dtype).requires_grad_(False).eval()
    return dict.fromkeys(layers, module)


def command_line(part: str, description: str | None) -> argparse.ArgumentParser:
    """The parser of a measurement's options, for `Options.of`.

    Args:
        part: module within `benchmarks`; "" for all of them.
    """
    parser = bare_command_line(part, description)
    parser.add_argument("--layers", type=int, help="decoder layers of the wide backbone")
    parser.add_argument("--repeats", type=int, help="repetitions of each side")
    parser.add_argument("--quick", action="store_true", help="small stand-ins, to see that it works")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, help="of the wide backbone")
    parser.add_argument("--hidden", type=int, default=4096, help="width of the wide backbone (default 4096)")
    return parser


def bare_command_line(part: str, description: str | None) -> argparse.ArgumentParser:
    """A parser without options that calls itself as users call it; arguments as in `command_line`."""
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks{part and '.'}{part}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
