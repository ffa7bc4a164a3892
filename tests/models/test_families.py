"""The small random models of all families, as transformers itself runs them."""

from typing import Any

import pytest
import torch
from PIL import Image

from tests import models
from tests.models.inputs import chat_prompt, prompt

SQUARE, WIDE = (60, 60), (120, 44)

VISUAL = {
    "llava": [36, 36],
    "llava_siglip": [36, 36],
    # 36 of the base view; the square of 2 x 2 tiles 12 x 12 and a newline a row; the wide one of 1 x 3 tiles 6 x 16 + 6
    "llava_next": [36 + 12 * 13, 36 + 6 * 17],
    # the wide one of 1 x 3 tiles is as high as a tile and 2.7 times as wide: 18 columns less padding
    "llava_onevision": [36 + 12 * 13, 36 + 6 * 19],
    "internvl": [36, 4 * 36],  # one tile; three tiles and the thumbnail
    "smolvlm": [5 * 36, 3 * 36],  # 2 x 2 and 1 x 2 tiles, and the view of all
    "idefics3": [5 * 36, 3 * 36],
    "qwen2_vl": [8 * 8, 6 * 15],
    "qwen2_5_vl": [8 * 8, 6 * 15],
    "qwen3_vl": [8 * 8, 6 * 15],
}
"""Visual tokens of a square and of a wide picture."""


def visual(model: Any, inputs: Any) -> list[int]:
    """Image tokens per row of a batch."""
    counts: list[int] = (inputs["input_ids"] == model.config.image_token_id).sum(1).tolist()
    return counts


@pytest.mark.parametrize("name", models.SMALL)
def test_two_pictures_run_in_one_batch_as_they_run_alone(name: str) -> None:
    """Would catch a processor that does not fit its model, and weights under which padding or a neighbour matters."""
    model = models.family(name)
    inputs = models.batch(model, [0, 1], [SQUARE, WIDE])
    assert visual(model, inputs) == VISUAL[name]
    assert not inputs["attention_mask"].all()
    with torch.inference_mode():
        logits = model(**inputs).logits[:, -1]
        answers = model.generate(**inputs, max_new_tokens=4, do_sample=False)[:, -4:]
        for row, size in enumerate((SQUARE, WIDE)):
            single = models.batch(model, [row], [size])
            assert visual(model, single) == VISUAL[name][row : row + 1]
            torch.testing.assert_close(
                model(**single).logits[:, -1], logits[row : row + 1], atol=1e-4, rtol=1e-4
            )
            alone = model.generate(**single, max_new_tokens=4, do_sample=False)[:, -4:]
            assert alone.tolist() == answers[row : row + 1].tolist()


@pytest.mark.parametrize("name", models.SMALL)
def test_picture_and_question_change_what_is_answered(name: str) -> None:
    """Would catch visual tokens that are all alike, and attention so flat that nothing follows from a picture."""
    model = models.family(name)
    made = models.processor(model)
    with torch.inference_mode():
        logits = [
            model(**made(images=[[picture]], text=[text], return_tensors="pt")).logits[0, -1]
            for picture, text in (
                (models.picture(0), prompt(0, processor=made)),
                (mirrored(models.picture(0)), prompt(0, processor=made)),
                (models.picture(0), prompt(1, processor=made)),
            )
        ]
    assert (logits[0] - logits[1]).abs().max() > 0.1
    assert (logits[0] - logits[2]).abs().max() > 0.1


def mirrored(picture: Image.Image) -> Image.Image:
    """The same regions at other places."""
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


@pytest.mark.parametrize("name", [name for name in models.SMALL if name not in ("llava", "llava_next")])
def test_conversation_template_makes_the_same_prompt_in_one_step(name: str) -> None:
    """Would catch a prompt as text that is not what apply_chat_template tokenizes, such as a second start token."""
    made = models.processor(models.family(name, layers=1))
    parts = [{"type": "image", "image": models.picture(3)}, {"type": "text", "text": "Is there a dog?"}]
    whole = made.apply_chat_template(
        [{"role": "user", "content": parts}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    written = made(
        images=[[models.picture(3)]], text=[chat_prompt(made, "Is there a dog?")], return_tensors="pt"
    )
    assert written["input_ids"].tolist() == whole["input_ids"].tolist()
    assert torch.equal(written["pixel_values"], whole["pixel_values"])


@pytest.mark.parametrize("name", ["internvl", "smolvlm", "idefics3"])
def test_pictures_may_have_one_tile_or_several(name: str) -> None:
    """Would catch a batch that cannot hold both, or a base view that is not one view's tokens."""
    model = models.family(name, grid=5)
    inputs = models.batch(model, [0, 1], [(36, 36), (150, 50)])
    assert visual(model, inputs) == ([25, 4 * 25] if name == "internvl" else [5 * 25, 3 * 25])
    with torch.inference_mode():
        assert torch.isfinite(model(**inputs).logits).all()


@pytest.mark.parametrize("size", [(60, 60), (8, 160), (56, 88)])
@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_grid_follows_the_picture(name: str, size: tuple[int, int]) -> None:
    """Would catch a processor with limits so narrow that all pictures have one grid, none odd and none thinner than two."""
    inputs = models.batch(models.family(name, layers=1), [0], [size])
    time, height, width = inputs["image_grid_thw"][0].tolist()
    assert (time, height % 2, width % 2) == (1, 0, 0)
    assert {(60, 60): (16, 16), (8, 160): (40, 2), (56, 88): (22, 14)}[size] == (height, width)
