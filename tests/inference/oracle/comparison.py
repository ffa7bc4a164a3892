"""Comparing blink.attach with the oracle: what is compared, how closely, and what is set aside.

Import as `from tests.inference.oracle import comparison`.
"""

import copy
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import blink
from tests import models
from tests.inference.oracle import literal as oracle
from tests.inference.oracle.ledger import LEDGER
from tests.inference.oracle.pictures import Picture, alone, see

MARGIN = 1e-5
"""Events whose ratio is this close to a threshold or a tie are undecided in float32 and set aside."""

TOLERANCE = 1e-4
"""Largest difference of a logit, as a share of the largest logit of its sample."""


class Rig(NamedTuple):
    """A model to attach to, and an untouched twin with the same weights for the oracle."""

    model: Any
    twin: Any


class Sample(NamedTuple):
    """One row of a batch without its padding, with its picture as the twin sees it."""

    ids_S: Tensor
    picture: Picture
    inputs: dict[str, Tensor]


@cache
def rig(family: str = "llava", **settings: Any) -> Rig:
    """One model and its twin per combination of a family and arguments of `models.llava`, `llava_next` or `family`."""
    plain = {"llava": models.llava, "llava_next": models.llava_next}
    model: Any = plain[family](**settings) if family in plain else models.family(family, **settings)
    return Rig(model, copy.deepcopy(model))


class Sharpen(nn.Module):
    """A stand-in for a trained TokenSR: [B, D, H, W] -> the same, by its seed and uneven in space."""

    def __init__(self, channels: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.mix = nn.Parameter(torch.randn(channels, channels, generator=generator) / channels**0.5)
        self.tilt = nn.Parameter(torch.randn(2, generator=generator))

    def forward(self, x_BDHW: Tensor) -> Tensor:
        height, width = x_BDHW.shape[-2:]
        rows = self.tilt[0] * torch.linspace(-1, 1, height, dtype=x_BDHW.dtype)[:, None]
        columns = self.tilt[1] * torch.linspace(-1, 1, width, dtype=x_BDHW.dtype)
        mixed_BDHW = torch.einsum("ed,bdhw->behw", self.mix, x_BDHW)
        return x_BDHW + torch.tanh(mixed_BDHW) * (1 + rows + columns)


@cache
def sharpeners(channels: int, layers: int) -> dict[int, nn.Module]:
    """One `Sharpen` per layer, all different."""
    return {layer: Sharpen(channels, 100 + layer).requires_grad_(False) for layer in range(layers)}


def modules_of(model: Any) -> dict[int, nn.Module]:
    """Sharpeners for every layer of `model`."""
    text = model.config.text_config
    modules = sharpeners(text.hidden_size, text.num_hidden_layers)
    return {layer: copy.deepcopy(module).to(model.dtype) for layer, module in modules.items()}


def policy(plan: oracle.Plan, **random: Any) -> blink.Policy:
    """The blink.Policy that says what `plan` says; `random` holds the fields that the oracle leaves out."""
    usual = asdict(oracle.Plan(()))
    said = {name: value for name, value in asdict(plan).items() if value != usual[name]}
    return blink.Policy(**{"layers": plan.layers, **said, **random})


@contextmanager
def attached(model: Any, plan: oracle.Plan | blink.Policy, token_sr: Any = None) -> Iterator[Any]:
    """A handle for the length of a block; the model is detached at its end."""
    handle = blink.attach(model, policy(plan) if isinstance(plan, oracle.Plan) else plan, token_sr=token_sr)
    try:
        yield handle
    finally:
        handle.detach()


def samples(twin: Any, inputs: dict[str, Tensor]) -> list[Sample]:
    """Each row of `inputs` alone: unpadded ids, the picture, and the tensors of a batch of one."""
    rows = []
    for row in range(len(inputs["input_ids"])):
        single = alone(twin, inputs, row)
        rows.append(Sample(single["input_ids"][0], see(twin, single), single))
    return rows


def transitions(outcome: oracle.Outcome) -> set[str]:
    """What happened, in words such as "drop living" or "expand nothing"."""
    seen = {f"{step.action} {'living' if step.alive else 'nothing'}" for step in outcome.steps}
    return seen | ({"alive at the end"} if outcome.alive else set())


EVERY_TRANSITION = {
    f"{action} {state}" for action in ("expand", "keep", "drop") for state in ("living", "nothing")
} | {"alive at the end"}


def undecided(outcome: oracle.Outcome) -> bool:
    """True, and counted, if an event of `outcome` is too close to call."""
    close = any(step.margin < MARGIN for step in outcome.steps)
    LEDGER.set_aside += close
    return close


def family_of(model: Any) -> str:
    """The family as transformers names it, with the vision tower where a family has several."""
    kind, tower = model.config.model_type, model.config.vision_config.model_type
    return f"{kind} {tower.split('_')[0]}" if kind == "llava" else kind


def check_events(events: Iterable[Any], outcome: oracle.Outcome, family: str | None = None) -> None:
    """Layer, action and region must be the oracle's; the ratio to 1e-5."""
    events = list(events)
    assert all(isinstance(event, blink.Event) for event in events)
    got = [(event.layer, event.action, event.region) for event in events]
    assert got == [(step.layer, step.action, step.region) for step in outcome.steps]
    for event, step in zip(events, outcome.steps, strict=True):
        LEDGER.worst_ratio = max(LEDGER.worst_ratio, abs(event.ratio - step.ratio))
        if family is not None:
            LEDGER.of_family(family, worst_ratio=abs(event.ratio - step.ratio))
        assert math.isclose(event.ratio, step.ratio, abs_tol=MARGIN), (event, step)
    LEDGER.steps += len(events)
    for transition in transitions(outcome):
        LEDGER.transitions[transition] = LEDGER.transitions.get(transition, 0) + 1


def check_logits(got_SW: Tensor, want_SW: Tensor, family: str | None = None) -> None:
    """Every logit within `TOLERANCE` of the sample's largest."""
    assert got_SW.shape == want_SW.shape
    difference = float((got_SW.float() - want_SW).abs().max() / want_SW.abs().max())
    LEDGER.worst = max(LEDGER.worst, difference)
    LEDGER.samples += 1
    if family is not None:
        LEDGER.of_family(family, 1, difference)
    assert difference <= TOLERANCE, f"logits differ by {difference:.2e} of the largest"


def check_prompt(
    pair: Rig, inputs: dict[str, Tensor], plan: oracle.Plan, modules: dict[int, nn.Module] | None
) -> list[oracle.Outcome]:
    """One attached forward over the batch `inputs` against the oracle on each row alone.

    Returns the oracle's outcomes of the rows that were compared; undecided rows are left out.
    """
    with attached(pair.model, plan, modules) as handle, torch.no_grad():
        logits_BSW = pair.model(**inputs).logits
        trace = handle.trace
    rows = samples(pair.twin, inputs)
    assert len(trace) == len(rows)
    compared = []
    for row, sample in enumerate(rows):
        outcome = oracle.run(pair.twin, sample.ids_S, sample.picture, plan, modules)
        if undecided(outcome):
            continue
        check_events(trace[row], outcome, family_of(pair.model))
        real_S = inputs["attention_mask"][row].bool()
        check_logits(logits_BSW[row][real_S], outcome.logits_SW, family_of(pair.model))
        compared.append(outcome)
    return compared


def check_generation(
    pair: Rig,
    inputs: dict[str, Tensor],
    plan: oracle.Plan,
    modules: dict[int, nn.Module] | None,
    **settings: Any,
) -> list[oracle.Outcome]:
    """One attached `generate` over the batch `inputs`: every step's logits against recomputing everything.

    The tokens are those that the model chose; one run of the oracle over prompt and tokens, with the events
    of the prompt, gives all the logits that each of these tokens must have been chosen from.
    """
    start = inputs["input_ids"].shape[1]
    with attached(pair.model, plan, modules) as handle:
        out = pair.model.generate(**inputs, **settings, output_logits=True, return_dict_in_generate=True)
        trace = handle.trace
    logits_BMW = torch.stack(out.logits, dim=1)
    end, pad = pair.model.generation_config.eos_token_id, pair.model.generation_config.pad_token_id
    compared = []
    for row, sample in enumerate(samples(pair.twin, inputs)):
        outcome = oracle.run(pair.twin, sample.ids_S, sample.picture, plan, modules)
        if undecided(outcome):
            continue
        check_events(trace[row], outcome, family_of(pair.model))
        tokens_M = out.sequences[row, start:]
        ended = (tokens_M == end).nonzero()[:, 0].tolist()
        count = ended[0] + 1 if ended else len(tokens_M)
        assert (tokens_M[count:] == pad).all()
        whole_S = torch.cat([sample.ids_S, tokens_M[: count - 1]])
        want = oracle.run(
            pair.twin,
            whole_S,
            sample.picture,
            plan,
            modules,
            len(sample.ids_S),
            oracle.replay_of(outcome),
        )
        check_logits(logits_BMW[row, :count], want.logits_SW[len(sample.ids_S) - 1 :], family_of(pair.model))
        compared.append(outcome)
    return compared


Sizes = tuple[tuple[int, int], ...]
"""Width and height of each picture."""


@cache
def ratios(
    family: str, patches: int, saliency: str, sizes: Sizes | None = None, **settings: Any
) -> np.ndarray:
    """Sorted ratios of a few samples at all layers when nothing fires: where thresholds split the actions."""
    twin = rig(family, **settings).twin
    layers = tuple(range(twin.config.text_config.num_hidden_layers))
    plan = oracle.Plan(layers, tau_exp=1.0, tau_drop=0.0, patches=patches, saliency=saliency, scale_tau=False)
    shapes = None if sizes is None else [sizes[i % len(sizes)] for i in range(4)]
    found = [
        step.ratio
        for sample in samples(twin, models.batch(twin, [901, 902, 903, 904], shapes))
        for step in oracle.run(twin, sample.ids_S, sample.picture, plan).steps
    ]
    return np.sort(found)


def random_plan(
    seed: int,
    family: str,
    choices: tuple[int, ...],
    *,
    sizes: Sizes | None = None,
    schemes: tuple[str, ...] = ("append",),
    **settings: Any,
) -> oracle.Plan:
    """A plan drawn from `seed`, its thresholds among the ratios that the model really has.

    Args:
        choices: patch counts to draw from.
        sizes: of the pictures whose ratios are taken.
        schemes: of positions, to draw from.
    """
    rng = np.random.default_rng(seed)
    count = rig(family, **settings).twin.config.text_config.num_hidden_layers
    size = int(rng.integers(1, count + 1))
    patches = int(rng.choice(choices))
    saliency = "similarity" if rng.random() < 0.25 else "attention"
    scale_tau = bool(rng.random() < 0.7)
    share_drop, share_exp = (float(share) for share in rng.uniform(0.1, 0.9, 2))
    found = ratios(family, patches, saliency, sizes, **settings)
    unit = patches * patches / 4 if scale_tau else 1.0
    return oracle.Plan(
        layers=tuple(sorted(int(layer) for layer in rng.choice(count, size, replace=False))),
        tau_exp=min(1.0, unit * float(np.quantile(found, share_exp))),
        tau_drop=min(1.0, unit * float(np.quantile(found, share_drop))),
        patches=patches,
        saliency=saliency,
        interpolate=bool(rng.random() < 0.8),
        schedule="cycle" if rng.random() < 0.15 else "threshold",
        scale_tau=scale_tau,
        positions=str(rng.choice(schemes)),
    )
