"""How often the host reads from the device during a prompt pass: on a GPU it waits each time."""

from typing import Any

import pytest
import torch

import blink
from blink.runs.values import NotFiniteError
from tests import models
from tests.host_reads import host_reads

SCANNED = (1, 2, 4)


def reads(model: Any, inputs: Any) -> int:
    """Of a prompt pass, the second one: what the first finds out about the model is kept."""

    def run() -> None:
        model(**inputs, use_cache=True, logits_to_keep=1)

    host_reads(run)
    return host_reads(run).total()


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_a_pass_in_which_nothing_can_fire_reads_once_more_than_stock(family: str, rows: int) -> None:
    """Catches a read per scanned layer where no decision can change anything, and several for where the spans lie.

    One read, in place of the stock model's look at a mask that hides nothing, tells where the spans lie; one after the last
    layer gives all ratios. A mask that hides padding is looked at as in the stock model, too.
    """
    model: Any = getattr(models, family)(layers=5)
    inputs = models.batch(model, list(range(rows)))
    stock = reads(model, inputs)
    handle = blink.attach(model, blink.Policy.never(SCANNED))
    assert reads(model, inputs) <= stock + (1 if rows == 1 else 2)
    assert [[event.action for event in events] for events in handle.trace] == [["keep"] * 3] * rows


@pytest.mark.parametrize(("tau_exp", "taken"), [(0.0, "expand"), (0.999, "keep")])
def test_otherwise_once_per_scanned_layer(tau_exp: float, taken: str) -> None:
    """Catches a scan that reads saliency by region and by row, and expansions that read where they are."""
    model = models.llava(layers=5)
    inputs = models.batch(model, [0])
    stock = reads(model, inputs)
    handle = blink.attach(model, blink.Policy(SCANNED, tau_exp, 0.0))
    assert reads(model, inputs) <= stock + len(SCANNED)
    assert [event.action for event in handle.trace[0]] == [taken] * 3


def test_pictures_of_several_sizes_are_read_together() -> None:
    """Catches a read for each grid in a batch."""
    model = models.family("qwen2_vl")
    inputs = models.batch(model, [0, 1], [(40, 40), (40, 60)])
    handle = blink.attach(model, blink.Policy((1,), 0.999, 0.0))
    one_layer = reads(model, inputs)
    handle.detach()
    blink.attach(model, blink.Policy((0, 1), 0.999, 0.0))
    assert reads(model, inputs) == one_layer + 1


def test_a_ratio_that_waits_is_checked() -> None:
    """Catches nan that passes for "keep" since its check comes after the last layer, or a message for the wrong layer."""
    model = models.llava(layers=5)
    inputs = models.batch(model, [0, 1])
    blink.attach(model, blink.Policy.never(SCANNED))
    with torch.no_grad():
        model.model.language_model.layers[2].self_attn.q_proj.weight.fill_(float("nan"))
        with pytest.raises(NotFiniteError, match="layer 2"):
            model(**inputs)
