"""The loss against hand-computed values."""

import math

import pytest
import torch

from blink.training.objective import distances, token_kl


def test_kl_of_two_channels_by_hand() -> None:
    """Catches KL(student || teacher), a sum over tokens, or a missing entropy of the teacher.

    Softmax of [log 3, 0] is [3/4, 1/4], of [0, 0] is [1/2, 1/2].
    """
    teacher = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])
    student = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    one_token = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert token_kl(student, teacher).item() == pytest.approx(one_token / 2, rel=1e-6)
    assert token_kl(teacher, teacher).item() == 0.0


def test_temperature_divides_both() -> None:
    """Catches a temperature applied to one side, or a loss scaled by its square."""
    teacher, student = torch.randn(2, 3, 4, 8, generator=torch.Generator().manual_seed(0))
    expected = token_kl(student / 2, teacher / 2)
    torch.testing.assert_close(token_kl(student, teacher, temperature=2.0), expected)


def test_low_precision_is_compared_in_float32() -> None:
    """Catches a softmax in bfloat16, whose KL is off by far more than rounding of the inputs."""
    teacher, student = torch.randn(2, 16, 64, generator=torch.Generator().manual_seed(1)).bfloat16()
    loss = token_kl(student, teacher)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, token_kl(student.double(), teacher.double()).float())


def test_distances_see_a_constant_that_kl_does_not() -> None:
    """Catches a report that calls shifted tokens a match: KL ignores a constant over channels."""
    teacher = torch.tensor([[3.0, 4.0]])
    shifted = teacher + 1.0
    found = distances(shifted, teacher, token_kl(shifted, teacher))
    assert found.kl.item() == pytest.approx(0.0, abs=1e-7)
    assert found.mse.item() == pytest.approx(1.0)
    assert found.cosine.item() == pytest.approx((3 * 4 + 4 * 5) / (5 * math.sqrt(41)))
    assert found.norm_ratio.item() == pytest.approx(math.sqrt(41) / 5)
