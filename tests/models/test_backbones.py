"""The random backbones of true width that costs are measured on."""

import pytest
import torch
from transformers import LlavaForConditionalGeneration

import blink
from blink.model.prompts import template_named
from tests import models


def test_full_size_is_the_published_one() -> None:
    """Would catch a width, vocabulary or vision tower that is not LLaVA-1.5-7B's, whose costs are then another's."""
    with torch.device("meta"):
        whole = LlavaForConditionalGeneration._from_config(models.published_config("llava15"))
    assert round(sum(weight.numel() for weight in whole.parameters()) / 1e6) == 7063
    layer = whole.model.language_model.layers[0]
    assert round(sum(weight.numel() for weight in layer.parameters()) / 1e6) == 202


@pytest.mark.slow
@pytest.mark.parametrize(("family", "visual"), [("llava15", 576), ("llava_next", 2340)])
def test_prompt_has_the_true_number_of_tokens_and_runs(family: str, visual: int) -> None:
    """Would catch a processor that does not fit its model, and weights that give nan.

    A 640 x 480 picture in LLaVA-NeXT: 576 tokens of the base view, and of 2 x 2 tiles 48 x 48 less 12 rows of padding,
    each row with a newline token: 36 x 49 = 1,764.
    """
    model = models.true_width(family, layers=2, vision_layers=2, hidden=128, dtype=torch.float32)
    inputs = models.processor(model)(
        images=models.noise(), text=template_named("vicuna_v1").prompt("what is it ?"), return_tensors="pt"
    )
    assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == visual
    handle = blink.attach(model, blink.Policy(layers=[1], tau_exp=0.0, tau_drop=0.0))
    with torch.inference_mode():
        logits = model(**inputs).logits
    assert torch.isfinite(logits).all()
    assert [event.action for event in handle.trace[0]] == ["expand"]
