"""One prompt through blink.attach against the literal Algorithm 1: events and logits."""

from typing import Any

import pytest
import torch

import blink
from tests import models
from tests.inference.oracle import comparison
from tests.inference.oracle import literal as oracle
from tests.inference.oracle.comparison import attached, check_prompt, modules_of, random_plan, rig, samples

SHAPES: dict[str, dict[str, Any]] = {
    "eager": {"attention": "eager"},
    "sdpa": {"attention": "sdpa"},
    "eager, grouped": {"attention": "eager", "kv_heads": 2},
    "sdpa, grouped": {"attention": "sdpa", "kv_heads": 2},
    "sdpa, wide heads, biases": {"kv_heads": 1, "head_dim": 20, "attention_bias": True},
    "mistral": {"text": "mistral", "kv_heads": 2},
}
PLANS = 24
ALWAYS: dict[str, Any] = {"tau_exp": 0.0, "tau_drop": 0.0}
NEVER: dict[str, Any] = {"tau_exp": 1.0, "tau_drop": 0.0}
DROP: dict[str, Any] = {"tau_exp": 1.0, "tau_drop": 1.0}


def drawn(seed: int) -> tuple[dict[str, Any], oracle.Plan, bool]:
    """The seed's model shape, plan and whether it has modules."""
    settings = list(SHAPES.values())[seed % len(SHAPES)]
    return settings, random_plan(seed, "llava", (2, 3, 4), **settings), seed % 3 > 0


@pytest.mark.parametrize("seed", range(PLANS))
def test_random_policies(seed: int) -> None:
    """Catches any departure from Algorithm 1 on one sample: scan, decision, cut, order, positions, masks."""
    settings, plan, trained = drawn(seed)
    pair = rig(**settings)
    modules = modules_of(pair.twin) if trained else None
    check_prompt(pair, models.batch(pair.model, [seed]), plan, modules)


@pytest.mark.parametrize("seed", range(PLANS))
def test_random_policies_in_batches(seed: int) -> None:
    """Catches rows that see each other's padding, extension, events or positions in a left-padded batch."""
    settings, plan, trained = drawn(seed)
    pair = rig(**settings)
    modules = modules_of(pair.twin) if trained else None
    inputs = models.batch(pair.model, [100 + 10 * seed + row for row in range(2 + seed % 4)])
    check_prompt(pair, inputs, plan, modules)


def test_random_policies_cover_every_transition() -> None:
    """Comparing what never expands, replaces, keeps or drops proves nothing: the cases above do all of it."""
    seen: set[str] = set()
    patches: set[tuple[int, str]] = set()
    differing = padded = undecided = rows = 0
    for seed in range(PLANS):
        settings, plan, trained = drawn(seed)
        twin = rig(**settings).twin
        modules = modules_of(twin) if trained else None
        inputs = models.batch(twin, [100 + 10 * seed + row for row in range(2 + seed % 4)])
        outcomes = [
            oracle.run(twin, sample.ids_S, sample.picture, plan, modules) for sample in samples(twin, inputs)
        ]
        rows += len(outcomes)
        padded += not inputs["attention_mask"].all()
        undecided += sum(any(step.margin < comparison.MARGIN for step in one.steps) for one in outcomes)
        for outcome in outcomes:
            seen |= comparison.transitions(outcome)
            patches |= {(plan.patches, step.action) for step in outcome.steps}
        actions = [tuple((step.action, step.region) for step in outcome.steps) for outcome in outcomes]
        differing += len(set(actions)) > 1
    assert seen == comparison.EVERY_TRANSITION
    assert patches == {(p, action) for p in (2, 3, 4) for action in ("expand", "keep", "drop")}
    assert differing >= PLANS // 3
    assert padded >= PLANS * 3 // 4
    assert undecided <= rows // 20


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(
    ("layers", "thresholds"),
    [
        ((0,), ALWAYS),
        ((4,), ALWAYS),
        ((0, 4), ALWAYS),
        ((0, 1, 2, 3, 4), ALWAYS),
        ((0, 1, 2, 3, 4), DROP),
        ((2,), {"schedule": "cycle"}),
        ((0, 1, 2, 3, 4), {"schedule": "cycle"}),
    ],
)
@pytest.mark.parametrize("patches", [2, 3, 4])
def test_ends_and_extremes(attention: str, layers: tuple[int, ...], thresholds: Any, patches: int) -> None:
    """Catches layers counted from 1, an extension that reaches the final norm, extensions that stack up."""
    pair = rig(attention=attention)
    plan = oracle.Plan(layers, patches=patches, **thresholds)
    outcomes = check_prompt(pair, models.batch(pair.model, [1, 2]), plan, modules_of(pair.twin))
    assert outcomes, "both rows were too close to a tie"


@pytest.mark.parametrize("saliency", ["attention", "similarity"])
@pytest.mark.parametrize("trained", [True, False])
def test_extension_without_resizing(saliency: str, trained: bool) -> None:
    """Catches interpolate=False that still resizes, or that leaves TokenSR out (Table 7)."""
    pair = rig(kv_heads=2)
    plan = oracle.Plan((0, 2, 3), patches=3, interpolate=False, saliency=saliency, **ALWAYS)
    modules = modules_of(pair.twin) if trained else None
    assert check_prompt(pair, models.batch(pair.model, [7, 8]), plan, modules)


def test_with_token_sr() -> None:
    """Catches a TokenSR that is applied in another layout than [B, d, H, W], or at another layer's place."""
    pair = rig()
    torch.manual_seed(0)
    modules: Any = {layer: blink.TokenSR(48) for layer in (1, 3)}
    plan = oracle.Plan((1, 3), **ALWAYS)
    assert check_prompt(pair, models.batch(pair.model, [1, 2, 3]), plan, modules)


@pytest.mark.parametrize("shape", SHAPES)
def test_off_is_off(shape: str) -> None:
    """Catches any change of the stock logits by a policy that scans every layer and never fires."""
    model = rig(**SHAPES[shape]).model
    inputs = models.batch(model, [11, 12, 13])
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        stock = model(**inputs).logits
        with attached(model, oracle.Plan((0, 1, 2, 3, 4), **NEVER)) as handle:
            ours = model(**inputs).logits
            assert [[event.action for event in row] for row in handle.trace] == [["keep"] * 5] * 3
    assert (ours - stock)[real].abs().max() <= 1e-5 * stock[real].abs().max()


@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_disabled_and_detached_are_the_stock_model(family: str) -> None:
    """Catches whatever attach leaves behind: logits must be the same bits, and attributes the same names."""
    model = getattr(models, family)(grid=6)
    names = set(vars(model)) | {f"model.{name}" for name in vars(model.model)}
    text_names = set(vars(model.model.language_model))
    inputs = models.batch(model, [1, 2])
    with torch.no_grad():
        stock = model(**inputs).logits
        generated = model.generate(**inputs, max_new_tokens=6)
        handle = blink.attach(model, blink.Policy(layers=[1, 2], **ALWAYS))
        assert not handle.trace
        assert not torch.equal(model(**inputs).logits, stock)
        assert len(handle.trace) == 2
        with handle.disabled():
            assert torch.equal(model(**inputs).logits, stock)
            assert torch.equal(model.generate(**inputs, max_new_tokens=6), generated)
            assert not handle.trace
        assert not torch.equal(model(**inputs).logits, stock)
        handle.detach()
        assert torch.equal(model(**inputs).logits, stock)
        assert torch.equal(model.generate(**inputs, max_new_tokens=6), generated)
    assert set(vars(model)) | {f"model.{name}" for name in vars(model.model)} == names
    assert set(vars(model.model.language_model)) == text_names


def test_disabled_ends_with_its_block() -> None:
    """Catches a model that stays stock after an exception inside `disabled()`."""
    model = rig().model
    inputs = models.batch(model, [1])
    with attached(model, oracle.Plan((1,), **ALWAYS)) as handle, torch.no_grad():
        ours = model(**inputs).logits
        with pytest.raises(KeyError), handle.disabled():
            raise KeyError
        assert torch.equal(model(**inputs).logits, ours)


def test_two_models_do_not_know_of_each_other() -> None:
    """Catches methods replaced on a class, and state kept in a module."""
    one, two = models.llava(grid=6), models.llava(grid=6, seed=1)
    inputs = models.batch(one, [1, 2])
    with torch.no_grad():
        stock = two(**inputs).logits
        with attached(one, oracle.Plan((1, 2), **ALWAYS)) as first:
            assert torch.equal(two(**inputs).logits, stock)
            alone = one(**inputs).logits
            with attached(two, oracle.Plan((3,), patches=3, **ALWAYS)) as second:
                two(**inputs)
                assert torch.equal(one(**inputs).logits, alone)
                assert [len(row) for row in first.trace] == [2, 2]
                assert [len(row) for row in second.trace] == [1, 1]
            assert torch.equal(two(**inputs).logits, stock)


def test_last_logits_only() -> None:
    """Catches a `logits_to_keep` that is ignored, or counted from the expanded sequence."""
    model = rig().model
    inputs = models.batch(model, [1, 2])
    with attached(model, oracle.Plan((1, 2), **ALWAYS)), torch.no_grad():
        whole = model(**inputs).logits
        last = model(**inputs, logits_to_keep=1).logits
        uncached = model(**inputs, use_cache=False).logits
    torch.testing.assert_close(last, whole[:, -1:], rtol=0, atol=1e-5)
    torch.testing.assert_close(uncached, whole, rtol=0, atol=1e-5)


def test_prompt_without_attention_mask() -> None:
    """Catches a prompt without a mask that is taken for padding: the stock model sees all tokens then."""
    model = rig().model
    inputs = models.batch(model, [4])
    with attached(model, oracle.Plan((1, 2), **ALWAYS)), torch.no_grad():
        with_mask = model(**inputs).logits
        without = model(input_ids=inputs["input_ids"], pixel_values=inputs["pixel_values"]).logits
    torch.testing.assert_close(without, with_mask, rtol=0, atol=1e-5)


def test_image_comes_first() -> None:
    """Catches a system span that must not be empty, or padding that is taken for one."""
    pair = rig(kv_heads=2)
    inputs = models.batch(pair.model, [1, 2, 3])
    before = (inputs["input_ids"] == pair.model.config.image_token_id).int().argmax(-1)
    for row in (0, 1):
        inputs["attention_mask"][row, : before[row]] = 0
    for row, sample in enumerate(samples(pair.twin, inputs)):
        assert (sample.ids_S[0] == pair.model.config.image_token_id) == (row < 2)
    assert check_prompt(pair, inputs, oracle.Plan((0, 2), **ALWAYS), modules_of(pair.twin))


def test_right_padding() -> None:
    """Catches a scan from a padding token, and rows that are taken to end together."""
    pair = rig()
    inputs = models.batch(pair.model, [1, 2, 3])
    turned = {**inputs}
    for name in ("input_ids", "attention_mask"):
        rows = [row[real] for row, real in zip(inputs[name], inputs["attention_mask"].bool(), strict=True)]
        turned[name] = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    assert not turned["attention_mask"][:, -1].all()
    assert check_prompt(pair, turned, oracle.Plan((1, 3), **ALWAYS), None)


def test_bfloat16_rounds_like_the_stock_model() -> None:
    """Catches a ratio or mask computed in half precision: errors stay of the stock model's size."""
    pair = rig(dtype=torch.bfloat16)
    exact = models.llava()
    exact.load_state_dict({name: weight.float() for name, weight in pair.model.state_dict().items()})
    inputs = models.batch(pair.model, [21, 22, 23])
    plan = oracle.Plan((1, 3), **ALWAYS)
    modules = modules_of(pair.model)
    with torch.no_grad():
        stock = pair.model(**inputs).logits
        with attached(pair.model, plan, modules) as handle:
            ours = pair.model(**inputs).logits
            trace = handle.trace
    assert ours.dtype == torch.bfloat16
    never = oracle.Plan((1, 3), **NEVER)
    stock_error = our_error = 0.0
    float_modules = {layer: module.float() for layer, module in modules.items()}
    for row, sample in enumerate(samples(exact, {**inputs, "pixel_values": inputs["pixel_values"].float()})):
        real = inputs["attention_mask"][row].bool()
        replay = {event.layer: (event.action, event.region) for event in trace[row]}
        want = oracle.run(exact, sample.ids_S, sample.picture, plan, float_modules, replay=replay)
        plain = oracle.run(exact, sample.ids_S, sample.picture, never).logits_SW
        our_error += float((ours[row][real].float() - want.logits_SW).square().mean())
        stock_error += float((stock[row][real].float() - plain).square().mean())
        for event, step in zip(trace[row], want.steps, strict=True):
            assert event.ratio == pytest.approx(step.ratio, abs=0.03)
    assert our_error <= 4 * stock_error
