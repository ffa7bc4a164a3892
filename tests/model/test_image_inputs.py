"""Pictures and prompts as a backbone takes them."""

from typing import Any

import pytest
import torch

from blink.inference.calls.prompt_spans import prompt_spans
from blink.model.backbone import Backbone
from blink.model.image_inputs import (
    PictureShapes,
    check_images,
    embed_prompt,
    encode_image,
    pixel_digests,
    prompt_inputs,
)
from tests import models

BUILDERS = {"llava": models.llava, "llava_next": models.llava_next}

PROMPT = "USER: <image>\nIs there a dog? ASSISTANT:"


def backbone_of(family: str) -> Backbone:
    model = BUILDERS[family](grid=6, layers=2)
    return Backbone(model, models.processor(model))


@pytest.mark.parametrize("family", BUILDERS)
def test_prompts_are_embedded_as_the_stock_model_does(family: str) -> None:
    """Catches visual tokens in another order than the model's, or in another sample's place."""
    backbone = backbone_of(family)
    inputs = models.batch(backbone.model, [5, 3], sizes=[(60, 40), (30, 30)])
    with torch.no_grad():
        want = backbone.model(**inputs, output_hidden_states=True).hidden_states[0]
        embedded_BSd = embed_prompt(backbone, inputs["input_ids"], encode_image(backbone, inputs)).hidden_BSd
    valid_BS = inputs["attention_mask"] != 0
    torch.testing.assert_close(embedded_BSd[valid_BS], want[valid_BS])


@pytest.mark.parametrize("family", BUILDERS)
def test_inputs_take_the_models_dtype(family: str) -> None:
    """Catches pixels of another dtype than the vision tower's, ids that are cast, and prompts that are not padded."""
    backbone = backbone_of(family)
    backbone.model.bfloat16()
    inputs = prompt_inputs(
        backbone, [models.picture(0), models.picture(1)], [PROMPT, PROMPT + " No. And a cat?"]
    )
    assert inputs["pixel_values"].dtype == torch.bfloat16
    assert inputs["input_ids"].dtype == torch.int64
    assert inputs["attention_mask"].sum(dim=1).tolist() != [inputs["input_ids"].shape[1]] * 2
    alone = prompt_inputs(backbone, [models.picture(0)], [PROMPT])
    assert bool((alone["attention_mask"] == 1).all())


@pytest.mark.parametrize("family", BUILDERS)
def test_a_picture_is_encoded_to_the_tokens_of_its_prompt(family: str) -> None:
    """Catches tiles or newlines that are left out, and a prompt of another picture that goes unnoticed."""
    backbone = backbone_of(family)
    inputs = prompt_inputs(backbone, [models.picture(0, (60, 40))], [PROMPT])
    with torch.no_grad():
        encoded = encode_image(backbone, inputs)
        visual_BS = inputs["input_ids"] == backbone.image_token_id
        embedded = embed_prompt(backbone, inputs["input_ids"], encoded)
        assert torch.equal(encoded.features_Td, embedded.hidden_BSd[visual_BS])
        fewer: Any = {**inputs, "input_ids": inputs["input_ids"][:, : -int(visual_BS.sum())]}
        with pytest.raises(ValueError, match="image tokens, its image"):
            encode_image(backbone, fewer)


def test_one_picture_per_row() -> None:
    """Catches a batch whose pictures would be dealt to the wrong prompts."""
    backbone = backbone_of("llava")
    pixels = torch.zeros(2, 3, 24, 24)
    check_images(backbone, [36, 36], {"pixel_values": pixels})
    with pytest.raises(ValueError, match="3 rows and 2 images"):
        check_images(backbone, [36, 36, 36], {"pixel_values": pixels})
    with pytest.raises(ValueError, match="row 1 of the prompt has 35 image tokens"):
        check_images(backbone, [36, 35], {"pixel_values": pixels})


def test_names_of_pictures_do_not_depend_on_their_dtype() -> None:
    """Catches draws that differ where a caller casts pixels to the model's dtype, as the engine does, and where not."""
    backbone = Backbone(models.llava(grid=6).bfloat16())
    pixels = torch.rand(2, 3, 24, 24)
    ids = torch.full((2, 37), backbone.image_token_id)
    digests = [
        pixel_digests(backbone, {"input_ids": ids, "pixel_values": pixels.to(dtype)})
        for dtype in (torch.float32, torch.bfloat16, torch.float64)
    ]
    assert digests[0] == digests[1] == digests[2]


@pytest.mark.parametrize("family", BUILDERS)
def test_names_of_pictures_do_not_depend_on_the_batch(family: str) -> None:
    """Catches hashes of padding tiles: a random selector would then draw otherwise beside another picture."""
    backbone = backbone_of(family)
    pictures = [models.picture(0, (96, 24)), models.picture(1, (24, 24))]

    def digests(*numbers: int) -> list[str]:
        inputs = prompt_inputs(backbone, [pictures[i] for i in numbers], [PROMPT] * len(numbers))
        return pixel_digests(backbone, inputs)

    first, second = digests(0, 1)
    assert first != second
    assert digests(1) == [second]
    assert digests(1, 0) == [second, first]


@pytest.mark.parametrize("name", models.SMALL)
def test_shapes_of_pictures_are_what_their_prompts_hold(name: str) -> None:
    """Catches tokens of tiles, separators or newlines left out, grids the wrong way round, and a picture asked for twice."""
    model = models.family(name, layers=1)
    processor = models.processor(model)
    asked = []

    def counting(**inputs: Any) -> Any:
        asked.append(inputs["images"][0][0].size)
        return processor(**inputs)

    counting.tokenizer, counting.image_token = processor.tokenizer, processor.image_token  # type: ignore[attr-defined]
    backbone = Backbone(model, processor)
    shapes = PictureShapes(Backbone(model, counting))
    for size in ((60, 60), (120, 44), (47, 61), (60, 60)):
        shape = shapes(size)
        prompt = models.prompt(3, processor=processor)
        inputs = prompt_inputs(backbone, [models.picture(1, size)], [prompt])
        words = len(processor.tokenizer(prompt)["input_ids"])
        assert words - 1 + shape.tokens == inputs["input_ids"].shape[1]
        spans = prompt_spans(backbone, inputs, None)
        assert spans.grids == (shape.grid,)
        assert len(shape.views) * shape.views[0][0] * shape.views[0][1] == patches(
            name, inputs["pixel_values"]
        )
    assert asked == [(60, 60), (120, 44), (47, 61)]


def patches(name: str, pixels: torch.Tensor) -> int:
    """Of all views of one picture."""
    if name.startswith("qwen"):
        return len(pixels)
    return int(pixels.numel()) // (3 * models.PATCH**2)
