"""What is asked about a picture and what is answered, and the prompts of one picture split at it.

Axes: P ids of a prefix, T of a text.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from blink.inference.policy import Event
from blink.inference.prompt_spans import prompt_spans
from blink.inference.run import Run
from blink.model.backbone import Backbone
from blink.model.families import Encoded, Grid
from blink.model.image_inputs import encode_image, pixel_digests, placed, prompt_inputs, sample_key
from blink.runs.values import UserError


class Ask(NamedTuple):
    """Prompts about one picture, each to be answered under each of some runs.

    Attributes:
        image: the picture.
        prompts: full prompts, with one image token and text behind it, as the processor takes them.
        runs: those that name one folder, or hold the same modules, share extensions.
        sample_keys: a name per prompt, for policies that draw, as in `Handle.sample_keys`; None: a hash of ids and
            pixels.
        boxes: for each prompt left, top, right and bottom of what it asks about, in pixels of the picture, for policies
            that select by them, as in `Handle.boxes`; None for one about no single place.
        processed: what `image_inputs.processed` makes of the picture and the first prompt, where another process has done
            that already.
    """

    image: Image.Image
    prompts: Sequence[str]
    runs: Sequence[Run]
    sample_keys: Sequence[str] | None = None
    boxes: Sequence[Sequence[float] | None] | None = None
    processed: Any = None

    def check(self) -> None:
        """Raise ValueError for anything but texts and runs, and where there is none, or not one name per prompt."""
        check_texts("prompts", self.prompts)
        check_runs(self.runs)
        if self.sample_keys is not None:
            check_texts("sample_keys", self.sample_keys)
        if not self.prompts or not self.runs:
            raise UserError(f"{len(self.prompts)} prompts, {len(self.runs)} runs: expected at least 1 each")
        if self.sample_keys is not None and len(self.sample_keys) != len(self.prompts):
            raise UserError(
                f"sample_keys names {len(self.sample_keys)} samples, there are {len(self.prompts)} prompts"
            )


class Answer(NamedTuple):
    """A greedy answer: its ids (the closing token included), its text, and the events at the prompt in layer order."""

    ids: tuple[int, ...]
    text: str
    events: tuple[Event, ...]


class Inputs(NamedTuple):
    """One picture, and the prompts about it, split at it.

    Attributes:
        image: the picture itself.
        tensors: the processor's output for the picture, without ids.
        encoded: its visual tokens.
        grid: (H, W) of its base view.
        span: ids of the visual span, tiles and separators included.
        prefixes: ids before it, per prompt.
        texts: ids behind it, per prompt.
        digest: hash of the pixels.
    """

    image: Image.Image
    tensors: dict[str, Tensor]
    encoded: Encoded
    grid: Grid
    span: list[int]
    prefixes: list[tuple[int, ...]]
    texts: list[list[int]]
    digest: str

    def sample_keys(self) -> list[str]:
        """Names of the prompts, as `attach` makes them."""
        return [
            sample_key(torch.tensor([*prefix, *self.span, *text]), self.digest)
            for prefix, text in zip(self.prefixes, self.texts, strict=True)
        ]


def prepare(backbone: Backbone, image: Image.Image, prompts: Sequence[str], processed: Any = None) -> Inputs:
    """Process the picture, once, and split every prompt at it.

    The processor's part in a prompt is to write the picture's tokens in place of one: those of the first prompt,
    which it gets, stand in the others, too.

    Args:
        processed: as in `Ask`.

    Raises:
        ValueError: a prompt has not one image, or no text behind it.
    """
    tokenized = backbone.processor.tokenizer(list(prompts))["input_ids"]
    split = [_split(backbone, number, ids) for number, ids in enumerate(tokenized)]
    inputs = dict(
        prompt_inputs(backbone, [image], prompts[:1]) if processed is None else placed(backbone, processed)
    )
    [digest] = pixel_digests(backbone, inputs)
    before, after = split[0]
    ids: list[int] = inputs["input_ids"][0].tolist()
    written = ids[len(before) : len(ids) - len(after)]
    if ids != [*before, *written, *after]:
        raise UserError(
            f"prompt 0: the processor ({type(backbone.processor).__name__}) changes the text around a picture; Blink "
            "needs it to put the picture's tokens in place of one image token, and nothing else: use attach and generate"
        )
    image_token = backbone.image_token_id
    lead = written.index(image_token)
    end = len(written) - written[::-1].index(image_token)
    grid = prompt_spans(backbone, inputs, None).grids[0]
    tensors = {
        name: tensor
        for name, tensor in inputs.items()
        if name not in ("input_ids", "attention_mask", "mm_token_type_ids")
    }
    return Inputs(
        image,
        tensors,
        encode_image(backbone, inputs),
        grid,
        span=written[lead:end],
        prefixes=[(*prefix, *written[:lead]) for prefix, _ in split],
        texts=[[*written[end:], *text] for _, text in split],
        digest=digest,
    )


def _split(backbone: Backbone, number: int, ids: list[int]) -> tuple[list[int], list[int]]:
    """Ids before and behind the picture.

    Raises:
        ValueError: there are none or several pictures, or there is nothing behind it.
    """
    columns = [column for column, token in enumerate(ids) if token == backbone.image_token_id]
    if len(columns) != 1:
        raise UserError(f"prompt {number} has {len(columns)} image tokens; expected one, for one picture")
    if columns[0] == len(ids) - 1:
        raise UserError(f"prompt {number} ends at its image; put the question after the image")
    return ids[: columns[0]], ids[columns[0] + 1 :]


def check_texts(name: str, texts: Sequence[str]) -> None:
    """Raise ValueError for anything but a list of texts; one text alone is a sequence of texts, too."""
    if (
        isinstance(texts, str)
        or not isinstance(texts, Sequence)
        or not all(isinstance(t, str) for t in texts)
    ):
        raise UserError(f"{name}={texts!r}: expected a list of texts")


def check_runs(runs: Sequence[Run]) -> None:
    """Raise ValueError for anything but a list of runs."""
    if isinstance(runs, str) or not isinstance(runs, Sequence):
        raise UserError(f"runs={runs!r}: expected a list of blink.Run")
    for place, run in enumerate(runs):
        if not isinstance(run, Run):
            raise UserError(
                f"runs[{place}]={run!r} is of type {type(run).__name__}; expected a blink.Run, which is "
                "blink.Run(policy, token_sr), or blink.Run() for the model as it is"
            )
