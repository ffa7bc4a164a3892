"""Tokenized questions with their answers, against the processor's own way."""

import pytest
import torch

from blink.model.prompts import CHAT, TEMPLATES, template_of
from blink.model.views import ViewMaker
from blink.scenes.formats import Exchange
from blink.training.answers.lessons import IGNORED, ImageLessons, LessonMaker
from blink.training.images import DrawnImages
from tests import models

EXCHANGES = [Exchange("the red circle right", "Yes"), Exchange("how many are there", "the red square")]


@pytest.mark.parametrize("name", models.SMALL)
@pytest.mark.parametrize("size", [(60, 60), (120, 44)])
def test_rows_are_what_the_processor_makes_of_the_whole_text(name: str, size: tuple[int, int]) -> None:
    """Would catch tiles or row tokens that are lost, an answer glued to the prompt, and one that is never closed."""
    processor = models.processor(models.family(name))
    own = processor.chat_template is not None
    template = template_of(processor, CHAT) if own else TEMPLATES["vicuna_v1"]
    image = models.picture(3, size)
    asked = LessonMaker(processor, template)(image, EXCHANGES)
    gap = "" if template.suffix[-1:].isspace() else " "
    for row, exchange in enumerate(EXCHANGES):
        made = processor(images=[[image]], text=[template.prompt(exchange.text)], return_tensors="pt")
        prompt = made["input_ids"][0]
        whole = f"{template.prompt(exchange.text)}{gap}{exchange.response}"
        made = processor(images=[[image]], text=[whole], return_tensors="pt")
        closed = [*made["input_ids"][0].tolist(), processor.tokenizer.eos_token_id]
        valid = asked.valid_nS[row]
        assert asked.ids_nS[row][valid].tolist() == closed
        labels = asked.labels_nS[row][valid]
        assert labels[: len(prompt)].eq(IGNORED).all()
        assert labels[len(prompt) :].tolist() == closed[len(prompt) :]
        assert asked.labels_nS[row][~valid].eq(IGNORED).all()
    assert all(torch.equal(value, made[name]) for name, value in asked.pixels.items())
    assert asked.image is None


def test_batches_keep_images_apart_and_views_where_they_are_needed() -> None:
    """Would catch views that are computed for nothing, or missing where KL is trained beside answers."""
    processor = models.processor(models.llava(grid=6))
    pictures = DrawnImages([models.picture(seed, (48, 48)) for seed in range(2)], "pictures")
    maker = LessonMaker(processor, TEMPLATES["vicuna_v1"], keep_image=True)
    views = ViewMaker(processor, TEMPLATES["vicuna_v1"].prefix, (6, 6))
    for given in (views, None):
        lessons = ImageLessons(pictures, [EXCHANGES, EXCHANGES[:1]], maker, given)
        joined = lessons.join([lessons[0], lessons[1]])
        assert [len(asked.ids_nS) for asked in joined.asked] == [2, 1]
        assert [asked.image for asked in joined.asked] == pictures.images
        assert (None if joined.views is None else joined.views.images) == (None if given is None else 2)
