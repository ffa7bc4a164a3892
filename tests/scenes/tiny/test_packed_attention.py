"""Attention over packed questions."""

import torch
from torch.nn import functional as F

from blink.scenes.tiny import packed_attention as packed


def test_packed_attention_is_attention_under_a_block_mask() -> None:
    """Would catch questions that see each other, or a prefix that sees the questions."""
    B, N, P, Q, T, D = 2, 3, 5, 4, 6, 8
    S = P + Q * T
    query, key, value = torch.randn(3, B, N, S, D).unbind()
    block_S = torch.cat((torch.full((P,), -1), torch.arange(Q).repeat_interleave(T)))
    sees_SS = torch.ones(S, S, dtype=torch.bool).tril()
    sees_SS &= (block_S[:, None] == block_S) | (block_S == -1)
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=sees_SS, scale=0.3)
    found, _ = packed.packed_attention(
        torch.nn.Identity(), query, key, value, None, scaling=0.3, question_length=T, prefix_length=P
    )
    torch.testing.assert_close(found, expected.transpose(1, 2))
