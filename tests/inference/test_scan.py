"""Scans that wait for the end of a pass against scans that decide at each layer."""

from typing import Any

import pytest
import torch

import blink
from tests import models

LAYERS = (0, 1, 3)


def events(model: Any, inputs: Any, policy: blink.Policy, **kwargs: Any) -> list[list[blink.Event]]:
    """Of a prompt pass."""
    handle = blink.attach(model, policy)
    with torch.no_grad():
        model(**inputs, **kwargs)
    handle.detach()
    return handle.trace


def compare(model: Any, inputs: Any, saliency: str = "attention", **kwargs: Any) -> None:
    """A policy that never expands against one that may, and does not."""
    waiting = events(model, inputs, blink.Policy.never(LAYERS, saliency=saliency), **kwargs)
    at_once = events(model, inputs, blink.Policy(LAYERS, 0.9999, 0.0, saliency=saliency), **kwargs)
    assert [len(of_row) for of_row in waiting] == [len(LAYERS)] * len(inputs["input_ids"])
    for of_row, expected in zip(waiting, at_once, strict=True):
        assert [(e.layer, e.region, e.action) for e in of_row] == [
            (e.layer, e.region, e.action) for e in expected
        ]
        assert [e.ratio for e in of_row] == pytest.approx([e.ratio for e in expected], rel=1e-5)
    assert len({event.ratio for of_row in waiting for event in of_row}) == len(LAYERS) * len(waiting)


@pytest.mark.parametrize("saliency", ["attention", "similarity"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_scans_that_wait_give_the_same_events(saliency: str, use_cache: bool) -> None:
    """Would catch rows or layers that change places, and padding that is attended to."""
    model = models.llava(layers=4)
    inputs = models.batch(model, [0, 1, 2])  # prompts of several lengths, padded on the left
    assert not inputs["attention_mask"].all()
    compare(model, inputs, saliency, use_cache=use_cache)


@pytest.mark.parametrize("saliency", ["attention", "similarity"])
def test_scans_that_wait_know_the_grid_of_each_row(saliency: str) -> None:
    """Would catch regions of another row's picture: pictures of two sizes, in turn."""
    model = models.family("qwen2_vl", layers=4)
    inputs = models.batch(model, [0, 1, 2], [(40, 40), (40, 60), (40, 40)])
    compare(model, inputs, saliency)


def test_scans_that_wait_know_where_a_prompt_ends() -> None:
    """Would catch the query of an answer's last token, and keys behind the prompt."""
    model = models.llava(layers=4)
    inputs = models.batch(model, [0, 1])
    labels = inputs["input_ids"].clone()
    labels[:, :-3] = -100
    compare(model, inputs, labels=labels)


def test_layers_may_scale_their_scores_differently() -> None:
    """Would catch one layer's scaling for all."""
    model = models.llava(layers=4)
    for layer, block in enumerate(model.model.language_model.layers):
        block.self_attn.scaling *= 1 + layer
    compare(model, models.batch(model, [0, 1]))


@pytest.mark.parametrize("saliency", ["attention", "similarity"])
def test_a_scan_that_waits_changes_no_gradient(saliency: str) -> None:
    """Would catch a scan that is a part of what is trained."""
    model = models.llava(layers=4)
    inputs = models.batch(model, [0])
    labels = inputs["input_ids"].clone()
    labels[:, :-3] = -100
    weight = model.model.language_model.layers[1].self_attn.q_proj.weight
    gradients = []
    for policy in (None, blink.Policy.never(LAYERS, saliency=saliency)):
        handle = None if policy is None else blink.attach(model, policy)
        weight.grad = None
        model(**inputs, labels=labels).loss.backward()
        gradients.append(weight.grad.clone())
        if handle is not None:
            handle.detach()
    torch.testing.assert_close(*gradients, rtol=0, atol=0)
