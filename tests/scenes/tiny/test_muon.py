"""Muon here makes the updates of torch's."""

import pytest
import torch

from blink.scenes.tiny.muon import Muon, orthogonalise


def test_updates_are_those_of_torch() -> None:
    """Would catch another momentum, scale, weight decay or iteration, and matrices mixed up in their batch."""
    torch.manual_seed(0)
    shapes = ((16, 16), (40, 16), (16, 40), (16, 16))
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [torch.nn.Parameter(weight.detach().clone()) for weight in ours]
    mine = Muon(ours, lr=0.02, weight_decay=0.1)
    reference = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        before = [weight.detach().clone() for weight in ours]
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        mine.step()
        reference.step()
        for one, other, old in zip(ours, theirs, before, strict=True):
            assert (one - other).norm() < 0.05 * (one - old).norm()  # theirs is in bfloat16


@pytest.mark.parametrize("shape", [(12, 30), (30, 12)])
def test_singular_values_come_near_one(shape: tuple[int, int]) -> None:
    """Would catch an iteration along the wrong side of a matrix."""
    values = torch.linalg.svdvals(orthogonalise(torch.randn(2, *shape, generator=torch.manual_seed(1)), 5))
    assert values.min() > 0.5
    assert values.max() < 1.3
