"""The trunk's features of views: one pass, no layer too many, and tensors that autograd takes."""

import torch

from blink.model.backbone import Backbone
from blink.model.views import ViewMaker, Views, join_views
from blink.model.visual_states import visual_states
from blink.training.features.states import trunk_features
from tests import models


def batch(processor: object, count: int) -> Views:
    make = ViewMaker(processor, "USER: ", (6, 6))
    return join_views([make(models.picture(seed)) for seed in range(count)])


def test_one_pass_serves_views_and_layers() -> None:
    """Would catch a layer that runs twice or in vain, views mixed up between images, and inference tensors."""
    model = models.llava(grid=6, layers=4, hidden=32)
    processor = models.processor(model)
    runs = [0] * 4
    for number, layer in enumerate(model.model.language_model.layers):
        layer.register_forward_hook(lambda *_, number=number: runs.__setitem__(number, runs[number] + 1))
    views = batch(processor, 2)
    (features,) = trunk_features(Backbone(model), views, (1, 3))
    states = features.states
    assert runs == [1, 1, 1, 0]
    assert {layer: tuple(state.shape) for layer, state in states.items()} == dict.fromkeys(
        (1, 3), (2, 5, 6, 6, 32)
    )
    (inputs,) = views.inputs
    third = {
        name: value[8:9] for name, value in inputs.items()
    }  # five views of the first image come before it
    lone = visual_states(Backbone(model), third, (3,))[3]
    torch.testing.assert_close(states[3][1, 3], lone[0].movedim(0, -1), rtol=1e-5, atol=1e-5)
    weight = torch.ones(32, requires_grad=True)
    (states[3] * weight).sum().backward()
    torch.testing.assert_close(weight.grad, states[3].flatten(0, -2).sum(0))
