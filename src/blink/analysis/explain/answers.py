"""One question answered in two or more ways, usually without Blink and with it, with every layer's attention, events and cost.

All answers are greedy and taken alone, as `attach` and `generate` give them.

Axes: V = H x W visual tokens of the (base) picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image

from blink.analysis.cases import Box, as_seen, box_of
from blink.analysis.record import LayerRecord, record
from blink.bench import Sample
from blink.evaluation.answering.meter import Meter
from blink.evaluation.answering.parts import fitting, seen_or_none
from blink.inference.calls.given import Given, checked_boxes
from blink.inference.engine import Answer, Engine
from blink.inference.policy import Event, Policy
from blink.inference.run import Run
from blink.model.backbone import Backbone
from blink.model.image_inputs import PictureShapes, prompt_inputs
from blink.model.prompts import Template
from blink.model.token_sr import check_patches
from blink.model.views import ViewMaker


class Side(NamedTuple):
    """One of the ways to answer.

    Attributes:
        name: what to call it.
        run: its policy and modules.
        max_new_tokens: how long the answer may get.
    """

    name: str
    run: Run
    max_new_tokens: int


class Answered(NamedTuple):
    """An answer, its events, and a record of every layer.

    Attributes:
        side: how it was answered.
        ids: of the answer, the closing one included.
        text: of it.
        events: one per scanned layer.
        layers: one record per decoder layer.
        prompt_tokens: length of the prompt, visual tokens included.
        flops: of picture, prompt and answer, taken alone; None if they are not counted.
        seconds: that the answer took; None if nobody measured.
    """

    side: Side
    ids: list[int]
    text: str
    events: tuple[Event, ...]
    layers: list[LayerRecord]
    prompt_tokens: int
    flops: int | None
    seconds: float | None = None

    @property
    def token_layers(self) -> int:
        """Tokens that the prompt sends through decoder layers, summed over these."""
        return sum(layer.columns for layer in self.layers)


@dataclass(frozen=True)
class Explanation:
    """One question and its answers.

    Attributes:
        sample: the question.
        backbone: its folder or hub id.
        grid: (H, W) of the picture.
        picture: the part of the picture that the backbone sees.
        box: of what the question is about, in pixels of `picture`; None if unknown.
        patches: p of the p x p regions, of each answer.
        right: the region that holds most of the box, of each answer; None if unknown or not seen.
        answers: at least two.
        words: text of every token that is named.
    """

    sample: Sample
    backbone: str
    grid: tuple[int, int]
    picture: Image.Image
    box: Box | None
    patches: tuple[int, ...]
    right: tuple[int | None, ...]
    answers: tuple[Answered, ...]
    words: dict[int, str]


class Explainer:
    """Explains answers of one backbone.

    Args:
        backbone: model and processor.
        template: how a question becomes the prompt.
        sides: the ways to answer, at least two.

    Raises:
        ValueError: policy and modules of a side do not fit the backbone.
    """

    def __init__(self, backbone: Backbone, template: Template, sides: Sequence[Side]) -> None:
        self._template = template
        self._backbone = backbone
        self._shapes = PictureShapes(backbone)
        self._views = ViewMaker(backbone.processor, grid=backbone.grid)
        self._sides = sides
        self._engine = Engine(backbone)
        self._runs = [side.run.resolve(backbone).placed(backbone) for side in sides]
        self._meters = [Meter(backbone, run.policy, run.modules or None, self._shapes) for run in self._runs]

    def __call__(
        self, sample: Sample, known: Sequence[Answer] | None = None, seconds: Sequence[float | None] = ()
    ) -> Explanation:
        """Answer one question in all ways, and record every layer of its prompt.

        A side whose regions the picture is too narrow for answers without Blink, as in an evaluation.

        Args:
            known: the answers, one for each side, where they are known already; None: they are given here.
            seconds: that each of the known ones took.

        Raises:
            ValueError: that holds for all sides.
        """
        image, prompt = sample.load_image(), self._template.prompt(sample.question)
        grid = self._shapes(image.size).grid
        runs = [fitting(run, grid)[0] for run in self._runs]
        sides = [side._replace(run=fitting(side.run, grid)[0]) for side in self._sides]
        scans = _scans([run.policy for run in runs])
        check_patches(max(scan.patches for scan in scans), grid, f"the picture of {sample.id}: ")
        box = seen_or_none(box_of(sample), self._views.window(image.size))
        given = Given(pictures=[image], boxes=checked_boxes([box]))
        answers = known or [
            self._engine.answer_alone(image, prompt, run, max_new_tokens=side.max_new_tokens, box=box)
            for side, run in zip(sides, runs, strict=True)
        ]
        took = [*seconds, *(None for _ in sides[len(seconds) :])]
        inputs = prompt_inputs(self._backbone, [image], [prompt])
        firsts = list(dict.fromkeys(answer.ids[0] for answer in answers))
        explained = []
        for number, answer in enumerate(answers):
            layers = record(self._backbone, inputs, runs[number], scans[number], firsts, given)
            explained.append(
                Answered(
                    sides[number],
                    list(answer.ids),
                    answer.text.strip(),
                    answer.events,
                    layers,
                    int(inputs["input_ids"].shape[1]),
                    self._meters[number](image.size, prompt, answer.events, len(answer.ids)),
                    took[number],
                )
            )
        patches = tuple(scan.patches for scan in scans)
        shown = [as_seen(sample, self._views, p) for p in patches]
        named = {
            word.token for one in explained for layer in one.layers for word in (*layer.words, layer.top)
        }
        return Explanation(
            sample=sample,
            backbone=self._backbone.name,
            grid=grid,
            picture=shown[0].picture,
            box=shown[0].box,
            patches=patches,
            right=tuple(one.right for one in shown),
            answers=tuple(explained),
            words={token: self._word(token) for token in sorted(named)},
        )

    def _word(self, token: int) -> str:
        """A token as it reads; one that stands for no text by its own name."""
        text = self._backbone.processor.tokenizer.decode([token]).strip()
        return text or str(self._backbone.processor.tokenizer.convert_ids_to_tokens(token))


def _scans(policies: Sequence[Policy | None]) -> list[Policy]:
    """Whose saliency and regions are shown on each side: its own policy's, else the last other's."""
    others = next((policy for policy in reversed(policies) if policy is not None), Policy.never())
    return [policy or others for policy in policies]
