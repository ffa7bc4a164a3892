"""Numbers that are hard on a scan: autocast, and states that are not finite."""

import itertools
from typing import Any

import pytest
import torch

import blink
from blink.inference.engine import Engine
from blink.inference.engine.decoding import NOT_FINITE, largest
from blink.inference.run import Run
from blink.inference.saliency import Decision, RowsOfSaliency, attention_row, scan_and_decide, similarity_row
from blink.runs.values import NotFiniteError
from tests import models

LAYERS = range(4)
POLICIES = [
    blink.Policy([1, 3], tau_exp=0, tau_drop=0),
    blink.Policy(LAYERS, tau_exp=0.4, tau_drop=0.3),
    blink.Policy(LAYERS, tau_exp=0.3, tau_drop=0.3, saliency="similarity"),
]


@pytest.fixture
def model() -> Any:
    """A small LLaVA: 6 x 6 grid, 4 layers, width 48."""
    return models.llava(grid=6, layers=4, kv_heads=2)


def test_rows_are_float32_under_autocast() -> None:
    """Catches a row of attention that autocast rounds to bfloat16: ratios near a threshold then flip."""
    torch.manual_seed(0)
    query, keys = torch.randn(2, 4, 8), torch.randn(2, 2, 50, 8)
    rows = [attention_row(query, [keys], None, 0.5), similarity_row(query, keys)]
    with torch.autocast("cpu", torch.bfloat16):
        found = [attention_row(query, [keys], None, 0.5), similarity_row(query, keys)]
    assert all(row.dtype == torch.float32 for row in found)
    assert all(torch.equal(*pair) for pair in zip(found, rows, strict=True))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("trained", [False, True])
def test_engine_and_attach_under_autocast(attention: str, trained: bool) -> None:
    """Catches products of mixed dtypes, and events that autocast moves further than it moves the stock model."""
    model = models.llava(grid=6, layers=4, kv_heads=2, attention=attention)
    torch.manual_seed(0)
    modules = {layer: blink.TokenSR(48) for layer in LAYERS} if trained else None
    runs = [Run(policy, modules) for policy in POLICIES]
    image, prompts = models.picture(1), [models.prompt(seed, system="a") for seed in range(3)]
    engine = Engine(model, models.processor(model))
    exact = engine.answer(image, prompts, runs, max_new_tokens=4)
    compared = 0
    with torch.autocast("cpu", torch.bfloat16):
        answers = engine.answer(image, prompts, runs, max_new_tokens=4)
        for number, run in enumerate(runs):
            for prompt, got, before in zip(prompts, answers[number], exact[number], strict=True):
                alone = engine.answer_alone(image, prompt, run, max_new_tokens=4)
                for one in (got, alone):
                    assert len(one.ids) == len(before.ids)
                    events = zip(one.events, before.events, strict=True)
                    if all(mine.action == theirs.action for mine, theirs in events):
                        ratios = [event.ratio for event in one.events]
                        assert ratios == pytest.approx([event.ratio for event in before.events], abs=0.03)
                        compared += 1
    assert compared >= 12


def _poisoned(model: Any, layer: int, value: float) -> Any:
    """The model, with one bad number among the weights of a layer's key projection."""
    weight = model.model.language_model.layers[layer].self_attn.k_proj.weight
    weight.data[0, 0] = value
    return model


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("policy", [*POLICIES, blink.Policy(LAYERS, schedule="cycle")])
def test_attach_names_layer_and_sample(model: Any, policy: blink.Policy, value: float) -> None:
    """Catches a ratio that is not a number, taken for a keep since it compares with no threshold."""
    inputs = models.batch(model, [1, 2])
    handle = blink.attach(_poisoned(model, 3, value), policy)
    with torch.no_grad(), pytest.raises(ValueError, match="layer 3, sample 0"):
        model(**inputs)
    with torch.no_grad(), pytest.raises(ValueError, match="layer 3, sample 0"):
        model.generate(**inputs, max_new_tokens=2, num_beams=2)
    with torch.no_grad(), handle.disabled():
        model(**inputs)


def test_the_row_that_is_bad_is_named(model: Any) -> None:
    """Catches an error that names the batch's first row, whichever it is."""
    inputs = models.batch(model, [1, 2, 3])
    blink.attach(model, POLICIES[0])
    inputs["pixel_values"][2] = float("nan")
    with torch.no_grad(), pytest.raises(ValueError, match="layer 1, sample 2"):
        model(**inputs)


def test_a_row_that_runs_apart_is_named(model: Any) -> None:
    """Catches a number that counts the rows which run together: those without an extension run first, by themselves."""
    inputs = models.batch(model, [1, 2])
    with torch.no_grad():
        handle = blink.attach(model, blink.Policy.never([1]))
        model(**inputs)
        ratios = [row[0].ratio for row in handle.trace]
        handle.detach()
        between = sum(ratios) / 2
        blink.attach(_poisoned(model, 3, float("nan")), blink.Policy([1, 3], tau_exp=between, tau_drop=0))
        with pytest.raises(ValueError, match=f"layer 3, sample {ratios.index(min(ratios))}"):
            model(**inputs)
        inputs = {name: tensor.flip(0) for name, tensor in inputs.items()}
        with pytest.raises(ValueError, match=f"layer 3, sample {ratios.index(max(ratios))}"):
            model(**inputs)


@pytest.mark.parametrize("policy", POLICIES)
def test_engine_names_layer_and_sample(model: Any, policy: blink.Policy) -> None:
    """Catches the engine's scans that keep where there is no ratio."""
    engine = Engine(_poisoned(model, 1, float("nan")), models.processor(model))
    prompts = [models.prompt(seed) for seed in range(2)]
    with pytest.raises(ValueError, match="layer 1, sample 0"):
        engine.answer(models.picture(1), prompts, [Run(policy)], max_new_tokens=2)


def _damage(model: Any, part: str, value: float) -> Any:
    """The model, with a row of bad numbers among the weights of a part, as a torn or badly converted checkpoint has."""
    language = model.model.language_model
    places = {
        "norm": language.norm.weight,
        "mlp": language.layers[2].mlp.down_proj.weight,
        "head": model.lm_head.weight,
        "vision": model.model.vision_tower.encoder.layers[0].mlp.fc1.weight,
        "projector": model.model.multi_modal_projector.linear_1.weight,
    }
    places[part].data.view(-1)[:48] = value
    return model


def _answer(engine: Engine, alone: bool, runs: list[Run]) -> None:
    """Two prompts under some runs, together or each by itself."""
    image, prompts = models.picture(1), [models.prompt(seed) for seed in range(2)]
    if not alone:
        engine.answer(image, prompts, runs, max_new_tokens=2)
    for prompt, run in itertools.product(prompts, runs) if alone else ():
        engine.answer_alone(image, prompt, run, max_new_tokens=2)


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["norm", "mlp", "head", "vision", "projector"])
def test_an_answer_of_bad_numbers_is_no_answer(model: Any, part: str, value: float, alone: bool) -> None:
    """Catches the first token of the vocabulary taken for an answer where no logit is a number: POPE counts it as right."""
    engine = Engine(_damage(model, part, value), models.processor(model))
    for run in (Run(), Run(blink.Policy.never([1]))):
        with pytest.raises(NotFiniteError, match=r"sample [01] .*(nan|inf)"):
            _answer(engine, alone, [run])


@pytest.mark.parametrize("alone", [False, True])
def test_bad_modules_stop_the_answer(model: Any, alone: bool) -> None:
    """Catches an extension of TokenSR's nan that text attends to, in the last scanned layer, which no later scan sees."""
    module = blink.TokenSR(48)
    next(module.parameters()).data.view(-1)[0] = float("nan")
    engine = Engine(model, models.processor(model))
    runs = [Run(), Run(blink.Policy([3], tau_exp=0), {3: module})]
    with pytest.raises(NotFiniteError, match="sample 0"):
        _answer(engine, alone, runs)


def test_largest_logit() -> None:
    """Catches a nan beside larger numbers, and masked tokens (-inf) taken for bad ones."""
    nan, inf = float("nan"), float("inf")
    logits = torch.tensor([[1.0, 3, -inf, 3], [nan, 5, 1, 0], [2, inf, 1, 0], [-inf, -inf, -inf, -inf]])
    assert largest(logits).tolist() == [1, NOT_FINITE, NOT_FINITE, NOT_FINITE]
    assert largest(logits.bfloat16()).tolist() == [1, NOT_FINITE, NOT_FINITE, NOT_FINITE]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_decision_names_its_sample(bad: float) -> None:
    """Catches an error that counts the rows of the saliency, which several samples may share or split."""
    saliency_BV = torch.ones(2, 16)
    saliency_BV[1, 5] = bad
    policy = blink.Policy([3])

    def saliency(_: str) -> list[RowsOfSaliency]:
        return [RowsOfSaliency([0, 1], (4, 4), saliency_BV)]

    assert scan_and_decide(saliency, [Decision(3, 0, policy, "", 6)])[0].ratio == 0.25
    with pytest.raises(ValueError, match=r"layer 3, sample 7.*(nan|inf)"):
        scan_and_decide(saliency, [Decision(3, 0, policy, "", 6), Decision(3, 1, policy, "", 7)])
