"""Every design of TokenSR in inference: what a module is given, and the engine against attach."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import blink
from blink.model.backbone import Backbone
from blink.model.token_sr import KINDS, Context, make_token_sr
from blink.model.views import ViewMaker, join_views
from blink.model.visual_states import visual_states
from tests import models

ALWAYS = blink.Policy([1, 3], tau_exp=0, tau_drop=0, positions="region")


class Spy(nn.Module):
    """Keeps what it is given."""

    needs_context = True
    needs_crop = True

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Context] = []

    def forward(self, tokens_BdHW: Tensor, context: Context) -> Tensor:
        self.seen.append(context)
        return tokens_BdHW


def test_a_module_is_given_the_layers_tokens_and_the_crop_of_its_region() -> None:
    """Would catch tokens of another layer or after a replacement, and a crop of another region or behind some layers."""
    model = models.llava(grid=6)
    processor, image = models.processor(model), models.picture(2, (60, 60))
    spy = Spy()
    handle = blink.attach(Backbone(model, processor), blink.Policy([2], tau_exp=0, tau_drop=0), {2: spy})
    inputs = processor(images=image, text=models.prompt(2), return_tensors="pt")
    with handle.pictures([image]), torch.no_grad():
        model(**inputs)
    (event,) = handle.trace[0]
    handle.detach()
    (context,) = spy.seen
    backbone = Backbone(model, processor)
    prefix = models.prompt(2).partition("<image>")[0]
    views = join_views([ViewMaker(processor, prefix, (6, 6))(image)])
    states = visual_states(backbone, views.inputs[0], [0, 2])
    torch.testing.assert_close(context.visual_BdGg[0], states[2][0])
    assert context.crop_BdHW is not None
    torch.testing.assert_close(context.crop_BdHW[0], states[0][1 + event.region])
    row, column = divmod(event.region, 2)
    assert context.boxes == [(3 * row, 3 * column, 3, 3)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_engine_answers_as_attach_does(kind: str, name: str) -> None:
    """Would catch crops that the engine does not cut, or extensions shared between pictures."""
    model = models.family(name)
    processor = models.processor(model)
    torch.manual_seed(0)
    modules: dict[int, nn.Module] = {}
    for layer in ALWAYS.layers:
        modules[layer] = make_token_sr(kind, 48).requires_grad_(False)
        for weight in modules[layer].parameters():
            weight.normal_(std=0.1)
    image = models.picture(4, (60, 60))
    prompts = [models.prompt(seed, processor=processor) for seed in (1, 2)]
    engine = blink.Engine(model, processor)
    (answers,) = engine.answer(image, prompts, [blink.Run(ALWAYS, modules)], max_new_tokens=4)
    handle = blink.attach(Backbone(model, processor), ALWAYS, modules)
    settings: dict[str, Any] = {"do_sample": False, "max_new_tokens": 4}
    for prompt, answer in zip(prompts, answers, strict=True):
        inputs = processor(images=[[image]], text=[prompt], return_tensors="pt")
        with handle.pictures([image]):
            ids = model.generate(**inputs, **settings)[0, inputs["input_ids"].shape[1] :]
        assert answer.ids == tuple(ids.tolist())
        assert [event.region for event in answer.events] == [event.region for event in handle.trace[0]]
