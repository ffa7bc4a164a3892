"""Attention over many questions packed behind one picture: each attends to the prefix and to itself only.

Equal to a block mask over the whole sequence, at a fraction of its work. Registered with transformers
under the name ``packed_questions``; used in training only.

Legend: B pictures, N heads, S tokens = P prefix + Q questions x T tokens, D channels of a head.
"""

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "packed_questions"


def packed_attention(
    module: nn.Module,
    query_BNSD: torch.Tensor,
    key_BNSD: torch.Tensor,
    value_BNSD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    question_length: int,
    prefix_length: int,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """Attend causally inside the prefix, and from each question to the prefix and to itself.

    ``attention_mask`` is ignored: the mask follows from the two lengths.
    """
    B, N, S, D = query_BNSD.shape
    P, T = prefix_length, question_length
    Q = (S - P) // T
    prefix_k_BNPD, prefix_v_BNPD = key_BNSD[:, :, :P], value_BNSD[:, :, :P]
    score_BNSP = (query_BNSD @ prefix_k_BNPD.transpose(-1, -2)).float() * scaling
    past_BNPP = score_BNSP[:, :, :P] + _causal(P, query_BNSD.device)
    prefix_BNPD = past_BNPP.softmax(-1).to(value_BNSD.dtype) @ prefix_v_BNPD

    # Scores of questions against the prefix and against themselves are made apart and share one softmax.
    own_q, own_k, own_v = (
        part[:, :, P:].reshape(B, N, Q, T, D) for part in (query_BNSD, key_BNSD, value_BNSD)
    )
    own_BNQTT = (own_q @ own_k.transpose(-1, -2)).float() * scaling + _causal(T, query_BNSD.device)
    score_BNQTP = score_BNSP[:, :, P:].reshape(B, N, Q, T, P)
    weight = torch.cat((score_BNQTP, own_BNQTT), dim=-1).softmax(-1).to(value_BNSD.dtype)
    text_BNSD = (weight[..., :P].reshape(B, N, Q * T, P) @ prefix_v_BNPD).reshape(B, N, Q, T, D)
    text_BNSD = (text_BNSD + weight[..., P:] @ own_v).reshape(B, N, Q * T, D)
    return torch.cat((prefix_BNPD, text_BNSD), dim=2).transpose(1, 2).contiguous(), None


def _causal(length: int, device: torch.device) -> torch.Tensor:
    """Additive causal mask: 0 on and below the diagonal, -inf above, [length, length]."""
    return torch.full((length, length), float("-inf"), device=device).triu(1)


ALL_ATTENTION_FUNCTIONS.register(NAME, packed_attention)
