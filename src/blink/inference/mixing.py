"""Attention over keys that many rows share and keys of their own, none of them copied: the numbers of one softmax.

Pure functions of tensors: what the keys are of is known elsewhere.

Axes: b rows, T tokens of each, A query heads, K key heads, G = A / K, E width of one head, N keys of a block that all
rows share, M keys of a row's own, Q = G x T queries of a row that meet one key head, Z = b x Q.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from blink.inference.cache import KeysValues


def mix(
    query_bATE: Tensor,
    shared: Sequence[KeysValues],
    own: KeysValues,
    visible_bTM: Tensor,
    scaling: float,
) -> Tensor:
    """What each token takes from all that it sees: [b, A, T, E]. Softmax in float32.

    Args:
        query_bATE: rotated; A is a multiple of K.
        shared: blocks of keys and values [K, N, E] that every token of every row sees.
        own: keys and values of each row, [b, K, M, E].
        visible_bTM: bool, which of its row's own keys a token sees, at least one; [1, T, M] if rows do not differ.
        scaling: what attention multiplies its scores by.
    """
    b, A, T, E = query_bATE.shape
    K, M = own.keys.shape[1:3]
    G = A // K
    query_bKQE = query_bATE.reshape(b, K, G * T, E)
    query_KZE = query_bKQE.transpose(0, 1).reshape(K, b * G * T, E)
    scores = [(query_KZE @ block.keys.transpose(1, 2)).view(K, b, G, T, -1) for block in shared]
    own_bKGTM = (query_bKQE @ own.keys.transpose(2, 3)).view(b, K, G, T, M)
    own_bKGTM = own_bKGTM.masked_fill(~visible_bTM[:, None, None], float("-inf"))
    scores_KbGTN = torch.cat((*scores, own_bKGTM.transpose(0, 1)), dim=-1)
    weights_KbGTN = (scores_KbGTN.float() * scaling).softmax(dim=-1).to(query_bATE.dtype)
    *weights, own_KbGTM = weights_KbGTN.split([*(block.keys.shape[1] for block in shared), M], dim=-1)
    own_bKQM = own_KbGTM.transpose(0, 1).reshape(b, K, G * T, M)
    mixed_bATE = (own_bKQM @ own.values).view(b, A, T, E)
    for block, weights_KbGTn in zip(shared, weights, strict=True):
        mixed_KZE = weights_KbGTn.reshape(K, b * G * T, -1) @ block.values
        mixed_bATE = mixed_bATE + mixed_KZE.view(K, b, G * T, E).transpose(0, 1).reshape(b, A, T, E)
    return mixed_bATE
