"""A backbone as an answerer: samples about one picture in, each run's greedy answers out, and what each question costs."""

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from copy import copy
from itertools import islice
from typing import Any, NamedTuple, Self

from PIL import Image

from blink.bench import Sample
from blink.evaluation.answering.meter import Meter
from blink.evaluation.answering.not_finite import first_not_finite
from blink.evaluation.answering.predict import Asked, Reply, naming
from blink.evaluation.answering.zoom import looking, merged, seeing, shown
from blink.evaluation.planning.plan import Plan
from blink.inference.boxes import Window, seen_box
from blink.inference.engine import Answer, Ask, Engine
from blink.inference.run import Run
from blink.model.backbone import Backbone
from blink.model.families import Grid
from blink.model.image_inputs import PictureShapes, processed
from blink.model.prompts import Template
from blink.model.views import ViewMaker
from blink.runs.parallel.ahead import Ahead, default_workers
from blink.runs.values import NotFiniteError

log = logging.getLogger(__name__)

_ZOOMED_AT_ONCE = 16
"""Pictures whose first passes are answered before their second ones."""


class BackboneAnswerer:
    """Answers samples with a backbone, as several runs would.

    Args:
        backbone: model and processor.
        template: how a question becomes the prompt.
        runs: policy and modules of each; calls name them by index.
        max_new_tokens: how long an answer may get.
        memory_gb: see `Engine`.
        alone: answer every question by a `generate` of its own, with Blink attached for the length of the call; the
            answers are the same, and nothing is shared between questions and runs.
        zooms: numbers of the runs whose policy decides about a second pass (`answering/zoom.py`).
        pictures: most that are answered at once; None: as `Engine.answer_many` chooses.
        workers: processes that read pictures ahead; 0: none.

    Raises:
        ValueError: `alone`, and policy and modules of a run do not fit the backbone.
    """

    def __init__(
        self,
        backbone: Backbone,
        template: Template,
        runs: Sequence[Run],
        *,
        max_new_tokens: int,
        memory_gb: float = 4.0,
        alone: bool = False,
        zooms: Collection[int] = (),
        pictures: int | None = None,
        workers: int = 0,
    ) -> None:
        self.backbone = backbone
        self.engine = Engine(backbone, memory_gb=memory_gb)
        self.template = template
        self.runs = [run.resolve(backbone) for run in runs] if alone else runs
        self.max_new_tokens = max_new_tokens
        self.alone = alone
        self.shapes = PictureShapes(backbone)
        self.zooms = frozenset(zooms)
        self.pictures, self.workers = pictures, workers
        self._views = ViewMaker(backbone.processor, grid=backbone.grid)
        self.meters = [
            Meter(backbone, run.policy, run.token_sr, self.shapes, zooms=number in self.zooms)
            for number, run in enumerate(runs)
        ]

    def with_runs(self, runs: Sequence[Run], max_new_tokens: int) -> Self:
        """An answerer of other runs with the same backbone and engine, which keeps the modules that it has read."""
        other = copy(self)
        other.runs = [run.resolve(self.backbone) for run in runs] if self.alone else runs
        other.max_new_tokens = max_new_tokens
        other.zooms = frozenset()
        other.meters = [Meter(self.backbone, run.policy, run.token_sr, self.shapes) for run in runs]
        return other

    def answer_many(
        self, asked: Sequence[Asked], stop: Callable[[], bool] = lambda: False
    ) -> Iterator[list[list[Reply]]]:
        """Answer samples about pictures, in their order, which worker processes read ahead.

        Runs for which a picture is too narrow answer without Blink.

        Args:
            stop: asked before another picture is begun; once it says so, those that are under way are the last.

        Raises:
            NotFiniteError: nan or infinity among the numbers that an answer follows from; names layer and sample.
        """
        started = time.perf_counter()
        pictures = Ahead(asked, self._opened, workers=self.workers)
        under_way: deque[_Picture] = deque()

        def begun() -> Iterator[_Picture]:
            for one, opened in zip(asked, pictures, strict=True):
                if stop():
                    return
                under_way.append(_Picture(*one, *opened))
                yield under_way[-1]

        with naming(under_way):
            found = self._groups(begun()) if self.alone or self.zooms else self._streamed(begun())
            for answers in found:
                yield self._replies(under_way.popleft(), answers)
        log.info(
            "%.1f s, of which the model waited %.1f s for pictures",
            time.perf_counter() - started,
            pictures.waited,
        )

    def _opened(self, asked: Asked) -> tuple[Image.Image, Any]:
        """Read a picture and do all that needs no model; runs in worker processes, which send it here."""
        image = asked.samples[0].load_image()
        inputs = None
        if not self.alone:
            first = self.template.prompt(asked.samples[0].question)
            inputs = processed(self.backbone.processor, [image], [first])
        return image, inputs

    def _streamed(self, pictures: Iterable["_Picture"]) -> Iterator[list[list[Answer]]]:
        """Answer pictures in one pass each: all runs together."""
        parts = (_Part(picture, self._chosen(picture), range(len(picture.samples))) for picture in pictures)
        return self._passed(parts)

    def _groups(self, pictures: Iterable["_Picture"]) -> Iterator[list[list[Answer]]]:
        """Answer pictures some at a time, where runs take another pass that follows from the first, or each question its own."""
        waiting = iter(pictures)
        while group := list(islice(waiting, 1 if self.alone else self.pictures or _ZOOMED_AT_ONCE)):
            yield from self._answer_group(group)

    def _answer_group(self, pictures: Sequence["_Picture"]) -> list[list[list[Answer]]]:
        chosen = [self._chosen(picture) for picture in pictures]
        found: list[dict[int, list[Answer]]] = [{} for _ in pictures]
        once = [
            {run: each for run, each in of_picture.items() if not self._takes_two(run, each)}
            for of_picture in chosen
        ]
        parts = [
            _Part(picture, runs, range(len(picture.samples)))
            for picture, runs in zip(pictures, once, strict=True)
        ]
        numbers = [number for number, part in enumerate(parts) if part.runs]
        for number, by_run in zip(numbers, self._passed([parts[number] for number in numbers]), strict=True):
            found[number] |= zip(once[number], by_run, strict=True)
        for run in sorted(self.zooms):
            two = [
                n
                for n, of_picture in enumerate(chosen)
                if run in of_picture and self._takes_two(run, of_picture[run])
            ]
            for number, answers in zip(two, self._zoomed(run, [pictures[n] for n in two]), strict=True):
                found[number][run] = answers
        return [[found[n][run] for run in picture.runs] for n, picture in enumerate(pictures)]

    def _takes_two(self, run: int, chosen: Run) -> bool:
        """Whether a run zooms at a picture: not where it answers without Blink."""
        return run in self.zooms and chosen.policy is not None

    def _zoomed(self, run: int, pictures: Sequence["_Picture"]) -> list[list[Answer]]:
        """Answer samples about pictures in two passes."""
        policy = self.runs[run].policy
        assert policy is not None, "the backbone as it is does not zoom"
        parts = [_Part(picture, {run: looking(policy)}, range(len(picture.samples))) for picture in pictures]
        looked = [answers for [answers] in self._passed(parts)]
        boxes = [
            shown(answers, policy, self.shapes(picture.image.size).grid, self._boxes(picture))
            for answers, picture in zip(looked, pictures, strict=True)
        ]
        seen = self._passed(
            [
                _Part(picture, {run: seeing(policy)}, list(of_picture), list(of_picture.values()))
                for picture, of_picture in zip(pictures, boxes, strict=True)
                if of_picture
            ]
        )
        return [
            merged(answers, dict(zip(of_picture, next(seen)[0], strict=True)) if of_picture else {})
            for answers, of_picture in zip(looked, boxes, strict=True)
        ]

    def _chosen(self, picture: "_Picture") -> dict[int, Run]:
        """The runs that answer about a picture; the backbone as it is for those that it is too narrow for."""
        grid = self.shapes(picture.image.size).grid
        return {run: fitting(self.runs[run], grid)[0] for run in picture.runs}

    def _passed(self, parts: Iterable["_Part"]) -> Iterator[list[list[Answer]]]:
        """Answer samples in one pass each: for each part, for each of its runs, one answer per sample."""
        if self.alone:
            yield from map(self._one_by_one, parts)
            return
        begun: list[_Part] = []

        def asks() -> Iterator[Ask]:
            for part in parts:
                begun.append(part)
                yield self._ask(part)

        try:
            yield from self.engine.answer_many(
                asks(), max_new_tokens=self.max_new_tokens, pictures=self.pictures
            )
        except NotFiniteError as error:
            part = begun[error.ask or 0]
            raise self._named(error, part, int(error.sample or 0)) from error

    def _ask(self, part: "_Part") -> Ask:
        """A part as the engine takes it."""
        picture = part.picture
        boxes = self._boxes(picture) if part.boxes is None else part.boxes
        by_box = any(run.policy is not None and run.policy.selector == "box" for run in part.runs.values())
        return Ask(
            picture.image,
            [self.template.prompt(picture.samples[number].question) for number in part.numbers],
            list(part.runs.values()),
            boxes=list(boxes) if by_box else None,
            processed=picture.inputs if part.numbers[0] == 0 else None,  # which are about the first sample
        )

    def _one_by_one(self, part: "_Part") -> list[list[Answer]]:
        """Answer each sample by a `generate` of its own."""
        ask = self._ask(part)
        answers: list[list[Answer]] = [[] for _ in ask.runs]
        for of_run, run in zip(answers, ask.runs, strict=True):
            for place, (prompt, box) in enumerate(
                zip(ask.prompts, ask.boxes or [None] * len(ask.prompts), strict=True)
            ):
                try:
                    of_run.append(
                        self.engine.answer_alone(
                            ask.image, prompt, run, max_new_tokens=self.max_new_tokens, box=box
                        )
                    )
                except NotFiniteError as error:
                    raise self._named(error, part, place) from error
        return answers

    def _boxes(self, picture: "_Picture") -> list[Sequence[float] | None]:
        """The box of what each sample asks about; None where it has none, or the backbone sees nothing of it."""
        window = self._views.window(picture.image.size)
        return [seen_or_none(sample.details.get("box"), window) for sample in picture.samples]

    def _replies(self, picture: "_Picture", answers: Sequence[Sequence[Answer]]) -> list[list[Reply]]:
        """Each run's answers about a picture, with what they cost and why they came without Blink."""
        size, grid = picture.image.size, self.shapes(picture.image.size).grid
        prompts = [self.template.prompt(sample.question) for sample in picture.samples]
        found = []
        for run, of_run in zip(picture.runs, answers, strict=True):
            meter, (_, why) = self.meters[run], fitting(self.runs[run], grid)
            found.append(
                [
                    Reply(answer, meter(size, prompt, answer.events, len(answer.ids)), why)
                    for prompt, answer in zip(prompts, of_run, strict=True)
                ]
            )
        return found

    def _named(self, error: NotFiniteError, part: "_Part", place: int) -> NotFiniteError:
        """An error about numbers that are not finite, of one of a part's samples, with the question's name and the layer."""
        sample = part.picture.samples[part.numbers[place]]
        prompt = self.template.prompt(sample.question)
        layer = (
            first_not_finite(self.backbone, part.picture.image, prompt)
            if error.layer is None
            else error.layer
        )
        return NotFiniteError(error.what, layer=layer, sample=f"question {sample.id}")


class _Picture(NamedTuple):
    """A picture that was read.

    Attributes:
        samples: about it.
        runs: numbers of those that are to answer.
        image: the picture.
        inputs: what the processor makes of it and the first sample's prompt; None where each question is asked alone.
    """

    samples: Sequence[Sample]
    runs: Sequence[int]
    image: Image.Image
    inputs: Any


class _Part(NamedTuple):
    """Samples about a picture that are answered in one pass.

    Attributes:
        runs: number of each -> the run itself.
        numbers: which samples.
        boxes: that runs select by, one per sample; None: those of what the samples ask about.
    """

    picture: _Picture
    runs: Mapping[int, Run]
    numbers: Sequence[int]
    boxes: Sequence[Sequence[float] | None] | None = None


def fitting(run: Run, grid: Grid) -> tuple[Run, str | None]:
    """How a run answers about a picture whose base view has this grid: without Blink where it is too narrow for the regions.

    Returns:
        The run, or that of the backbone as it is; and why it is not the run itself, in words.
    """
    if run.policy is None or run.policy.patches <= min(grid):
        return run, None
    (H, W), p = grid, run.policy.patches
    return Run(), f"the {H} x {W} grid of visual tokens cannot be split into {p} x {p} regions"


def seen_or_none(box: Sequence[float] | None, window: Window) -> Sequence[float] | None:
    """A box, or None where the backbone sees nothing of it through a window."""
    return box if box is not None and seen_box(box, window) is not None else None


def load_answerer(plans: Sequence[Plan]) -> BackboneAnswerer:
    """Load the backbone of some plans that agree in it, in the benchmark and in the template; runs are numbered as the plans."""
    first = plans[0]
    return BackboneAnswerer(
        first.backbone.load(),
        first.template,
        [Run(plan.policy, plan.token_sr) for plan in plans],
        max_new_tokens=first.benchmark.max_new_tokens,
        memory_gb=first.memory_gb,
        alone=first.reuse == "none",
        zooms=[number for number, plan in enumerate(plans) if plan.zooms],
        pictures=first.pictures,
        workers=default_workers(first.processes) if first.workers is None else first.workers,
    )
