"""One question answered twice, usually without Blink and with it, with every layer's attention, events and cost.

Both answers are greedy and taken alone, as `attach` and `generate` give them.

Axes: V = H x W visual tokens of the (base) picture.
"""

from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image

from blink.analysis.cases import Box, as_seen, box_of
from blink.analysis.record import LayerRecord, record
from blink.bench import Sample
from blink.evaluation.answerers import seen_or_none, too_narrow
from blink.evaluation.cost import Meter
from blink.inference.engine import Engine
from blink.inference.given import Given, checked_boxes
from blink.inference.policy import Event, Policy
from blink.inference.run import Run
from blink.model.backbone import Backbone
from blink.model.image_inputs import PictureShapes, prompt_inputs
from blink.model.prompts import Template
from blink.model.token_sr import check_patches
from blink.model.views import ViewMaker


class Side(NamedTuple):
    """One of the two ways to answer.

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
    """

    side: Side
    ids: list[int]
    text: str
    events: tuple[Event, ...]
    layers: list[LayerRecord]
    prompt_tokens: int
    flops: int | None

    @property
    def token_layers(self) -> int:
        """Tokens that the prompt sends through decoder layers, summed over these."""
        return sum(layer.columns for layer in self.layers)


@dataclass(frozen=True)
class Explanation:
    """One question and its two answers.

    Attributes:
        sample: the question.
        backbone: its folder or hub id.
        grid: (H, W) of the picture.
        picture: the part of the picture that the backbone sees.
        box: of what the question is about, in pixels of `picture`; None if unknown.
        patches: p of the p x p regions, of each answer.
        right: the region that holds most of the box, of each answer; None if unknown or not seen.
        answers: the first and the second.
        words: text of every token that is named.
    """

    sample: Sample
    backbone: str
    grid: tuple[int, int]
    picture: Image.Image
    box: Box | None
    patches: tuple[int, int]
    right: tuple[int | None, int | None]
    answers: tuple[Answered, Answered]
    words: dict[int, str]


class Explainer:
    """Explains answers of one backbone.

    Args:
        backbone: model and processor.
        template: how a question becomes the prompt.
        sides: the two ways to answer.

    Raises:
        ValueError: policy and modules of a side do not fit the backbone.
    """

    def __init__(self, backbone: Backbone, template: Template, sides: tuple[Side, Side]) -> None:
        self._template = template
        self._backbone = backbone
        self._shapes = PictureShapes(backbone)
        self._views = ViewMaker(backbone.processor, grid=backbone.grid)
        self._sides = sides
        self._engine = Engine(backbone)
        self._runs = [side.run.resolve(backbone).placed(backbone) for side in sides]
        self._meters = [Meter(backbone, run.policy, run.modules or None, self._shapes) for run in self._runs]

    def __call__(self, sample: Sample) -> Explanation:
        """Answer one question both ways, and record every layer of its prompt.

        A side whose regions the picture is too narrow for answers without Blink, as in an evaluation.

        Raises:
            ValueError: that holds for both sides.
        """
        image, prompt = sample.load_image(), self._template.prompt(sample.question)
        grid = self._shapes(image.size).grid
        sides, runs = list(self._sides), list(self._runs)
        for number, run in enumerate(runs):
            if too_narrow(run.policy, grid):
                runs[number] = Run()
                sides[number] = sides[number]._replace(run=Run())
        scans = _scans(*(run.policy for run in runs))
        check_patches(max(scan.patches for scan in scans), grid, f"the picture of {sample.id}: ")
        box = seen_or_none(box_of(sample), self._views.window(image.size))
        given = Given(pictures=[image], boxes=checked_boxes([box]))
        answers = [
            self._engine.answer_alone(image, prompt, run, max_new_tokens=side.max_new_tokens, box=box)
            for side, run in zip(sides, runs, strict=True)
        ]
        inputs = prompt_inputs(self._backbone, [image], [prompt])
        firsts = list(dict.fromkeys(answer.ids[0] for answer in answers))
        both = []
        for number, answer in enumerate(answers):
            layers = record(self._backbone, inputs, runs[number], scans[number], firsts, given)
            both.append(
                Answered(
                    sides[number],
                    list(answer.ids),
                    answer.text.strip(),
                    answer.events,
                    layers,
                    int(inputs["input_ids"].shape[1]),
                    self._meters[number](image.size, prompt, answer.events, len(answer.ids)),
                )
            )
        patches = (scans[0].patches, scans[1].patches)
        shown = [as_seen(sample, self._views, p) for p in patches]
        named = {word.token for one in both for layer in one.layers for word in (*layer.words, layer.top)}
        return Explanation(
            sample=sample,
            backbone=self._backbone.name,
            grid=grid,
            picture=shown[0].picture,
            box=shown[0].box,
            patches=patches,
            right=(shown[0].right, shown[1].right),
            answers=(both[0], both[1]),
            words={token: self._word(token) for token in sorted(named)},
        )

    def _word(self, token: int) -> str:
        """A token as it reads; one that stands for no text by its own name."""
        text = self._backbone.processor.tokenizer.decode([token]).strip()
        return text or str(self._backbone.processor.tokenizer.convert_ids_to_tokens(token))


def _scans(first: Policy | None, second: Policy | None) -> tuple[Policy, Policy]:
    """Whose saliency and regions are shown on each side: its own policy's, else the other's."""
    return first or second or Policy.never(), second or first or Policy.never()
