"""Prompts about one image with their right answers, tokenized: what a batch of `objective=answer` is made of.

Axes: n questions about one image, S columns.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from blink.model.prompts import Template
from blink.model.views import Inputs, ViewMaker, Views, join_views
from blink.scenes.formats import Exchange
from blink.training.answers.questions import Asked
from blink.training.images import Images

IGNORED = -100
"""Label of a token that does not count."""


class AskedImage(NamedTuple):
    """Some prompts about one image, each with its answer behind it, padded on the right.

    Attributes:
        ids_nS, valid_nS: int64, and bool: False at padding.
        labels_nS: the ids of the answer and of the token that closes it, elsewhere `IGNORED`.
        pixels: of the image, once, as the model takes them.
        image: itself, where regions of it will be encoded.
    """

    ids_nS: Tensor
    valid_nS: Tensor
    labels_nS: Tensor
    pixels: Inputs
    image: Image.Image | None


class Lesson(NamedTuple):
    """A batch of images with questions; of these, and of others if KL is trained or measured, the views."""

    asked: tuple[AskedImage, ...]
    views: Views | None


class LessonMaker:
    """Tokenizes questions about an image and their answers.

    Args:
        keep_image: whether regions of the image will be encoded.
    """

    def __init__(self, processor: Any, template: Template, *, keep_image: bool = False) -> None:
        self._processor, self._tokenizer = processor, processor.tokenizer
        self._template, self._keep_image = template, keep_image
        self._image_id: int = self._tokenizer.convert_tokens_to_ids(processor.image_token)
        # as training texts have it: what a prompt ends with is parted from the answer by white space
        self._gap = "" if template.suffix[-1:].isspace() else " "

    def __call__(self, image: Image.Image, exchanges: Sequence[Exchange]) -> AskedImage:
        """Prompts and answers about an RGB image, at least one."""
        prompts = [self._template.prompt(exchange.text) for exchange in exchanges]
        made = self._processor(images=[[image]], text=[prompts[0]], return_tensors="pt")
        shown = self._picture_ids(made["input_ids"][0].tolist(), self._ids(prompts[0]))
        rows = [
            self._row(prompt, exchange.response, shown)
            for prompt, exchange in zip(prompts, exchanges, strict=True)
        ]
        columns = max(len(ids) for ids, _ in rows)
        ids_nS = torch.full((len(rows), columns), self._tokenizer.pad_token_id or 0)
        labels_nS = torch.full((len(rows), columns), IGNORED)
        valid_nS = torch.zeros(len(rows), columns, dtype=torch.bool)
        for row, (ids, answer) in enumerate(rows):
            ids_nS[row, : len(ids)] = torch.tensor(ids)
            labels_nS[row, len(ids) - answer : len(ids)] = torch.tensor(ids[-answer:])
            valid_nS[row, : len(ids)] = True
        names = self._processor.image_processor.model_input_names
        pixels = {name: made[name] for name in names if name in made}
        return AskedImage(ids_nS, valid_nS, labels_nS, pixels, image if self._keep_image else None)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text)["input_ids"]
        return ids

    def _picture_ids(self, processed: list[int], tokenized: list[int]) -> list[int]:
        """What the processor has put in place of the image token."""
        before = tokenized.index(self._image_id)
        behind = len(tokenized) - before - 1
        shown = processed[before : len(processed) - behind]
        assert processed == tokenized[:before] + shown + tokenized[before + 1 :], (
            "the processor changes the text around the picture"
        )
        return shown

    def _row(self, prompt: str, response: str, shown: list[int]) -> tuple[list[int], int]:
        """Ids of a prompt with its answer, and how many of them are the answer's, the closing token included."""
        ids = self._ids(prompt)
        whole = [*self._ids(f"{prompt}{self._gap}{response}"), self._tokenizer.eos_token_id]
        # the last token of a prompt may grow together with the answer's first
        common = next(
            (place for place, pair in enumerate(zip(ids, whole, strict=False)) if pair[0] != pair[1]),
            len(ids),
        )
        place = whole.index(self._image_id)
        return whole[:place] + shown + whole[place + 1 :], len(whole) - common


class ImageLessons(Dataset[Lesson]):
    """The questions about each image of a collection, and its views if they are needed.

    Args:
        asked: questions of each image.
        views: None where no KL is trained or measured.
    """

    def __init__(self, images: Images, asked: Asked, maker: LessonMaker, views: ViewMaker | None) -> None:
        self.images, self.asked, self.maker, self.views = images, asked, maker, views

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Lesson:
        image = self.images.read(index)
        views = None if self.views is None else self.views(image)
        return Lesson((self.maker(image, self.asked[index]),), views)

    @staticmethod
    def join(lessons: Sequence[Lesson]) -> Lesson:
        """Make a batch of some."""
        views = [lesson.views for lesson in lessons if lesson.views is not None]
        return Lesson(
            tuple(asked for lesson in lessons for asked in lesson.asked), join_views(views) if views else None
        )
