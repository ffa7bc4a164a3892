"""Algorithm 1 read literally: one sample, no cache, explicit matrices, nothing shared with src/blink.

It takes the weights of a stock vision-language model and does everything after the projector by itself: the decoder
(decoder.py), expansion and positions (extension.py), scan and decision. It is slow and small on purpose, and it is validated against the
stock models in test_oracle.py and test_oracle_stock.py.

A living extension is recomputed with the whole sequence at every step of decoding. It sits before the text
and attention is causal, so it comes out as it was at the prompt.

Axes: S tokens of the input, N tokens at one layer, D hidden, G visual tokens of the base grid, W words of the
vocabulary.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from blink.model.token_sr import Box as RegionBox
from blink.model.token_sr import Context
from tests.inference.oracle.crops import Original, boxed_region, crop_tokens
from tests.inference.oracle.decoder import attention_map, decoder_layer, normalise, similarity, text_model
from tests.inference.oracle.extension import Box, Extension, extend, positions, region_box
from tests.inference.oracle.pictures import Picture


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
    positions: str = "append"
    source: str = "coarse"
    selector: str = "saliency"


@dataclass(frozen=True)
class Step:
    """One scanned layer.

    Attributes:
        layer, ratio, region, action: what blink.Event holds.
        hottest: the arg max region, which differs from `region` only where a replay or a box said so.
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
    """What Algorithm 1 gives for one sample.

    Attributes:
        logits_SW: for the S input tokens.
        steps: one per scanned layer.
        rows: scanned layer -> saliency over the base grid.
        alive: whether an extension reached the end.
        entering: the base view's tokens [G, D] as they enter each layer.
    """

    logits_SW: Tensor
    steps: tuple[Step, ...]
    rows: dict[int, Tensor]
    alive: bool
    entering: tuple[Tensor, ...]


Replay = Mapping[int, tuple[str, int]]
Modules = Mapping[int, nn.Module]


@torch.no_grad()
def run(
    model: Any,
    ids_S: Tensor,
    picture: Picture,
    plan: Plan,
    modules: Modules | None = None,
    prompt_length: int | None = None,
    replay: Replay | None = None,
    original: Original | None = None,
) -> Outcome:
    """Run Algorithm 1 on one unpadded sequence.

    Args:
        ids_S: prompt tokens and, behind them, tokens that were generated so far, or an answer that is given.
        picture: with one feature for each image token of the prompt.
        modules: layer -> module [1, D, H, W] -> same shape; a layer without one inserts its input as it is.
        prompt_length: tokens of the prompt, whose last one scans; None: all of `ids_S`.
        replay: layer -> (action, region) that must be taken whatever the scan says.
        original: the picture before the processor, for plans that encode regions or go by a box.
    """
    decoder, config = text_model(model), model.config.text_config
    length = len(ids_S) if prompt_length is None else prompt_length
    image_at = (ids_S[:length] == model.config.image_token_id).nonzero()[:, 0]
    first, last = int(image_at[0]), int(image_at[-1])
    assert len(image_at) == len(picture.features_TD), (len(image_at), len(picture.features_TD))
    shown = image_at - first
    cells_G = shown[picture.base : picture.base + math.prod(picture.grid)]
    assert int(cells_G[-1] - cells_G[0]) == len(cells_G) - 1, "the base view's tokens are consecutive"

    embedded_SD = decoder.embed_tokens.weight[ids_S]
    system_ND = embedded_SD[:first]
    visual_ND = embedded_SD[first : last + 1].index_copy(0, shown, picture.features_TD)
    text_ND = embedded_SD[last + 1 :]
    nothing_ND = embedded_SD[:0]
    extension: Extension | None = None
    asked = length - last - 1

    steps: list[Step] = []
    rows: dict[int, Tensor] = {}
    entering: list[Tensor] = []
    for number, layer in enumerate(decoder.layers):
        entering.append(visual_ND[cells_G])
        if number in plan.layers:
            inserted_ND = nothing_ND if extension is None else extension.tokens_ND
            prompt_ND = torch.cat([system_ND, visual_ND, inserted_ND, text_ND[:asked]])
            positions_3N = positions(
                picture, cells_G, first, len(visual_ND), extension, asked, plan.positions
            )
            row_N = scan(config, layer, prompt_ND, positions_3N, first + cells_G, plan.saliency)
            rows[number] = row_N
            step = decide(plan, number, len(steps), row_N, picture.grid, extension is not None, replay)
            if plan.selector == "box" and step.action == "expand" and replay is None:
                assert original is not None
                step = replace(step, region=boxed_region(original, plan.patches, picture.grid))
            steps.append(step)
            if step.action == "expand":
                module = None if modules is None else modules.get(number)
                box = region_box(picture.grid, plan.patches, step.region)
                if plan.source == "encode":
                    assert original is not None
                    assert module is None
                    tokens_GD = crop_tokens(model, original, box, picture.grid, number)
                    extension = Extension(tokens_GD, picture.grid, box)
                else:
                    refine: Callable[[Tensor], Tensor] | None = module
                    if module is not None and getattr(module, "needs_crop", False):
                        assert original is not None
                        crop_GD = crop_tokens(model, original, box, picture.grid, 0)
                        refine = partial(
                            module, context=context_of(entering[number], box, picture.grid, crop_GD)
                        )
                    extension = extend(entering[number], picture.grid, box, plan.interpolate, refine)
            elif step.action == "drop":
                extension = None
        inserted_ND = nothing_ND if extension is None else extension.tokens_ND
        positions_3N = positions(
            picture, cells_G, first, len(visual_ND), extension, len(text_ND), plan.positions
        )
        sequence_ND = torch.cat([system_ND, visual_ND, inserted_ND, text_ND])
        sequence_ND = decoder_layer(config, layer, sequence_ND, positions_3N)
        sizes = [len(system_ND), len(visual_ND), len(inserted_ND), len(text_ND)]
        system_ND, visual_ND, inserted_ND, text_ND = sequence_ND.split(sizes)
        if extension is not None:
            extension = extension._replace(tokens_ND=inserted_ND)
        if number < len(picture.deepstack):
            visual_ND = visual_ND.index_add(0, shown, picture.deepstack[number])

    hidden_SD = normalise(decoder.norm, torch.cat([system_ND, visual_ND, text_ND]))
    logits_SW = hidden_SD @ model.lm_head.weight.T
    return Outcome(logits_SW, tuple(steps), rows, extension is not None, tuple(entering))


def generate(
    model: Any,
    ids_S: Tensor,
    picture: Picture,
    plan: Plan,
    modules: Modules | None,
    count: int,
    original: Original | None = None,
) -> tuple[list[int], float]:
    """Greedy decoding of `count` tokens with the events of the prompt, each by recomputing everything.

    Returns the tokens, up to and with the first end-of-sequence, and the smallest lead of a chosen logit.
    """
    prompt_length, end = len(ids_S), model.config.text_config.eos_token_id
    outcome = run(model, ids_S, picture, plan, modules, original=original)
    replay = replay_of(outcome)
    lead = math.inf
    while True:
        best, second = outcome.logits_SW[-1].topk(2).values.tolist()
        lead = min(lead, best - second)
        ids_S = torch.cat([ids_S, outcome.logits_SW[-1].argmax(keepdim=True)])
        if len(ids_S) == prompt_length + count or ids_S[-1] == end:
            return ids_S[prompt_length:].tolist(), lead
        outcome = run(model, ids_S, picture, plan, modules, prompt_length, replay, original)


def beam_search(
    model: Any,
    ids_S: Tensor,
    picture: Picture,
    plan: Plan,
    modules: Modules | None,
    count: int,
    beams: int,
) -> list[tuple[list[int], float]]:
    """The `beams` best continuations of `count` tokens with their summed log-probabilities, best first.

    Plain beam search without an end-of-sequence token: at every step the best `beams` of all extensions stay.
    """
    prompt_length = len(ids_S)
    replay = replay_of(run(model, ids_S, picture, plan, modules))
    hypotheses: list[tuple[list[int], float]] = [([], 0.0)]
    for _ in range(count):
        candidates: list[tuple[list[int], float]] = []
        for tokens, score in hypotheses:
            whole_S = torch.cat([ids_S, torch.tensor(tokens, dtype=ids_S.dtype)])
            outcome = run(model, whole_S, picture, plan, modules, prompt_length, replay)
            best = outcome.logits_SW[-1].float().log_softmax(-1).topk(beams)
            for gain, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                candidates.append(([*tokens, token], score + gain))
        hypotheses = sorted(candidates, key=lambda candidate: -candidate[1])[:beams]
    return hypotheses


def replay_of(outcome: Outcome) -> dict[int, tuple[str, int]]:
    """The events of `outcome` in the form that `run` replays."""
    return {step.layer: (step.action, step.region) for step in outcome.steps}


def scan(
    config: Any, layer: Any, sequence_ND: Tensor, positions_3N: Tensor, cells_G: Tensor, saliency: str
) -> Tensor:
    """Saliency [G] of the tokens at `cells_G`, for the last token's query (item 1)."""
    if saliency == "similarity":
        return similarity(config, layer, sequence_ND)[cells_G].softmax(0)
    assert saliency == "attention", saliency
    normed_ND = normalise(layer.input_layernorm, sequence_ND)
    return attention_map(config, layer.self_attn, normed_ND, positions_3N)[:, -1].mean(0)[cells_G]


def context_of(visual_GD: Tensor, box: Box, grid: tuple[int, int], crop_GD: Tensor) -> Context:
    """What a module is shown beside the region."""
    as_grid = [tokens_GD.T.reshape(1, -1, *grid) for tokens_GD in (visual_GD, crop_GD)]
    return Context(as_grid[0], [RegionBox(*box)], as_grid[1])


def decide(
    plan: Plan,
    layer: int,
    scans: int,
    saliency_G: Tensor,
    grid: tuple[int, int],
    alive: bool,
    replay: Replay | None,
) -> Step:
    """Region sums, ratio and action (items 2, 3, 9, 10); `scans` is the number of earlier scans."""
    p = plan.patches
    assert 2 <= p <= min(grid), (p, grid)
    shares = []
    for region in range(p * p):
        top, left, h, w = region_box(grid, p, region)
        inside = [saliency_G[y * grid[1] + x] for y in range(top, top + h) for x in range(left, left + w)]
        shares.append(float(sum(inside) / saliency_G.sum()))
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
