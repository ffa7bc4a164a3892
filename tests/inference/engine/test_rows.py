"""Attention over shared and own keys against torch's attention over all of them side by side."""

import pytest
import torch
from torch.nn import functional as F

from blink.inference.cache import KeysValues
from blink.inference.engine.rows import attend_blocks


@pytest.mark.parametrize("causal", [True, False])
def test_equals_attention_over_copied_keys(causal: bool) -> None:
    """Would catch blocks that are normalised apart, heads that meet another group's keys, and a mask of another row."""
    torch.manual_seed(0)
    b, A, K, T, E, M = 3, 4, 2, 5, 8, 5 if causal else 7
    query_bATE = torch.randn(b, A, T, E)
    shared = [KeysValues(torch.randn(K, n, E), torch.randn(K, n, E)) for n in (6, 4)]
    own = KeysValues(torch.randn(b, K, M, E), torch.randn(b, K, M, E))
    if causal:
        visible_bTM = torch.ones(1, T, M, dtype=torch.bool).tril()
    else:
        visible_bTM = (torch.rand(b, T, M) > 0.4) | (torch.arange(M) == 0)
    keys, values = (
        torch.cat([*(block[part].expand(b, -1, -1, -1) for block in shared), own[part]], dim=2)
        for part in (0, 1)
    )
    seen = F.pad(visible_bTM.expand(b, -1, -1), (10, 0), value=True)[:, None]
    want = F.scaled_dot_product_attention(query_bATE, keys, values, seen, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(attend_blocks(query_bATE, shared, own, visible_bTM, 0.3), want)
