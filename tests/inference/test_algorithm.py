"""The passes over prompts and steps: what they return, what they pass on to gradients, and what a generation holds."""

from typing import Any

import pytest
import torch
from torch import Tensor

import blink
from blink.model.backbone import CACHE
from tests import models
from tests.inference.handles import ALWAYS, NEVER


def test_beams_share_one_pass_over_their_prompt(model: Any) -> None:
    """Catches beams that see another cache than the prompt's: one beam of many is greedy search."""
    inputs = models.batch(model, [1, 2])
    blink.attach(model, ALWAYS)
    settings: dict[str, Any] = {"max_new_tokens": 1, "do_sample": False}
    one = model.generate(**inputs, **settings)
    many = model.generate(**inputs, **settings, num_beams=3, num_return_sequences=3)
    assert torch.equal(many[::3], one)


def test_hidden_states_are_those_of_the_input(model: Any) -> None:
    """Catches states with extensions in them, rows out of order, or a last state before the norm."""
    inputs = models.batch(model, [1, 2])
    valid = inputs["attention_mask"].bool()
    with torch.no_grad():
        stock = model(**inputs, output_hidden_states=True).hidden_states
        handle = blink.attach(model, NEVER)
        never = model(**inputs, output_hidden_states=True).hidden_states
        handle.detach()
        blink.attach(model, blink.Policy([2], tau_exp=0, tau_drop=0))
        outputs = model(**inputs, output_hidden_states=True)
    assert len(stock) == len(never) == len(outputs.hidden_states) == 5
    for layer in range(5):
        torch.testing.assert_close(never[layer][valid], stock[layer][valid], atol=1e-5, rtol=1e-5)
        assert outputs.hidden_states[layer].shape == stock[layer].shape
    torch.testing.assert_close(outputs.hidden_states[2], stock[2], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.lm_head(outputs.hidden_states[4]), outputs.logits)


def test_loss_and_gradients(model: Any) -> None:
    """Catches a forward that breaks training through the model: loss and gradients are the stock model's."""
    inputs = models.batch(model, [1])
    labels = inputs["input_ids"].clone()
    labels[:, :-3] = -100
    grads = []
    for policy in (None, NEVER):
        if policy is not None:
            blink.attach(model, policy)
        model.zero_grad()
        outputs = model(**inputs, labels=labels, use_cache=False)
        outputs.loss.backward()
        assert outputs.get(CACHE) is None
        grads.append((outputs.loss.detach(), model.lm_head.weight.grad.clone()))
    torch.testing.assert_close(grads[0], grads[1], atol=1e-5, rtol=1e-4)


def test_switching_off_does_not_reach_into_a_generation(model: Any) -> None:
    """Catches a running generation that changes its layers' masks when the handle changes."""
    inputs = models.batch(model, [1])
    handle = blink.attach(model, ALWAYS)
    step: dict[str, Any] = {"input_ids": torch.tensor([[25]])}
    with torch.no_grad():
        caches = [model(**inputs, use_cache=True)[CACHE] for _ in range(3)]
        want = model(**step, **{CACHE: caches[0]}).logits
        with handle.disabled():
            assert torch.equal(model(**step, **{CACHE: caches[1]}).logits, want)
        handle.detach()
        with pytest.raises(ValueError, match="attach the model again"):
            model(**step, **{CACHE: caches[2]})


def test_several_tokens_in_one_step(model: Any) -> None:
    """Catches steps that are counted by calls, so that what follows several tokens lies at the wrong place."""
    inputs = models.batch(model, [1, 2])
    blink.attach(model, ALWAYS)
    tokens_BS = torch.tensor([[5, 6, 7, 8], [9, 8, 7, 6]])

    def logits(pieces: tuple[int, ...]) -> Tensor:
        """Of the last token, when the tokens come in pieces of these lengths."""
        with torch.no_grad():
            out = model(**inputs, use_cache=True)
            mask_BS = inputs["attention_mask"]
            for piece_BS in tokens_BS.split(pieces, dim=1):
                mask_BS = torch.cat((mask_BS, torch.ones_like(piece_BS)), dim=1)
                out = model(input_ids=piece_BS, attention_mask=mask_BS, **{CACHE: out[CACHE]})
        last: Tensor = out.logits[:, -1]
        return last

    torch.testing.assert_close(logits((3, 1)), logits((1, 1, 1, 1)))
