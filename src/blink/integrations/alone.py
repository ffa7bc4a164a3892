"""One prompt answered by the stock `generate`, with Blink attached for the length of the call: what the sub-rooms share."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from PIL import Image

from blink.inference.attach import Handle, attach
from blink.inference.run import Run
from blink.model.backbone import Backbone
from blink.model.image_inputs import PictureShapes


@contextmanager
def attached(backbone: Backbone, run: Run, images: Sequence[Image.Image]) -> Iterator[Handle | None]:
    """Inside, the backbone answers as a run does; None is yielded where that is the backbone as it is.

    Args:
        run: resolved for this backbone.
        images: of the prompts to come, one per row; needed where the run encodes regions anew.
    """
    if run.policy is None:
        yield None
        return
    with ExitStack() as stack:
        handle = attach(backbone, run.policy, run.token_sr)
        stack.callback(handle.detach)
        if run.encodes and images:
            stack.enter_context(handle.pictures(images))
        yield handle


def cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """A text up to the first of some others in it, and whether there was one."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


def prompt_tokens(
    backbone: Backbone, shapes: PictureShapes, prompt: str, images: Sequence[Image.Image]
) -> int:
    """Tokens of a prompt, those of its pictures included."""
    written = len(backbone.processor.tokenizer(prompt)["input_ids"])
    return written + sum(shapes(image.size).tokens - 1 for image in images)
