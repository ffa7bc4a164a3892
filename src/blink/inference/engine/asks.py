"""What is asked about a picture and what is answered, and the prompts of one picture split at it.

Axes: P ids of a prefix, T of a text.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from blink.inference.policy import Event
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


class Split(NamedTuple):
    """Ids of a prompt before and behind its one image token."""

    before: list[int]
    behind: list[int]


def split_prompts(backbone: Backbone, prompts: Sequence[str]) -> list[Split]:
    """Split every prompt at its image token.

    Raises:
        ValueError: a prompt has not one image, or no text behind it.
    """
    tokenized = backbone.processor.tokenizer(list(prompts))["input_ids"]
    splits = []
    for number, ids in enumerate(tokenized):
        columns = [column for column, token in enumerate(ids) if token == backbone.image_token_id]
        if len(columns) != 1:
            raise UserError(f"prompt {number} has {len(columns)} image tokens; expected one, for one picture")
        if columns[0] == len(ids) - 1:
            raise UserError(f"prompt {number} ends at its image; put the question after the image")
        splits.append(Split(ids[: columns[0]], ids[columns[0] + 1 :]))
    return splits


def prepare(backbone: Backbone, asks: Sequence[Ask], splits: Sequence[Sequence[Split]]) -> list[Inputs]:
    """Process the pictures of some asks, each once, and encode them.

    The processor's part in a prompt is to write the picture's tokens in place of one: those of an ask's first prompt,
    which it gets, stand in the others, too.

    Args:
        splits: of each ask's prompts, of `split_prompts`.

    Raises:
        ValueError: the processor does not take a picture, or changes the text around it.
    """
    inputs = [
        dict(
            prompt_inputs(backbone, [ask.image], ask.prompts[:1])
            if ask.processed is None
            else placed(backbone, ask.processed)
        )
        for ask in asks
    ]
    made = []
    encoded = _encode(backbone, inputs)
    for ask, of_ask, of_picture, split in zip(asks, inputs, encoded, splits, strict=True):
        lead, span, after = _written(backbone, of_ask["input_ids"][0].tolist(), split[0])
        [grid], [digest] = backbone.family.grids(of_ask, 1), pixel_digests(backbone, of_ask)
        made.append(
            Inputs(
                ask.image,
                {name: tensor for name, tensor in of_ask.items() if name not in _OF_TEXT},
                of_picture,
                grid,
                span=span,
                prefixes=[(*before, *lead) for before, _ in split],
                texts=[[*after, *behind] for _, behind in split],
                digest=digest,
            )
        )
    return made


_OF_TEXT = ("input_ids", "attention_mask", "mm_token_type_ids")
"""What of a processor's output is about a prompt's text."""

_TOKENS_AT_ONCE = 4096
"""Visual tokens that the vision tower makes in a call, of one picture at least: more take memory, and on a CPU more time each."""


def _encode(backbone: Backbone, inputs: Sequence[dict[str, Tensor]]) -> list[Encoded]:
    """Visual tokens of pictures, some of those in a call whose tensors are alike but for their number of rows.

    Args:
        inputs: the processor's output for each picture and a prompt.
    """
    alike: dict[tuple[Any, ...], list[int]] = {}
    for number, of_one in enumerate(inputs):
        shapes = ((name, tensor.shape[1:]) for name, tensor in of_one.items() if name not in _OF_TEXT)
        alike.setdefault(tuple(shapes), []).append(number)
    encoded: dict[int, Encoded] = {}
    for of_kind in alike.values():
        most = max(int((inputs[number]["input_ids"] == backbone.image_token_id).sum()) for number in of_kind)
        size = max(1, _TOKENS_AT_ONCE // max(1, most))  # `encode_image` refuses prompts without any
        for first in range(0, len(of_kind), size):
            numbers = of_kind[first : first + size]
            encoded |= zip(
                numbers, _encode_alike(backbone, [inputs[number] for number in numbers]), strict=True
            )
    return [encoded[number] for number in range(len(inputs))]


def _encode_alike(backbone: Backbone, inputs: Sequence[dict[str, Tensor]]) -> list[Encoded]:
    """Visual tokens of pictures whose tensors are alike but for their number of rows, in one call."""
    ids = [of_one["input_ids"][0] for of_one in inputs]
    joined = {
        name: torch.cat([of_one[name] for of_one in inputs]) for name in inputs[0] if name not in _OF_TEXT
    }
    padding = int(backbone.image_token_id == 0)  # any id but that one
    joined["input_ids"] = pad_sequence(ids, batch_first=True, padding_value=padding)
    found = encode_image(backbone, joined)
    counts = [int((of_one == backbone.image_token_id).sum()) for of_one in ids]
    features, *added = (part.split(counts) for part in (found.features_Td, *found.added))
    return [
        Encoded(features_Td, tuple(of_all[index] for of_all in added))
        for index, features_Td in enumerate(features)
    ]


def _written(backbone: Backbone, ids: list[int], split: Split) -> tuple[list[int], list[int], list[int]]:
    """What a processor wrote in place of an image token: ids before the visual span, of it, and behind it.

    Raises:
        ValueError: it changed more than that.
    """
    before, behind = split
    written = ids[len(before) : len(ids) - len(behind)]
    if ids != [*before, *written, *behind]:
        raise UserError(
            f"prompt 0: the processor ({type(backbone.processor).__name__}) changes the text around a picture; Blink "
            "needs it to put the picture's tokens in place of one image token, and nothing else: use attach and generate"
        )
    lead = written.index(backbone.image_token_id)
    end = len(written) - written[::-1].index(backbone.image_token_id)
    return written[:lead], written[lead:end], written[end:]


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
