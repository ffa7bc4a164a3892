"""Each family against its stock model: spans, base view, grid, positions, visual tokens, and what is refused."""

from typing import Any

import pytest
import torch
from PIL import Image
from transformers import LlavaConfig, LlavaForConditionalGeneration, PixtralVisionConfig

import blink
from blink.inference.calls.prompt_spans import prompt_spans
from blink.model.backbone import CACHE, Backbone
from blink.model.image_inputs import embed_prompt, encode_image
from tests import models

SIZES = [(60, 60), (120, 44), (50, 90)]


@pytest.mark.parametrize(("attention", "dtype"), [("sdpa", torch.float32), ("eager", torch.bfloat16)])
@pytest.mark.parametrize("name", models.SMALL)
def test_a_policy_that_never_fires_changes_no_bit(name: str, attention: str, dtype: torch.dtype) -> None:
    """Catches features, positions, masks or additions behind layers that are not the stock model's."""
    model = models.family(name, attention=attention, dtype=dtype)
    inputs = models.batch(model, [2], sizes=[(120, 44)])
    with torch.no_grad():
        stock = model(**inputs).logits
        handle = blink.attach(model, blink.Policy.never(range(5)))
        assert torch.equal(model(**inputs).logits, stock)
        assert len(handle.trace[0]) == 5


@pytest.mark.parametrize("name", models.SMALL)
def test_prompts_enter_layer_0_as_in_the_stock_model(name: str) -> None:
    """Catches visual tokens of another picture, or in another order."""
    model = models.family(name)
    backbone = Backbone(model, models.processor(model))
    inputs = models.batch(model, [1, 2, 3], sizes=SIZES)
    with torch.no_grad():
        want = model(**inputs, output_hidden_states=True).hidden_states[0]
        embedded = embed_prompt(backbone, inputs["input_ids"], encode_image(backbone, inputs))
    valid_BS = inputs["attention_mask"] != 0
    torch.testing.assert_close(embedded.hidden_BSd[valid_BS], want[valid_BS])
    assert sorted(embedded.added) == ([0, 1, 2] if name == "qwen3_vl" else [])


@pytest.mark.parametrize("name", models.SMALL)
def test_regions_of_the_base_view_are_regions_of_the_picture(name: str) -> None:
    """Catches a base view that is a tile, starts a token early or late, or is read column by column."""
    model = models.family(name)
    backbone = Backbone(model, models.processor(model))
    plain = Image.new("RGB", (120, 80), (90, 120, 60))
    prompt = models.prompt(1, processor=backbone.processor)

    def base_view(picture: Image.Image) -> tuple[torch.Tensor, tuple[int, int]]:
        inputs = backbone.processor(images=[[picture]], text=[prompt], return_tensors="pt")
        spans = prompt_spans(backbone, inputs, None)
        with torch.no_grad():
            embedded = embed_prompt(backbone, inputs["input_ids"], encode_image(backbone, inputs))
        return spans.visual(embedded.hidden_BSd, spans.grids[0])[0], spans.grids[0]

    before_Vd, (H, W) = base_view(plain)
    for region, corner in enumerate([(0, 0), (60, 0), (0, 40), (60, 40)]):
        changed = plain.copy()
        # Its middle, so that padding, cropping and borders of tokens do not matter.
        changed.paste(models.noise(region, (36, 24)), (corner[0] + 12, corner[1] + 8))
        after_Vd, _ = base_view(changed)
        difference_HW = (after_Vd - before_Vd).norm(dim=1).view(H, W)
        row, column = divmod(int(difference_HW.argmax()), W)
        assert (row >= H / 2, column >= W / 2) == (region >= 2, region % 2 == 1), (region, row, column)


@pytest.mark.parametrize("name", models.SMALL)
def test_several_pictures_are_refused(name: str) -> None:
    """Catches two pictures taken for one, as where the tiles of one stand apart."""
    model = models.family(name)
    processor = models.processor(model)
    turn = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "a b"}]
    if processor.chat_template is None:
        prompt = "USER: <image><image>\na ASSISTANT:"
    else:
        prompt = processor.apply_chat_template(
            [{"role": "user", "content": turn}], add_generation_prompt=True
        )
    pictures = [models.picture(1, (60, 60)), models.picture(2, (120, 44))]
    inputs = processor(images=[pictures], text=[prompt], return_tensors="pt")
    blink.attach(model, blink.Policy([1]))
    with pytest.raises(ValueError, match=r"image|images"):
        model(**inputs)


def test_a_picture_that_is_too_narrow_is_named() -> None:
    """Catches regions without a cell; the rest of the batch is not to blame."""
    model = models.family("qwen2_vl")
    blink.attach(model, blink.Policy([1], patches=4))
    inputs = models.batch(model, [1, 2], sizes=[(60, 60), (200, 24)])
    with pytest.raises(ValueError, match=r"row 1 of the prompt: patches=4 does not fit the \d x \d+ grid"):
        model(**inputs)
    engine = blink.Engine(model, models.processor(model))
    prompt = models.prompt(1, processor=models.processor(model))
    runs = [blink.Run(blink.Policy([1], patches=4))]
    with pytest.raises(ValueError, match="patches=4 does not fit"):
        engine.answer(models.picture(1, (200, 24)), [prompt], runs, max_new_tokens=1)


def test_interleaved_generations_keep_their_own_positions() -> None:
    """Catches the stock model's way to keep what positions follow from on the model, where another prompt changes it."""
    model = models.family("qwen2_5_vl")
    blink.attach(model, blink.Policy(range(5), tau_exp=0.3, tau_drop=0.28))
    one = models.batch(model, [1], sizes=[(60, 60)])
    other = models.batch(model, [2], sizes=[(120, 44)])
    with torch.no_grad():
        alone = model(**one, use_cache=True)
        token = alone.logits[:, -1:].argmax(dim=-1)
        after_alone = model(input_ids=token, **{CACHE: alone[CACHE]}).logits
        first = model(**one, use_cache=True)
        model(**other)
        after = model(input_ids=token, **{CACHE: first[CACHE]}).logits
    assert torch.equal(after, after_alone)


def test_towers_that_leave_no_grid_are_refused() -> None:
    """Catches a grid that lacks a cell, and rows that are broken by a token of their own."""
    model = models.family("llava_siglip")
    model.config.vision_feature_select_strategy = "default"
    with pytest.raises(ValueError, match=r"siglip.*no class token.*needs 'full'"):
        blink.attach(model, blink.Policy([1]))
    vision = PixtralVisionConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=24,
        patch_size=4,
    )
    text = models.llava(layers=2).config.text_config
    pixtral = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text))
    with pytest.raises(ValueError, match=r"Pixtral.*break token"):
        blink.attach(pixtral, blink.Policy([1]))


def test_a_wrapped_model_is_refused_by_name() -> None:
    """Catches a message that lists classes to somebody who has one of them inside a PEFT model."""

    class PeftModel(torch.nn.Module):
        def get_base_model(self) -> Any:
            return models.llava(layers=2)

    with pytest.raises(ValueError, match=r"PeftModel.*get_base_model\(\)"):
        blink.attach(PeftModel(), blink.Policy([1]))
