"""A backbone as an answerer: samples about one picture in, each run's greedy answers out, and what each question costs."""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from copy import copy
from typing import Any, Self

from PIL import Image

from blink.evaluation.answering.meter import Meter
from blink.evaluation.answering.not_finite import first_not_finite
from blink.evaluation.answering.parts import Part, Picture, fitting, naming, seen_or_none
from blink.evaluation.answering.predict import Asked, Reply
from blink.evaluation.answering.zoom import in_two_passes
from blink.evaluation.planning.plan import Plan
from blink.inference.engine import Answer, Ask, Engine
from blink.inference.run import Run
from blink.model.backbone import Backbone
from blink.model.image_inputs import PictureShapes, processed
from blink.model.prompts import Template
from blink.model.views import ViewMaker
from blink.runs.parallel.ahead import Ahead, default_workers
from blink.runs.values import NotFiniteError

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
        apart: answer by `generate`, so many questions in a padded batch, with Blink attached for the length of the call; the
            answers are the same, and nothing is shared between questions and runs. None: by the engine.
        zooms: numbers of the runs whose policy decides about a second pass (`answering/zoom.py`).
        pictures: most that are answered at once; None: as `Engine.answer_many` chooses.
        workers: processes that read pictures ahead; 0: none.

    Attributes:
        waited: seconds that the model has waited for pictures, in the last call of `answer_many` so far.

    Raises:
        ValueError: `apart`, and policy and modules of a run do not fit the backbone.
    """

    def __init__(
        self,
        backbone: Backbone,
        template: Template,
        runs: Sequence[Run],
        *,
        max_new_tokens: int,
        memory_gb: float = 4.0,
        apart: int | None = None,
        zooms: Collection[int] = (),
        pictures: int | None = None,
        workers: int = 0,
    ) -> None:
        self.backbone = backbone
        self.engine = Engine(backbone, memory_gb=memory_gb)
        self.template = template
        self.runs = runs if apart is None else [run.resolve(backbone) for run in runs]
        self.max_new_tokens = max_new_tokens
        self.apart = apart
        self.shapes = PictureShapes(backbone)
        self.zooms = tuple(sorted(zooms))
        self.pictures, self.workers = pictures, workers
        self.waited = 0.0
        self._views = ViewMaker(backbone.processor, grid=backbone.grid)
        self.meters = [
            Meter(backbone, run.policy, run.token_sr, self.shapes, zooms=number in self.zooms)
            for number, run in enumerate(runs)
        ]

    def with_runs(self, runs: Sequence[Run], max_new_tokens: int) -> Self:
        """An answerer of other runs with the same backbone and engine, which keeps the modules that it has read."""
        other = copy(self)
        other.runs = runs if self.apart is None else [run.resolve(self.backbone) for run in runs]
        other.max_new_tokens = max_new_tokens
        other.zooms = ()
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
        pictures, self.waited = Ahead(asked, self._opened, workers=self.workers), 0.0
        under_way: deque[Asked] = deque()
        read: deque[Picture] = deque()

        def begun() -> Iterator[Picture]:
            for one, opened in zip(asked, pictures, strict=True):
                self.waited = pictures.waited
                if stop():
                    return
                under_way.append(one)
                read.append(self._picture(one, *opened))
                yield read[-1]

        with naming(under_way):
            if self.apart is not None or self.zooms:
                found = self._groups(begun())
            else:  # all runs together, and as many pictures as the engine takes
                found = self._passed(Part.whole(picture, picture.runs) for picture in begun())
            for answers in found:
                under_way.popleft()
                yield self._replies(read.popleft(), answers)

    def _opened(self, asked: Asked) -> tuple[Image.Image, Any]:
        """Read a picture and do all that needs no model; runs in worker processes, which send it here."""
        image = asked.samples[0].load_image()
        inputs = None
        if self.apart is None:
            first = self.template.prompt(asked.samples[0].question)
            inputs = processed(self.backbone.processor, [image], [first])
        return image, inputs

    def _picture(self, asked: Asked, image: Image.Image, inputs: Any) -> Picture:
        """A picture that was read, with the runs that answer about it: some may not fit."""
        grid, window = self.shapes(image.size).grid, self._views.window(image.size)
        fits = {run: fitting(self.runs[run], grid) for run in asked.runs}
        return Picture(
            asked.samples,
            image,
            inputs,
            grid,
            runs={run: found for run, (found, _) in fits.items()},
            without_blink={run: why for run, (_, why) in fits.items() if why is not None},
            boxes=[seen_or_none(sample.details.get("box"), window) for sample in asked.samples],
        )

    def _groups(self, pictures: Iterable[Picture]) -> Iterator[list[list[Answer]]]:
        """Answer pictures some at a time, where runs take another pass that follows from the first, or share nothing.

        In the latter case as many as hold the questions of one batch.
        """
        group: list[Picture] = []
        for picture in pictures:
            group.append(picture)
            if self.apart is None:
                full = len(group) == (self.pictures or _ZOOMED_AT_ONCE)
            else:
                full = sum(len(one.samples) for one in group) >= self.apart
            if full:
                yield from self._answer_group(group)
                group = []
        if group:
            yield from self._answer_group(group)

    def _answer_group(self, pictures: Sequence[Picture]) -> list[list[list[Answer]]]:
        """Answer pictures by the runs that take one pass, and then by each that takes two."""
        found: list[dict[int, list[Answer]]] = [{} for _ in pictures]
        # a run that answers without Blink does not zoom
        two = [
            [run for run in self.zooms if run in picture.runs and run not in picture.without_blink]
            for picture in pictures
        ]
        once = [
            (number, Part.whole(picture, runs))
            for number, picture in enumerate(pictures)
            if (runs := {run: each for run, each in picture.runs.items() if run not in two[number]})
        ]
        for (number, part), by_run in zip(once, self._passed([part for _, part in once]), strict=True):
            found[number] |= zip(part.runs, by_run, strict=True)
        for run in self.zooms:
            numbers = [number for number, runs in enumerate(two) if run in runs]
            zoomed = in_two_passes(run, [pictures[number] for number in numbers], self._passed)
            for number, answers in zip(numbers, zoomed, strict=True):
                found[number][run] = answers
        return [
            [of_picture[run] for run in picture.runs]
            for of_picture, picture in zip(found, pictures, strict=True)
        ]

    def _passed(self, parts: Iterable[Part]) -> Iterator[list[list[Answer]]]:
        """Answer samples in one pass each: for each part, for each of its runs, one answer per sample."""
        under_way: dict[int, Part] = {}  # and no longer, as they hold pictures

        def asks() -> Iterator[Ask]:
            for number, part in enumerate(parts):
                under_way[number] = part
                yield self._ask(part)

        try:
            found: Iterable[list[list[Answer]]]
            if self.apart is None:
                found = self.engine.answer_many(
                    asks(), max_new_tokens=self.max_new_tokens, pictures=self.pictures
                )
            else:
                found = self.engine.answer_apart(
                    list(asks()), max_new_tokens=self.max_new_tokens, batch=self.apart
                )
            for number, answers in enumerate(found):
                del under_way[number]
                yield answers
        except NotFiniteError as error:
            part = under_way[min(under_way) if error.ask is None else error.ask]
            raise self._named(error, part, int(error.sample or 0)) from error

    def _ask(self, part: Part) -> Ask:
        """A part as the engine takes it."""
        picture = part.picture
        by_box = any(run.policy is not None and run.policy.selector == "box" for run in part.runs.values())
        return Ask(
            picture.image,
            [self.template.prompt(picture.samples[number].question) for number in part.numbers],
            list(part.runs.values()),
            boxes=list(part.boxes) if by_box else None,
            processed=picture.inputs if part.numbers[0] == 0 else None,  # which are about the first sample
        )

    def _replies(self, picture: Picture, answers: Sequence[Sequence[Answer]]) -> list[list[Reply]]:
        """Each run's answers about a picture, with what they cost and why they came without Blink."""
        size = picture.image.size
        prompts = [self.template.prompt(sample.question) for sample in picture.samples]
        return [
            [
                Reply(
                    answer,
                    self.meters[run](size, prompt, answer.events, len(answer.ids)),
                    picture.without_blink.get(run),
                )
                for prompt, answer in zip(prompts, of_run, strict=True)
            ]
            for run, of_run in zip(picture.runs, answers, strict=True)
        ]

    def _named(self, error: NotFiniteError, part: Part, place: int) -> NotFiniteError:
        """An error about numbers that are not finite, of one of a part's samples, with the question's name and the layer."""
        sample = part.picture.samples[part.numbers[place]]
        prompt = self.template.prompt(sample.question)
        layer = (
            first_not_finite(self.backbone, part.picture.image, prompt)
            if error.layer is None
            else error.layer
        )
        return NotFiniteError(error.what, layer=layer, sample=f"question {sample.id}")


def load_answerer(plans: Sequence[Plan]) -> BackboneAnswerer:
    """Load the backbone of some plans that agree in it, in the benchmark and in the template; runs are numbered as the plans."""
    first = plans[0]
    return BackboneAnswerer(
        first.backbone.load(),
        first.template,
        [Run(plan.policy, plan.token_sr) for plan in plans],
        max_new_tokens=first.benchmark.max_new_tokens,
        memory_gb=first.memory_gb,
        apart=first.batch if first.reuse == "none" else None,
        zooms=[number for number, plan in enumerate(plans) if plan.zooms],
        pictures=first.pictures,
        workers=default_workers(first.processes) if first.workers is None else first.workers,
    )
