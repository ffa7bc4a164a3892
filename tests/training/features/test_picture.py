"""Tokens as colours: one basis for all that are compared."""

import numpy as np
import torch

from blink.training.features.picture import principal_colours


def test_equal_tokens_have_equal_colours() -> None:
    """Would catch parts that are each coloured in a basis of their own."""
    torch.manual_seed(0)
    same = torch.randn(8, 4, 4)
    coarse, interp, refined, teacher = principal_colours((same[:, :2, :2], same, same + 3, same))
    np.testing.assert_array_equal(interp, teacher)
    np.testing.assert_array_equal(coarse, teacher[:2, :2])
    assert not np.allclose(refined, teacher)
    shifted = principal_colours((same[:, :2, :2], same, same + 3, same), less_mean=True)
    np.testing.assert_allclose(shifted[2], shifted[3], atol=1e-5)
