"""Algorithm 1 read literally: one sample, no cache, explicit matrices, nothing shared with src/blink.

It takes the weights of a stock LLaVA or LLaVA-NeXT with a Llama-like decoder and does everything after the
projector by itself: norms, rotary embedding, full attention maps, masks, scan, decision, expansion. It is
slow and small on purpose, and it is validated against the stock models in test_oracle.py.

A living extension is recomputed with the whole sequence at every step of decoding. It sits before the text
and attention is causal, so it comes out as it was at the prompt.

Axes: S tokens of the input, N tokens at one layer, D hidden, A heads, E one head's width, G visual tokens of
the base grid, R regions, W words of the vocabulary, H x W grid, h x w region.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Plan:
    """What decides the events; fields of blink.Policy under the same names, less the random ones."""

    layers: tuple[int, ...]
    tau_exp: float = 0.5
    tau_drop: float = 0.4
    patches: int = 2
    saliency: str = "attention"
    interpolate: bool = True
    schedule: str = "threshold"
    scale_tau: bool = True


@dataclass(frozen=True)
class Step:
    """One scanned layer.

    Attributes:
        layer, ratio, region, action: what blink.Event holds.
        hottest: the arg max region, which differs from `region` only where a replay said so.
        margin: distance of the ratio from the nearer threshold, or of the hottest region's share of the
            saliency from the second's, whichever is smaller. Below rounding errors the event is undecided.
        alive: whether an extension lived when the layer was entered.
    """

    layer: int
    ratio: float
    region: int
    action: str
    hottest: int
    margin: float
    alive: bool


@dataclass(frozen=True)
class Outcome:
    """Logits for the S input tokens, one step per scanned layer, and each scan's saliency row.

    `rows[layer]` is the saliency over the base grid; `alive` tells whether an extension reached the end.
    """

    logits_SW: Tensor
    steps: tuple[Step, ...]
    rows: dict[int, Tensor]
    alive: bool


Replay = Mapping[int, tuple[str, int]]
Modules = Mapping[int, nn.Module]


@torch.no_grad()
def image_features(model: Any, pixel_values: Tensor, image_sizes: Tensor | None = None) -> Tensor:
    """The projected features [tokens, D] of one image, from the stock model."""
    sizes = {} if image_sizes is None else {"image_sizes": image_sizes}
    return model.get_image_features(pixel_values=pixel_values, return_dict=True, **sizes).pooler_output[0]


@torch.no_grad()
def run(
    model: Any,
    ids_S: Tensor,
    features_TD: Tensor,
    plan: Plan,
    modules: Modules | None = None,
    prompt_length: int | None = None,
    replay: Replay | None = None,
) -> Outcome:
    """Run Algorithm 1 on one unpadded sequence.

    Args:
        ids_S: prompt tokens and, behind them, tokens that were generated so far, or an answer that is given.
        features_TD: the image's features, one for each image token of the prompt.
        modules: layer -> module [1, D, H, W] -> same shape; a layer without one inserts its input as it is.
        prompt_length: tokens of the prompt, whose last one scans; None: all of `ids_S`.
        replay: layer -> (action, region) that must be taken whatever the scan says.
    """
    config = model.config
    decoder = model.model.language_model
    length = len(ids_S) if prompt_length is None else prompt_length
    image_at = (ids_S[:length] == config.image_token_id).nonzero()[:, 0]
    first, last = int(image_at[0]), int(image_at[-1])
    assert len(image_at) == last - first + 1 == len(features_TD), "one image whose tokens are consecutive"
    side = config.vision_config.image_size // config.vision_config.patch_size

    embedded_SD = decoder.embed_tokens.weight[ids_S]
    system_ND = embedded_SD[:first]
    visual_ND = features_TD
    extension_ND = embedded_SD[:0]
    text_ND = embedded_SD[last + 1 :]
    asked = length - last - 1

    steps: list[Step] = []
    rows: dict[int, Tensor] = {}
    for number, layer in enumerate(decoder.layers):
        if number in plan.layers:
            prompt_ND = torch.cat([system_ND, visual_ND, extension_ND, text_ND[:asked]])
            rows[number] = scan(config.text_config, layer, prompt_ND, first, side * side, plan.saliency)
            step = decide(plan, number, len(steps), rows[number], side, len(extension_ND) > 0, replay)
            steps.append(step)
            if step.action == "expand":
                module = None if modules is None else modules.get(number)
                extension_ND = extend(visual_ND[: side * side], side, step.region, plan, module)
            elif step.action == "drop":
                extension_ND = extension_ND[:0]
        sequence_ND = torch.cat([system_ND, visual_ND, extension_ND, text_ND])
        sequence_ND = decoder_layer(config.text_config, layer, sequence_ND)
        sizes = [len(system_ND), len(visual_ND), len(extension_ND), len(text_ND)]
        system_ND, visual_ND, extension_ND, text_ND = sequence_ND.split(sizes)

    hidden_SD = normalise(decoder.norm, torch.cat([system_ND, visual_ND, text_ND]))
    return Outcome(hidden_SD @ model.lm_head.weight.T, tuple(steps), rows, len(extension_ND) > 0)


def generate(
    model: Any, ids_S: Tensor, features_TD: Tensor, plan: Plan, modules: Modules | None, count: int
) -> tuple[list[int], float]:
    """Greedy decoding of `count` tokens with the events of the prompt, each by recomputing everything.

    Returns the tokens, up to and with the first end-of-sequence, and the smallest lead of a chosen logit.
    """
    prompt_length, end = len(ids_S), model.config.text_config.eos_token_id
    outcome = run(model, ids_S, features_TD, plan, modules)
    replay = replay_of(outcome)
    lead = math.inf
    while True:
        best, second = outcome.logits_SW[-1].topk(2).values.tolist()
        lead = min(lead, best - second)
        ids_S = torch.cat([ids_S, outcome.logits_SW[-1].argmax(keepdim=True)])
        if len(ids_S) == prompt_length + count or ids_S[-1] == end:
            return ids_S[prompt_length:].tolist(), lead
        outcome = run(model, ids_S, features_TD, plan, modules, prompt_length, replay)


def beam_search(
    model: Any,
    ids_S: Tensor,
    features_TD: Tensor,
    plan: Plan,
    modules: Modules | None,
    count: int,
    beams: int,
) -> list[tuple[list[int], float]]:
    """The `beams` best continuations of `count` tokens with their summed log-probabilities, best first.

    Plain beam search without an end-of-sequence token: at every step the best `beams` of all extensions stay.
    """
    prompt_length = len(ids_S)
    replay = replay_of(run(model, ids_S, features_TD, plan, modules))
    hypotheses: list[tuple[list[int], float]] = [([], 0.0)]
    for _ in range(count):
        candidates: list[tuple[list[int], float]] = []
        for tokens, score in hypotheses:
            whole_S = torch.cat([ids_S, torch.tensor(tokens, dtype=ids_S.dtype)])
            outcome = run(model, whole_S, features_TD, plan, modules, prompt_length, replay)
            best = outcome.logits_SW[-1].float().log_softmax(-1).topk(beams)
            for gain, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                candidates.append(([*tokens, token], score + gain))
        hypotheses = sorted(candidates, key=lambda candidate: -candidate[1])[:beams]
    return hypotheses


def replay_of(outcome: Outcome) -> dict[int, tuple[str, int]]:
    """The events of `outcome` in the form that `run` replays."""
    return {step.layer: (step.action, step.region) for step in outcome.steps}


def scan(config: Any, layer: Any, sequence_ND: Tensor, first: int, grid: int, saliency: str) -> Tensor:
    """Saliency of the `grid` visual tokens that start at `first`, for the last token's query (item 1)."""
    attention = layer.self_attn
    normed_ND = normalise(layer.input_layernorm, sequence_ND)
    if saliency == "similarity":
        query_D = linear(attention.q_proj, normed_ND)[-1]
        keys_ND = heads(config, attention.k_proj, normed_ND, grouped=True).transpose(0, 1).flatten(1)
        scores_N = keys_ND.float() @ query_D.float() / math.sqrt(len(query_D))
        return scores_N[first : first + grid].softmax(0)
    assert saliency == "attention", saliency
    return attention_map(config, attention, normed_ND)[:, -1].mean(0)[first : first + grid]


def decide(
    plan: Plan, layer: int, scans: int, saliency_G: Tensor, side: int, alive: bool, replay: Replay | None
) -> Step:
    """Region sums, ratio and action (items 2, 3, 9, 10); `scans` is the number of earlier scans."""
    p, cell = plan.patches, side // plan.patches
    assert cell * p == side, (p, side)
    sums = [
        sum(
            saliency_G[y * side + x]
            for y in range(cell * a, cell * a + cell)
            for x in range(cell * b, cell * b + cell)
        )
        for a in range(p)
        for b in range(p)
    ]
    shares = [float(value / saliency_G.sum()) for value in sums]
    ratio = max(shares)
    hottest = shares.index(ratio)
    scale = 4 / (p * p) if plan.scale_tau else 1.0
    distances = [ratio - sorted(shares)[-2]]
    if plan.schedule == "cycle":
        action = "expand" if scans % 2 == 0 else "drop"
    else:
        assert plan.schedule == "threshold", plan.schedule
        distances += [abs(ratio - plan.tau_exp * scale), abs(ratio - plan.tau_drop * scale)]
        if ratio > plan.tau_exp * scale:
            action = "expand"
        elif ratio < plan.tau_drop * scale:
            action = "drop"
        else:
            action = "keep"
    region = hottest
    if replay is not None:
        action, region = replay[layer]
    return Step(layer, ratio, region, action, hottest, min(distances), alive)


def extend(visual_GD: Tensor, side: int, region: int, plan: Plan, module: nn.Module | None) -> Tensor:
    """The extension [tokens, D]: cut out, resized, through the module, flattened row by row (item 4)."""
    cell = side // plan.patches
    top, left = region // plan.patches * cell, region % plan.patches * cell
    cut_DHW = torch.stack(
        [
            torch.stack([visual_GD[y * side + x] for x in range(left, left + cell)])
            for y in range(top, top + cell)
        ]
    ).permute(2, 0, 1)
    if plan.interpolate:
        weights_HH = bilinear_weights(cell, side)
        cut_DHW = torch.einsum("Yy,dyx,Xx->dYX", weights_HH, cut_DHW.float(), weights_HH).to(visual_GD.dtype)
    if module is not None:
        cut_DHW = module(cut_DHW[None])[0]
    return torch.stack([cut_DHW[:, y, x] for y in range(cut_DHW.shape[1]) for x in range(cut_DHW.shape[2])])


def bilinear_weights(small: int, large: int) -> Tensor:
    """Row i holds what the `small` samples of a line give to sample i of `large`, corners not aligned."""
    weights = torch.zeros(large, small)
    for i in range(large):
        place = min(max((i + 0.5) * small / large - 0.5, 0.0), small - 1.0)
        below = min(int(place), small - 1)
        above = min(below + 1, small - 1)
        weights[i, below] += 1 - (place - below)
        weights[i, above] += place - below
    return weights


def decoder_layer(config: Any, layer: Any, sequence_ND: Tensor) -> Tensor:
    """One pre-norm decoder layer over the whole sequence at positions 0..n-1, causal (item 6)."""
    normed_ND = normalise(layer.input_layernorm, sequence_ND)
    map_ANN = attention_map(config, layer.self_attn, normed_ND)
    mixed_ANE = map_ANN.to(sequence_ND.dtype) @ heads(config, layer.self_attn.v_proj, normed_ND, grouped=True)
    sequence_ND = sequence_ND + linear(layer.self_attn.o_proj, mixed_ANE.transpose(0, 1).flatten(1))
    normed_ND = normalise(layer.post_attention_layernorm, sequence_ND)
    gated = F.silu(linear(layer.mlp.gate_proj, normed_ND)) * linear(layer.mlp.up_proj, normed_ND)
    return sequence_ND + linear(layer.mlp.down_proj, gated)


def attention_map(config: Any, attention: Any, normed_ND: Tensor) -> Tensor:
    """Causal attention weights [A, N, N] in float32, one map for each query head."""
    query_ANE = rotate(config, heads(config, attention.q_proj, normed_ND, grouped=False))
    key_ANE = rotate(config, heads(config, attention.k_proj, normed_ND, grouped=True))
    count = len(normed_ND)
    scores_ANN = query_ANE.float() @ key_ANE.float().transpose(1, 2) / math.sqrt(query_ANE.shape[-1])
    future_NN = torch.arange(count)[None, :] > torch.arange(count)[:, None]
    return scores_ANN.masked_fill(future_NN, -math.inf).softmax(-1)


def heads(config: Any, projection: nn.Linear, normed_ND: Tensor, grouped: bool) -> Tensor:
    """Project and split into [A, N, E]; `grouped` projections repeat a head for the queries that share it."""
    count = config.num_key_value_heads if grouped else config.num_attention_heads
    split = linear(projection, normed_ND).unflatten(1, (count, -1)).transpose(0, 1)
    sharing = config.num_attention_heads // count
    return torch.stack([split[head // sharing] for head in range(config.num_attention_heads)])


def rotate(config: Any, x_ANE: Tensor) -> Tensor:
    """Rotary embedding of positions 0..N-1: elements i and i + E/2 turn by position * theta^(-2i/E)."""
    _, count, width = x_ANE.shape
    turns = config.rope_parameters["rope_theta"] ** (-2 * torch.arange(width // 2) / width)
    angle_NE = torch.arange(count)[:, None] * turns[None, :]
    cos, sin = angle_NE.cos().to(x_ANE.dtype), angle_NE.sin().to(x_ANE.dtype)
    low, high = x_ANE[..., : width // 2], x_ANE[..., width // 2 :]
    return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1)


def normalise(norm: Any, x_ND: Tensor) -> Tensor:
    """Root-mean-square norm with the module's weight."""
    scale = (x_ND.float().square().mean(-1, keepdim=True) + norm.variance_epsilon).sqrt()
    return norm.weight * (x_ND.float() / scale).to(x_ND.dtype)


def linear(layer: nn.Linear, x_ND: Tensor) -> Tensor:
    """x W^T + b."""
    y_ND = x_ND @ layer.weight.T
    return y_ND if layer.bias is None else y_ND + layer.bias
