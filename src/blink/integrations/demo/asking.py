"""What a visitor asks and sets, checked: the page's controls send whatever they hold, and programs send what they like."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from blink.analysis.cases import Box
from blink.inference.policy import Policy, parse_layers
from blink.integrations.demo.plan import Shown
from blink.integrations.demo.scenes import Drawn, DrawnScene
from blink.runs.files import short_digest
from blink.runs.inputs.pictures import Reading
from blink.runs.values import UserError

_READING = Reading(upright=True, scaled=True)
"""As browsers show a picture."""


@dataclass(frozen=True)
class Known:
    """What is known of the scene that was drawn last; nothing of pictures that visitors bring.

    Attributes:
        digest: of its pixels.
        questions: by their texts.
    """

    digest: str = ""
    questions: Mapping[str, Drawn] = field(default_factory=dict)

    @classmethod
    def of(cls, scene: DrawnScene) -> "Known":
        """What is known of a scene."""
        return cls(_digest(scene.picture), {question.text: question for question in scene.questions})


class Controls(NamedTuple):
    """What the page's controls hold, unchecked."""

    layers: Any
    tau_exp: Any
    tau_drop: Any
    patches: Any
    saliency: Any
    positions: Any

    @classmethod
    def of(cls, policy: Policy) -> "Controls":
        """What they hold for a policy."""
        return cls(
            in_words(policy.layers),
            policy.tau_exp,
            policy.tau_drop,
            policy.patches,
            policy.saliency,
            policy.positions,
        )


class Asking(NamedTuple):
    """A question that was checked.

    Attributes:
        image: upright, in RGB.
        digest: of its pixels.
        question: the visitor's text.
        prompt: the full prompt.
        answer: the right one; "" where nobody knows.
        box: of what it is about, in pixels; None where nobody knows.
        policy: where to scan and when to act.
    """

    image: Image.Image
    digest: str
    question: str
    prompt: str
    answer: str
    box: Box | None
    policy: Policy


def read(picture: Any, question: Any, controls: Controls, known: Known, shown: Shown) -> Asking:
    """Check what a visitor asks, and decode the picture.

    Args:
        picture: the uploaded file as Gradio names it, {"path": ...}; None where there is none.

    Raises:
        UserError: it cannot be answered; says why.
    """
    image = _picture(picture, shown.limits.megapixels)
    if not isinstance(question, str) or not question.strip():
        raise UserError("there is no question: write one, or choose one of the scene's")
    if len(question) > shown.limits.characters:
        raise UserError(
            f"the question has {len(question):,} characters; this page takes {shown.limits.characters:,}"
        )
    prompt = shown.template.prompt(question)
    policy = _policy(controls, shown)
    digest = _digest(image)
    drawn = known.questions.get(question) if digest == known.digest else None
    return Asking(
        image,
        digest,
        question,
        prompt,
        "" if drawn is None else drawn.answer,
        None if drawn is None else drawn.box,
        policy,
    )


def in_words(layers: Any) -> str:
    """Layers as visitors write them: "12", "12-18" or "12,14"."""
    listed = sorted(layers)
    if len(listed) > 2 and listed == list(range(listed[0], listed[-1] + 1)):
        return f"{listed[0]}-{listed[-1]}"
    return ",".join(map(str, listed))


def _policy(controls: Controls, shown: Shown) -> Policy:
    values = controls._asdict() | {"layers": parse_layers(controls.layers)}
    policy = replace(shown.policy, **values)
    beyond = [layer for layer in policy.layers if layer >= shown.layers]
    if beyond:
        raise UserError(f"layers {in_words(beyond)}: {shown.name} has layers 0 to {shown.layers - 1}")
    missing = set(policy.layers) - set(policy.layers if shown.trained is None else shown.trained)
    if missing and shown.trained is not None:
        raise UserError(
            f"layers {in_words(missing)} have no TokenSR module; there are some for {in_words(shown.trained)}"
        )
    return policy


def _picture(picture: Any, megapixels: float) -> Image.Image:
    path = picture.get("path") if isinstance(picture, Mapping) else None
    if not isinstance(path, str):
        raise UserError("there is no picture: upload one, or draw a scene")
    width, height = _READING.size(Path(path), "the picture")
    if width * height > megapixels * 1e6:
        raise UserError(
            f"the picture has {width:,} x {height:,} pixels; this page takes {megapixels:g} million"
        )
    return _READING(Path(path), "the picture")


def _digest(image: Image.Image) -> str:
    return short_digest(repr(image.size).encode() + image.tobytes())
