"""A decoder of Llama's kind in explicit matrices: Llama, Mistral, Qwen2, Qwen3, and the Qwen-VL text models with M-RoPE.

It takes the weights of a stock text model and calls none of its methods. Every token has three position numbers
(time, row, column); where a model knows one only, the three are equal.

Axes: N tokens of one sample, D hidden, A query heads, E one head's width, F = E / 2 rotary frequencies.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def text_model(model: Any) -> Any:
    """The text model of a vision-language model: embeddings, layers and final norm."""
    return model.model.text_model if hasattr(model.model, "text_model") else model.model.language_model


def decoder_layer(config: Any, layer: Any, sequence_ND: Tensor, positions_3N: Tensor) -> Tensor:
    """One pre-norm decoder layer over the whole sequence, causal in its order."""
    normed_ND = normalise(layer.input_layernorm, sequence_ND)
    map_ANN = attention_map(config, layer.self_attn, normed_ND, positions_3N)
    mixed_ANE = map_ANN.to(sequence_ND.dtype) @ heads(config, layer.self_attn.v_proj, normed_ND, grouped=True)
    sequence_ND = sequence_ND + linear(layer.self_attn.o_proj, mixed_ANE.transpose(0, 1).flatten(1))
    normed_ND = normalise(layer.post_attention_layernorm, sequence_ND)
    assert config.hidden_act == "silu", config.hidden_act
    gated = F.silu(linear(layer.mlp.gate_proj, normed_ND)) * linear(layer.mlp.up_proj, normed_ND)
    return sequence_ND + linear(layer.mlp.down_proj, gated)


def attention_map(config: Any, attention: Any, normed_ND: Tensor, positions_3N: Tensor) -> Tensor:
    """Causal attention weights [A, N, N] in float32, one map for each query head."""
    query_ANE = heads(config, attention.q_proj, normed_ND, grouped=False)
    key_ANE = heads(config, attention.k_proj, normed_ND, grouped=True)
    if hasattr(attention, "q_norm"):
        query_ANE, key_ANE = normalise(attention.q_norm, query_ANE), normalise(attention.k_norm, key_ANE)
    query_ANE, key_ANE = rotate(config, query_ANE, positions_3N), rotate(config, key_ANE, positions_3N)
    count = len(normed_ND)
    scores_ANN = query_ANE.float() @ key_ANE.float().transpose(1, 2) / math.sqrt(query_ANE.shape[-1])
    future_NN = torch.arange(count)[None, :] > torch.arange(count)[:, None]
    return scores_ANN.masked_fill(future_NN, -math.inf).softmax(-1)


def similarity(config: Any, layer: Any, sequence_ND: Tensor) -> Tensor:
    """Eq. 1-2: products [N] of the last token's query with every key, over all heads, without rotary embedding."""
    normed_ND = normalise(layer.input_layernorm, sequence_ND)
    query_D = linear(layer.self_attn.q_proj, normed_ND)[-1]
    keys_ND = heads(config, layer.self_attn.k_proj, normed_ND, grouped=True).transpose(0, 1).flatten(1)
    return keys_ND.float() @ query_D.float() / math.sqrt(len(query_D))


def heads(config: Any, projection: nn.Linear, normed_ND: Tensor, grouped: bool) -> Tensor:
    """Project and split into [A, N, E]; `grouped` projections repeat a head for the queries that share it."""
    count = config.num_key_value_heads if grouped else config.num_attention_heads
    split = linear(projection, normed_ND).unflatten(1, (count, -1)).transpose(0, 1)
    sharing = config.num_attention_heads // count
    return torch.stack([split[head // sharing] for head in range(config.num_attention_heads)])


def rotate(config: Any, x_ANE: Tensor, positions_3N: Tensor) -> Tensor:
    """Rotary embedding: elements i and i + E/2 turn by theta^(-2i/E) times the position on frequency i's axis."""
    assert config.rope_parameters["rope_type"] == "default", config.rope_parameters
    width = x_ANE.shape[-1]
    turns_F = config.rope_parameters["rope_theta"] ** (-2 * torch.arange(width // 2) / width)
    angle_NF = positions_3N[axes(config, width // 2)].T * turns_F
    cos, sin = angle_NF.cos().to(x_ANE.dtype), angle_NF.sin().to(x_ANE.dtype)
    low, high = x_ANE[..., : width // 2], x_ANE[..., width // 2 :]
    return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1)


def axes(config: Any, count: int) -> list[int]:
    """Which of the three positions turns each of `count` frequencies.

    Qwen2-VL and Qwen2.5-VL cut the frequencies into three stretches; Qwen3-VL deals them out in turns (time, row,
    column), and those that are left when rows or columns have theirs go to time.
    """
    sections = config.rope_parameters.get("mrope_section")
    if sections is None:
        return [0] * count
    assert sum(sections) == count, (sections, count)
    if config.model_type != "qwen3_vl_text":
        return [axis for axis, section in enumerate(sections) for _ in range(section)]
    return [i % 3 if i // 3 < sections[i % 3] else 0 for i in range(count)]


def normalise(norm: Any, x: Tensor) -> Tensor:
    """Root-mean-square norm of the last axis with the module's weight."""
    scale = (x.float().square().mean(-1, keepdim=True) + norm.variance_epsilon).sqrt()
    return norm.weight * (x.float() / scale).to(x.dtype)


def linear(layer: nn.Linear, x_ND: Tensor) -> Tensor:
    """x W^T + b."""
    y_ND = x_ND @ layer.weight.T
    return y_ND if layer.bias is None else y_ND + layer.bias
