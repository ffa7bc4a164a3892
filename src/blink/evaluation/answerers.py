"""A backbone as an answerer: samples about one picture in, each run's greedy answers out, and what each question costs."""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import lru_cache
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor, nn

from blink.bench import Sample
from blink.evaluation.checks import outlined, processor_of
from blink.evaluation.cost import Meter
from blink.evaluation.plan import Checkpoint, Plan
from blink.evaluation.zoom import zoom
from blink.inference.boxes import Window, seen_box
from blink.inference.engine import Answer, Engine
from blink.inference.policy import Policy
from blink.inference.run import Run
from blink.model.backbone import Backbone
from blink.model.checkpoints import load_backbone
from blink.model.families import Grid
from blink.model.image_inputs import PictureShapes, prompt_inputs
from blink.model.prompts import Template
from blink.model.views import ViewMaker
from blink.runs.values import NotFiniteError

log = logging.getLogger(__name__)


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
        zooms: numbers of the runs whose policy decides about a second pass (`zoom.py`).

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
    ) -> None:
        self.backbone = backbone
        self.engine = Engine(backbone, memory_gb=memory_gb)
        self.template = template
        self.runs = [run.resolve(backbone) for run in runs] if alone else runs
        self.max_new_tokens = max_new_tokens
        self.alone = alone
        self.shapes = PictureShapes(backbone)
        self.zooms = frozenset(zooms)
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

    def answer(
        self, image: Image.Image, samples: Sequence[Sample], runs: Sequence[int]
    ) -> list[list[Answer]]:
        """Answer samples about one picture: for each run, one answer per sample in their order.

        Runs for which the picture is too narrow answer without Blink.

        Raises:
            NotFiniteError: nan or infinity among the numbers that an answer follows from; names layer and sample.
        """
        chosen = {run: Run() if self.without_blink(image.size, run) else self.runs[run] for run in runs}
        zooming = {run for run in self.zooms.intersection(runs) if chosen[run].policy is not None}
        boxes = [self._box(image.size, sample) for sample in samples]
        once = [run for run in chosen if run not in zooming]
        found = dict(
            zip(once, self._ask(image, samples, [chosen[run] for run in once], boxes), strict=True)
            if once
            else ()
        )
        for run in zooming:
            found[run] = self._zoom(image, samples, chosen[run].policy, boxes)
        return [found[run] for run in runs]

    def _zoom(
        self,
        image: Image.Image,
        samples: Sequence[Sample],
        policy: Policy | None,
        boxes: Sequence[Sequence[float] | None],
    ) -> list[Answer]:
        """Answer samples in two passes."""
        assert policy is not None, "the backbone as it is does not zoom"

        def ask(
            numbers: Sequence[int], run: Run, shown: Sequence[Sequence[float] | None] | None
        ) -> list[Answer]:
            chosen = [samples[number] for number in numbers]
            return self._ask(image, chosen, [run], shown or [None] * len(chosen))[0]

        return zoom(ask, policy, self._views, image.size, boxes)

    def _ask(
        self,
        image: Image.Image,
        samples: Sequence[Sample],
        runs: Sequence[Run],
        boxes: Sequence[Sequence[float] | None],
    ) -> list[list[Answer]]:
        """Answer samples in one pass each: for each run, one answer per sample."""
        prompts = [self.template.prompt(sample.question) for sample in samples]
        longest = self.max_new_tokens
        if not self.alone:
            by_box = any(run.policy is not None and run.policy.selector == "box" for run in runs)
            with self._named(image, prompts, samples):
                return self.engine.answer(
                    image, prompts, runs, max_new_tokens=longest, boxes=boxes if by_box else None
                )
        answers: list[list[Answer]] = [[] for _ in runs]
        for of_run, run in zip(answers, runs, strict=True):
            for prompt, sample, box in zip(prompts, samples, boxes, strict=True):
                with self._named(image, [prompt], [sample]):
                    of_run.append(
                        self.engine.answer_alone(image, prompt, run, max_new_tokens=longest, box=box)
                    )
        return answers

    def _box(self, size: tuple[int, int], sample: Sample) -> Sequence[float] | None:
        """The box of what a sample asks about; None if it has none, or the backbone sees nothing of it."""
        return seen_or_none(sample.details.get("box"), self._views.window(size))

    def without_blink(self, size: tuple[int, int], run: int) -> str | None:
        """Why a run answers without Blink about pictures of (width, height), in words; None if it does not."""
        return too_narrow(self.runs[run].policy, self.shapes(size).grid)

    @contextmanager
    def _named(self, image: Image.Image, prompts: Sequence[str], samples: Sequence[Sample]) -> Iterator[None]:
        """Context of a call to the engine: errors about numbers that are not finite name the question, and the layer."""
        try:
            yield
        except NotFiniteError as error:
            number = int(error.sample or 0)
            layer = (
                error.layer
                if error.layer is not None
                else first_not_finite(self.backbone, image, prompts[number])
            )
            raise NotFiniteError(error.what, layer=layer, sample=f"question {samples[number].id}") from error

    def flops(self, size: tuple[int, int], sample: Sample, answer: Answer, run: int) -> int | None:
        """FLOPs of a question answered alone, about a picture of (width, height); None if they are not counted."""
        prompt = self.template.prompt(sample.question)
        return self.meters[run](size, prompt, answer.events, len(answer.ids))


def too_narrow(policy: Policy | None, grid: Grid) -> str | None:
    """Say that a picture whose base view has this grid cannot be split as a policy asks; None if it can be."""
    if policy is None or policy.patches <= min(grid):
        return None
    H, W = grid
    return f"the {H} x {W} grid of visual tokens cannot be split into {policy.patches} x {policy.patches} regions"


def seen_or_none(box: Sequence[float] | None, window: Window) -> Sequence[float] | None:
    """A box, or None where the backbone sees nothing of it through a window."""
    return box if box is not None and seen_box(box, window) is not None else None


@torch.inference_mode()
def first_not_finite(backbone: Backbone, image: Image.Image, prompt: str) -> int | str:
    """Return where the stock model first makes nan or infinity of a prompt: a decoder layer, or another part in words.

    Where it makes none, modules of TokenSR do, as no other part is Blink's own.
    """
    model, decoder = backbone.model, backbone.decoder
    parts: dict[nn.Module, int | str] = {
        **{part: _in_words(name) for name, part in backbone.core.named_children() if part is not decoder},
        decoder.embed_tokens: "embeddings",
        **{layer: number for number, layer in enumerate(decoder.layers)},
        decoder.norm: "final norm",
        model.lm_head: "language modelling head",
    }
    found: list[int | str] = []

    def note(part: nn.Module, _: Any, output: Any) -> None:
        tensors = (
            output.values()
            if isinstance(output, Mapping)
            else output
            if isinstance(output, tuple)
            else [output]
        )
        if not all(tensor.isfinite().all() for tensor in tensors if isinstance(tensor, Tensor)):
            found.append(parts[part])

    hooks = [part.register_forward_hook(note) for part in parts]
    try:
        model(**prompt_inputs(backbone, [image], [prompt]))
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else "TokenSR modules, since the backbone alone is finite"


def _in_words(name: str) -> str:
    """A part of a model: "vision tower", "projector"."""
    return name.removeprefix("multi_modal_").replace("_", " ")


def load_answerer(plans: Sequence[Plan]) -> BackboneAnswerer:
    """Load the backbone of some plans that agree in it, in the benchmark and in the template; runs are numbered as the plans."""
    first = plans[0]
    return BackboneAnswerer(
        load_checkpoint(first.backbone),
        first.template,
        [Run(plan.policy, plan.token_sr) for plan in plans],
        max_new_tokens=first.benchmark.max_new_tokens,
        memory_gb=first.memory_gb,
        alone=first.reuse == "none",
        zooms=[number for number, plan in enumerate(plans) if plan.zooms],
    )


@lru_cache(maxsize=1)
def load_checkpoint(checkpoint: Checkpoint) -> Backbone:
    """Load a backbone, or return the one that was used before."""
    if checkpoint.device == "auto":
        checkpoint = checkpoint._replace(device="cuda" if torch.cuda.is_available() else "cpu")
    log.info(
        "loading the backbone %s on %s",
        checkpoint.path,
        checkpoint.device_map or checkpoint.device,
    )
    path, revision = checkpoint.path, checkpoint.revision
    processor = processor_of(path, revision=revision, **checkpoint.pictures)
    known = Backbone.of(outlined(path, revision=revision), processor)
    return load_backbone(**checkpoint._asdict() | {"path": known})
